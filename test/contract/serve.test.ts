/** `rota serve` as a process: what it asks for before it opens to others, users while it runs, and its end. */
import { afterEach, expect, test } from "bun:test";
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { realClock } from "../../src/kernel/clock.ts";
import { isFault } from "../../src/kernel/errors.ts";
import { openEtcd } from "../../src/store/etcd.ts";
import type { EtcdOptions } from "../../src/store/etcd-client.ts";
import { isLoopback, parseListen, startServe } from "../../src/store/serve.ts";
import { makePki } from "../world/pki.ts";
import { freePort, until } from "../world/wait.ts";
import { call, failure } from "./suite.ts";

const ports = { clock: realClock(), log: () => undefined };
const main = join(import.meta.dir, "../../src/main.ts");
const cleanups: (() => unknown)[] = [];
afterEach(async () => {
  for (const clean of cleanups.splice(0).reverse()) await clean();
});

function stateDir(): string {
  const dir = mkdtempSync(join(tmpdir(), "rota-serve-"));
  cleanups.push(() => rmSync(dir, { recursive: true, force: true }));
  return dir;
}

async function rota(stdin: string, ...args: string[]): Promise<{ code: number; stdout: string; stderr: string }> {
  const run = Bun.spawn([process.execPath, main, ...args], {
    stdin: Buffer.from(stdin),
    stdout: "pipe",
    stderr: "pipe",
  });
  const [stdout, stderr] = await Promise.all([new Response(run.stdout).text(), new Response(run.stderr).text()]);
  return { code: await run.exited, stdout, stderr };
}

async function serve(...args: string[]) {
  const run = Bun.spawn([process.execPath, main, "serve", "--log-format", "json", ...args], {
    stdin: "ignore",
    stdout: "ignore",
    stderr: "pipe",
  });
  cleanups.push(async () => {
    run.kill("SIGKILL");
    await run.exited;
  });
  let text = "";
  const reading = (async () => {
    const decoder = new TextDecoder();
    for await (const piece of run.stderr) text += decoder.decode(piece, { stream: true });
  })();
  const events = () =>
    text
      .split("\n")
      .slice(0, -1)
      .map(
        (line) => JSON.parse(line) as { event: string; level: string; message: string; fields: Record<string, string> },
      );
  await until("it to serve", () => {
    if (run.exitCode !== null) throw new Error(text);
    return events().some(({ event }) => event === "serving");
  });
  return {
    pid: run.pid,
    events,
    text: () => text,
    async end() {
      run.kill("SIGTERM");
      await run.exited;
      await reading;
      return run.exitCode;
    },
  };
}

function client(options: EtcdOptions) {
  const store = openEtcd(options, ports);
  cleanups.push(() => store.close());
  return store;
}
const put = (key: string) => ({ then: [{ put: key, value: "v" }] });

test("on loopback it serves at once, ends on SIGTERM with exit code 0, and has everything when it starts again", async () => {
  const dir = stateDir();
  const listen = `127.0.0.1:${await freePort()}`;
  const first = await serve("--listen", listen, "--state-dir", dir);
  const store = client({ endpoints: [listen] });
  await store.txn(call(), put("k"));
  const taken = await rota("", "serve", "--listen", "127.0.0.1:0", "--state-dir", dir);
  expect(taken.code).toBe(1);
  expect(taken.stderr).toContain(`in use by rota serve (pid ${first.pid}) since`);
  expect(await first.end()).toBe(0);
  expect(isFault(await failure(store.range(call(), "k")), "store.away")).toBe(true);
  const second = await serve("--listen", listen, "--state-dir", dir);
  expect((await store.range(call(), "k")).kvs[0]?.value).toBe("v");
  expect(await second.end()).toBe(0);
}, 30_000);

test("an address that others can reach wants a user and TLS; both are made with one command each", async () => {
  const dir = stateDir();
  const port = await freePort();
  const refused = await rota("", "serve", "--listen", `0.0.0.0:${port}`, "--state-dir", dir);
  expect(refused.code).toBe(2);
  expect(refused.stderr).toContain("serve user add NAME");
  expect(readdirSync(dir)).not.toContain("tls");

  const added = await rota("s3cret\n", "serve", "user", "add", "web", "--prefix", "web/", "--state-dir", dir);
  expect(added).toMatchObject({ code: 0, stderr: "" });
  const server = await serve("--listen", `0.0.0.0:${port}`, "--state-dir", dir);
  const { fields } = server.events().find(({ event }) => event === "serving_ca")!;
  expect(fields.fingerprint).toMatch(/^([0-9A-F]{2}:){31}[0-9A-F]{2}$/);
  const ca = readFileSync(fields.ca_file!, "utf8");
  for (const file of ["ca.key", "server.key"]) expect(statSync(join(dir, "tls", file)).mode & 0o777).toBe(0o600);

  const endpoints = [`https://127.0.0.1:${port}`];
  const web = client({ endpoints, tls: () => ({ ca }), auth: { username: "web", password: () => "s3cret" } });
  await web.txn(call(), put("web/k"));
  expect(isFault(await failure(web.txn(call(), put("other"))), "store.refused")).toBe(true);
  expect(
    isFault(await failure(client({ endpoints, tls: () => ({ ca }) }).range(call(), "web/k")), "store.refused"),
  ).toBe(true);
  expect(isFault(await failure(client({ endpoints, tls: () => ({}) }).range(call(), "web/k")), "store.away")).toBe(
    true,
  );
  expect(
    isFault(await failure(client({ endpoints: [`http://127.0.0.1:${port}`] }).range(call(), "web/k")), "store.away"),
  ).toBe(true);

  expect((await rota("pw2", "serve", "user", "add", "two", "--state-dir", dir)).code).toBe(0);
  expect((await rota("pw2", "serve", "user", "add", "two", "--state-dir", dir)).stderr).toContain(
    "user name already exists",
  );
  expect(JSON.parse((await rota("", "serve", "user", "list", "--json", "--state-dir", dir)).stdout)).toEqual([
    { name: "two", rights: ["all keys"] },
    { name: "web", rights: ["web/*"] },
  ]);
  const two = client({ endpoints, tls: () => ({ ca }), auth: { username: "two", password: () => "pw2" } });
  expect((await two.range(call(), "web/k")).kvs).toHaveLength(1);
  const changed = await rota("changed", "serve", "user", "passwd", "web", "--json", "--state-dir", dir);
  expect(JSON.parse(changed.stdout)).toEqual({ changed: "web" });
  expect(isFault(await failure(web.range(call(), "web/k")), "store.refused")).toBe(true);
  expect((await rota("", "serve", "user", "remove", "two", "--state-dir", dir)).code).toBe(0);
  expect(isFault(await failure(two.range(call(), "web/k")), "store.refused")).toBe(true);
  expect((await rota("", "serve", "user", "add", "nopass", "--state-dir", dir)).code).toBe(64);
  expect(await server.end()).toBe(0);
  for (const secret of ["s3cret", "pw2", "changed"]) expect(server.text()).not.toContain(secret);

  const again = await serve("--listen", `0.0.0.0:${port}`, "--state-dir", dir);
  expect(again.events().find(({ event }) => event === "serving_ca")?.fields.fingerprint).toBe(fields.fingerprint);
  const back = client({ endpoints, tls: () => ({ ca }), auth: { username: "web", password: () => "changed" } });
  expect((await back.range(call(), "web/k")).kvs).toHaveLength(1);
  await again.end();
}, 60_000);

test("--insecure opens it to the network and says so loudly", async () => {
  const dir = stateDir();
  const port = await freePort();
  const server = await serve("--listen", `0.0.0.0:${port}`, "--state-dir", dir, "--insecure");
  const warning = server.events().find(({ event }) => event === "store_insecure");
  expect(warning).toMatchObject({ level: "warn", message: expect.stringContaining("INSECURE") });
  await client({ endpoints: [`127.0.0.1:${port}`] }).txn(call(), put("k"));
  await server.end();
}, 30_000);

test("given certificates are used, and with a client CA only its clients get in", async () => {
  const dir = stateDir();
  const pki = await makePki(join(dir, "pki"));
  const port = await freePort();
  const files = ["--tls-cert", pki.server.certFile, "--tls-key", pki.server.keyFile, "--tls-client-ca", pki.caFile];
  const server = await serve("--listen", `127.0.0.1:${port}`, "--state-dir", dir, ...files);
  expect(server.events().some(({ event }) => event === "serving_ca")).toBe(false);
  const endpoints = [`https://127.0.0.1:${port}`];
  const { ca, client: mine } = pki;
  await client({ endpoints, tls: () => ({ ca, cert: mine.cert, key: mine.key }) }).txn(call(), put("k"));
  const other = await makePki(join(dir, "other"));
  const stranger = client({ endpoints, tls: () => ({ ca, cert: other.client.cert, key: other.client.key }) });
  expect(await failure(stranger.range(call(), "k"))).toBeInstanceOf(Error);
  expect(await failure(client({ endpoints, tls: () => ({ ca }) }).range(call(), "k"))).toBeInstanceOf(Error);
  await server.end();
}, 30_000);

test("a client CA is asked on loopback too, and with --insecure: whoever names one does not want everybody", async () => {
  const dir = stateDir();
  const pki = await makePki(join(dir, "pki"));
  for (const [hostname, insecure] of [
    ["127.0.0.1", false],
    ["0.0.0.0", true],
  ] as const) {
    const options = { listen: `${hostname}:0`, stateDir: dir, insecure, called: "rota serve" };
    const served = startServe({ ...options, clientCaFile: pki.caFile }, ports);
    expect(served.url).toStartWith("https://");
    const endpoints = [served.url.replace("0.0.0.0", "127.0.0.1")];
    const ca = readFileSync(served.ca!.caFile, "utf8");
    const { cert, key } = pki.client;
    expect(await failure(client({ endpoints, tls: () => ({ ca }) }).range(call(), "k"))).toBeInstanceOf(Error);
    expect((await client({ endpoints, tls: () => ({ ca, cert, key }) }).range(call(), "k")).kvs).toEqual([]);
    await served.stop();
  }
}, 30_000);

test("files for TLS that cannot be used are named, and end it with exit code 2", async () => {
  const dir = stateDir();
  const { server, client: other } = await makePki(join(dir, "pki"));
  const [cert, key] = [server.certFile, server.keyFile];
  for (const [files, words] of [
    [["--tls-cert", cert], "belong together"],
    [["--tls-key", key], "belong together"],
    [["--tls-cert", join(dir, "none"), "--tls-key", key], "cannot read"],
    [["--tls-cert", key, "--tls-key", key], "does not hold a certificate"],
    [["--tls-cert", cert, "--tls-key", cert], "does not hold a private key"],
    [["--tls-cert", cert, "--tls-key", other.keyFile], "is not the key of the certificate"],
    [["--tls-client-ca", key], "does not hold a certificate"],
  ] as const) {
    const { code, stderr } = await rota("", "serve", "--listen", "127.0.0.1:0", "--state-dir", dir, ...files);
    expect([code, stderr]).toEqual([2, expect.stringContaining(words)]);
  }
}, 30_000);

test("the CA that the nodes trust is never made anew by itself, and its key may be kept elsewhere", async () => {
  const dir = stateDir();
  const pki = await makePki(join(dir, "pki"));
  const start = async (hostname: string) => {
    const options = { listen: `${hostname}:0`, stateDir: dir, insecure: false, called: "rota serve" };
    const served = startServe({ ...options, clientCaFile: pki.caFile }, ports);
    await served.stop();
    return { fingerprint: served.ca!.fingerprint, server: readFileSync(join(dir, "tls", "server.pem"), "utf8") };
  };
  const first = await start("127.0.0.1");
  rmSync(join(dir, "tls", "ca.key"));
  expect(await start("127.0.0.1")).toEqual(first);
  // For another address it would have to sign, and cannot.
  expect(() =>
    startServe({ listen: "127.0.0.2:0", stateDir: dir, insecure: false, called: "", clientCaFile: pki.caFile }, ports),
  ).toThrow("ca.key is missing");
  // Only whoever removes both wants another one: and then the server's own is signed by that.
  rmSync(join(dir, "tls", "ca.pem"));
  const second = await start("127.0.0.1");
  expect(second.fingerprint).not.toBe(first.fingerprint);
  expect(second.server).not.toBe(first.server);
  // As a power cut leaves it while a new certificate is made.
  writeFileSync(join(dir, "tls", "server.key"), pki.server.key);
  const third = await start("127.0.0.1");
  expect(third.fingerprint).toBe(second.fingerprint);
  expect(third.server).not.toBe(second.server);
}, 30_000);

test("a listen address is host:port, and loopback is what no other machine reaches", () => {
  expect(parseListen("127.0.0.1:2379")).toEqual({ hostname: "127.0.0.1", port: 2379 });
  expect(parseListen("[::1]:0")).toEqual({ hostname: "::1", port: 0 });
  expect(parseListen("store.example:80")).toEqual({ hostname: "store.example", port: 80 });
  for (const bad of ["2379", ":2379", "host", "host:", "host:70000", "::1:2379", "http://h:1", "h:1/x"])
    expect(() => parseListen(bad)).toThrow("cannot listen on");
  expect(["127.0.0.1", "127.9.9.9", "::1", "localhost"].map(isLoopback)).toEqual([true, true, true, true]);
  expect(["0.0.0.0", "::", "10.0.0.1", "127.0.0.1.example", "localhost.example", ""].some(isLoopback)).toBe(false);
});
