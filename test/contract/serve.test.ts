/** `rota serve` as a process: what it asks for before it opens to others, users while it runs, and its end. */
import { afterEach, expect, test } from "bun:test";
import { mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { realClock } from "../../src/kernel/clock.ts";
import { isFault } from "../../src/kernel/errors.ts";
import { openEtcd } from "../../src/store/etcd.ts";
import type { EtcdOptions } from "../../src/store/etcd-client.ts";
import { isLoopback, parseListen } from "../../src/store/serve.ts";
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
  expect((await rota("changed", "serve", "user", "passwd", "web", "--state-dir", dir)).code).toBe(0);
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

test("a listen address is host:port, and loopback is what no other machine reaches", () => {
  expect(parseListen("127.0.0.1:2379")).toEqual({ hostname: "127.0.0.1", port: 2379 });
  expect(parseListen("[::1]:0")).toEqual({ hostname: "::1", port: 0 });
  expect(parseListen("store.example:80")).toEqual({ hostname: "store.example", port: 80 });
  for (const bad of ["2379", ":2379", "host", "host:", "host:70000", "::1:2379", "http://h:1", "h:1/x"])
    expect(() => parseListen(bad)).toThrow("cannot listen on");
  expect(["127.0.0.1", "127.9.9.9", "::1", "localhost"].map(isLoopback)).toEqual([true, true, true, true]);
  expect(["0.0.0.0", "::", "10.0.0.1", "127.0.0.1.example", "localhost.example", ""].some(isLoopback)).toBe(false);
});
