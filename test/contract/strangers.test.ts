/** What somebody can do to the gateway who can connect and has no token: be refused, at once and cheaply. */
import { Database } from "bun:sqlite";
import { afterEach, expect, test } from "bun:test";
import { chmodSync, mkdtempSync, rmSync, statSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { realClock } from "../../src/kernel/clock.ts";
import { EmbeddedEngine } from "../../src/store/embedded.ts";
import { type GatewayOptions, startGateway } from "../../src/store/gateway.ts";
import { Users } from "../../src/store/users.ts";
import { until } from "../world/wait.ts";

const clock = realClock();
const cleanups: (() => unknown)[] = [];
afterEach(async () => {
  for (const clean of cleanups.splice(0).reverse()) await clean();
});

/** A gateway with one user, and what it logs. */
async function start(options: Partial<GatewayOptions> = {}) {
  const db = new Database(":memory:");
  const logged: { level: string; event: string; fields: unknown }[] = [];
  const log: GatewayOptions["log"] = (level, event, _message, fields) => void logged.push({ level, event, fields });
  const engine = new EmbeddedEngine({ db, clock, log });
  const users = new Users({ tables: engine.tables, clock, log });
  await users.addLimited("web", "pw", "web/");
  const gateway = startGateway({ engine, users, clock, log, listen: { hostname: "127.0.0.1", port: 0 }, ...options });
  cleanups.push(async () => {
    await gateway.stop();
    engine.close();
    db.close();
  });
  const post = async (path: string, body: string | ReadableStream<Uint8Array>, token = "") => {
    const headers = token === "" ? {} : { authorization: token };
    const response = await fetch(`${gateway.url}/v3/${path}`, { method: "POST", body, headers });
    return { status: response.status, text: await response.text() };
  };
  const login = async () => {
    const { text } = await post("auth/authenticate", JSON.stringify({ name: "web", password: "pw" }));
    return (JSON.parse(text) as { token: string }).token;
  };
  return { engine, gateway, logged, post, login };
}

/** Sends these bytes and nothing more; resolves to what came back until the other end closed, or until `until` is in it. */
function raw(url: string, bytes: string, wanted: string): Promise<string> {
  return new Promise((resolve, reject) => {
    let got = "";
    const socket = connect(Number(new URL(url).port), "127.0.0.1", () => socket.write(bytes));
    socket.on("data", (data) => {
      got += data;
      if (got.includes(wanted)) socket.destroy();
    });
    socket.on("close", () => resolve(got));
    socket.on("error", reject);
  });
}

test("a stranger is given no stream: it would stay open for him without end", async () => {
  const { gateway } = await start();
  // Chunked, and without an end: a watch may be asked for more at any time.
  const head = "POST /v3/watch HTTP/1.1\r\nHost: store\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n";
  expect(await raw(gateway.url, head, "user name is empty")).toStartWith("HTTP/1.1 400 ");
  const stolen = head.replace("Host:", "Authorization: stolen\r\nHost:");
  expect(await raw(gateway.url, stolen, "invalid auth token")).toStartWith("HTTP/1.1 401 ");
});

test("a stranger is refused before his request's body has come", async () => {
  const { gateway } = await start();
  const head = "POST /v3/kv/put HTTP/1.1\r\nHost: store\r\nContent-Length: 4000000\r\n\r\n{";
  expect(await raw(gateway.url, head, "user name is empty")).toStartWith("HTTP/1.1 400 ");
});

test("a log-in is as long as a name and a password, whether or not its length is said before", async () => {
  const { post, logged, login } = await start();
  const body = JSON.stringify({ name: "n".repeat(20_000), password: "x" });
  const unsaid = new ReadableStream<Uint8Array>({
    start(controller) {
      controller.enqueue(Buffer.from(body));
      controller.close();
    },
  });
  for (const sent of [body, unsaid])
    expect(await post("auth/authenticate", sent)).toMatchObject({
      status: 400,
      text: expect.stringContaining("too large"),
    });
  await post("auth/authenticate", JSON.stringify({ name: "n".repeat(10_000), password: "x" }));
  const [failed] = logged.filter(({ event }) => event === "store_login_failed");
  expect(JSON.stringify(failed).length).toBeLessThan(300);
  expect(await login()).toBeString();
});

test("a request that is given up, or is no HTTP to speak of, is nobody's error", async () => {
  const { gateway, logged } = await start({ trusted: true });
  const socket = connect(Number(new URL(gateway.url).port), "127.0.0.1");
  socket.write("POST /v3/kv/range HTTP/1.1\r\nHost: store\r\nContent-Length: 100\r\n\r\n{", () => socket.destroy());
  const bad = "POST /v3/kv/range HTTP/1.1\r\nHost: a b%%%\r\nContent-Length: 2\r\n\r\n{}";
  expect(await raw(gateway.url, bad, "Bad Request")).toStartWith("HTTP/1.1 400 ");
  await until("the request to be given up", () => logged.some(({ event }) => event === "store_request_failed"));
  expect(logged.filter(({ level }) => level === "error")).toEqual([]);
});

test("words that every JavaScript object knows are no calls", async () => {
  const { post, login } = await start({ extra: { "rota/known": async () => ({}) } });
  const token = await login();
  for (const path of ["constructor", "toString", "__proto__", "auth/constructor", "../constructor"])
    expect(await post(path, "{}", token)).toEqual({ status: 404, text: "Not Found\n" });
});

test("a lease id that JSON has rounded is refused, not taken for another one", async () => {
  const { post, login } = await start();
  const token = await login();
  const granted = await post("lease/grant", '{"TTL": 60, "ID": "7587848390898264848"}', token);
  expect(JSON.parse(granted.text)).toMatchObject({ ID: "7587848390898264848" });
  const rounded = await post("lease/keepalive", '{"ID": 7587848390898264848}', token);
  expect(rounded.status).toBe(400);
  expect((await post("lease/keepalive", '{"ID": "7587848390898264848"}', token)).text).toContain('"TTL":"60"');
});

test("the socket is for its owner alone, whatever the umask and whoever may enter the directory", async () => {
  const dir = mkdtempSync(join(tmpdir(), "rota-socket-"));
  cleanups.push(() => rmSync(dir, { recursive: true, force: true }));
  chmodSync(dir, 0o755);
  const before = process.umask(0);
  cleanups.push(() => process.umask(before));
  await start({ listen: { unix: join(dir, "s.sock") }, trusted: true });
  expect(statSync(join(dir, "s.sock")).mode & 0o777).toBe(0o600);
  expect(process.umask()).toBe(0);
});

test("a store whose database has failed does not call itself healthy", async () => {
  const { engine, gateway, post } = await start({ trusted: true });
  const health = async () => {
    const response = await fetch(`${gateway.url}/health`);
    return { status: response.status, body: await response.json() };
  };
  expect(await health()).toEqual({ status: 200, body: { health: "true" } });
  engine.tables.atomically = () => {
    throw Object.assign(new Error("disk I/O error"), { code: "SQLITE_IOERR_WRITE" });
  };
  expect((await post("kv/put", JSON.stringify({ key: btoa("k"), value: "" }))).status).toBe(503);
  expect(await health()).toEqual({ status: 503, body: { health: "false" } });
});
