/** Users of the gateway, seen by an attacker who has one of them: nothing outside the prefix can be read, written, guessed or ended. */
import { Database } from "bun:sqlite";
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { realClock } from "../../src/kernel/clock.ts";
import { isFault } from "../../src/kernel/errors.ts";
import { EmbeddedEngine } from "../../src/store/embedded.ts";
import { openEtcd } from "../../src/store/etcd.ts";
import { type Gateway, startGateway } from "../../src/store/gateway.ts";
import type { Store } from "../../src/store/store.ts";
import { Users } from "../../src/store/users.ts";
import { until } from "../world/wait.ts";
import { follow } from "./follow.ts";
import { call, failure } from "./suite.ts";

const ports = { clock: realClock(), log: () => undefined };
const db = new Database(":memory:");
let engine: EmbeddedEngine;
let users: Users;
let gateway: Gateway;
let token = "";
let rootToken = "";
let victim: Store;

const b = (text: string) => Buffer.from(text, "latin1").toString("base64");

type Answer = {
  status: number;
  error?: string;
  code?: number;
  result?: Record<string, unknown>;
  [field: string]: unknown;
};

async function ask(path: string, body: unknown, as = token): Promise<Answer> {
  const headers = as === "" ? {} : { authorization: as };
  const response = await fetch(`${gateway.url}/v3/${path}`, { method: "POST", headers, body: JSON.stringify(body) });
  const text = await response.text();
  return { status: response.status, ...(JSON.parse(text) as object) };
}

const login = async (name: string, password: string) =>
  (await ask("auth/authenticate", { name, password }, "")).token as string;
const DENIED = { status: 403, error: "etcdserver: permission denied", code: 7 };

beforeAll(async () => {
  engine = new EmbeddedEngine({ db, ...ports });
  users = new Users({ tables: engine.tables, ...ports });
  await users.addLimited("mallory", "m", "mallory/");
  await users.addLimited("victim", "v", "victim/");
  await users.addUser("root", "r");
  users.addRole("root");
  users.grantRole("root", "root");
  gateway = startGateway({ engine, users, ...ports, listen: { hostname: "127.0.0.1", port: 0 } });
  token = await login("mallory", "m");
  rootToken = await login("root", "r");
  victim = openEtcd({ endpoints: [gateway.url], auth: { username: "victim", password: () => "v" } }, ports);
});

afterAll(async () => {
  await victim.close();
  await gateway.stop();
  engine.close();
  db.close();
});

describe("keys", () => {
  const outside = b("victim/k");
  const everything = { key: b("\0"), range_end: b("\0") };
  const put = (key: string) => ({ request_put: { key, value: "" } });
  const nested = (txn: object) => ({ success: [{ request_txn: txn }] });
  const attempts: readonly (readonly [string, string, object])[] = [
    ["a foreign key", "kv/range", { key: outside }],
    ["a range over the edge", "kv/range", { key: b("mallory/"), range_end: b("victim0") }],
    ["a range that begins before", "kv/range", { key: b("a"), range_end: b("mallory/z") }],
    ["everything from a key on", "kv/range", { key: b("mallory/"), range_end: b("\0") }],
    ["everything", "kv/range", everything],
    ["only a count", "kv/range", { ...everything, count_only: true }],
    ["the prefix without its slash", "kv/range", { key: b("mallory") }],
    ["the first key after the prefix", "kv/range", { key: b("mallory0") }],
    ["the past", "kv/range", { key: outside, revision: 2 }],
    ["an empty range elsewhere", "kv/range", { key: b("z"), range_end: b("b") }],
    ["a put", "kv/put", { key: outside, value: "" }],
    ["a put that asks what was there", "kv/put", { key: outside, value: "", prev_kv: true }],
    ["a delete", "kv/deleterange", { key: outside }],
    ["a delete of everything", "kv/deleterange", everything],
    ["a compare of a foreign value", "kv/txn", { compare: [{ target: "VALUE", key: outside, value: b("guess") }] }],
    [
      "a compare of a foreign range",
      "kv/txn",
      { compare: [{ target: "MOD", ...everything, mod_revision: 5, result: "LESS" }] },
    ],
    ["a put in the branch that does not run", "kv/txn", { failure: [put(outside)] }],
    ["a nested put", "kv/txn", nested({ success: [put(outside)] })],
    ["a nested compare", "kv/txn", nested({ compare: [{ key: outside, version: 1 }] })],
    ["a nested read in a branch that does not run", "kv/txn", nested({ failure: [{ request_range: everything }] })],
    ["compaction", "kv/compaction", { revision: 2 }],
    ["alarms", "maintenance/alarm", {}],
    ["all users", "auth/user/list", {}],
    ["another user", "auth/user/get", { name: "victim" }],
    ["another user's password", "auth/user/changepw", { name: "victim", password: "x" }],
    ["his own rights", "auth/user/grant", { user: "mallory", role: "root" }],
    [
      "more rights for his role",
      "auth/role/grant",
      { name: "mallory", perm: { permType: 2, key: b("\0"), range_end: b("\0") } },
    ],
    ["another's role", "auth/role/get", { role: "victim" }],
    ["a new user", "auth/user/add", { name: "x", password: "x" }],
    ["no authentication", "auth/disable", {}],
  ];
  for (const [what, path, body] of attempts)
    test(`${what}: denied`, async () => {
      const before = engine.revision;
      expect(await ask(path, body)).toMatchObject(DENIED);
      expect(engine.revision).toBe(before);
    });

  test("inside the prefix everything works", async () => {
    expect((await ask("kv/put", { key: b("mallory/k"), value: b("1") })).status).toBe(200);
    expect((await ask("kv/range", { key: b("mallory/"), range_end: b("mallory0") })).count).toBe("1");
    expect(
      (await ask("kv/txn", { compare: [{ key: b("mallory/k"), version: 1 }], success: [put(b("mallory/l"))] }))
        .succeeded,
    ).toBe(true);
    expect(await ask("auth/user/get", { name: "mallory" })).toMatchObject({ status: 200, roles: ["mallory"] });
  });

  test("without a token, or with a wrong one, every call is refused", async () => {
    for (const path of [
      "kv/range",
      "kv/put",
      "kv/txn",
      "kv/deleterange",
      "kv/compaction",
      "lease/grant",
      "lease/revoke",
      "lease/keepalive",
      "lease/leases",
      "lease/timetolive",
      "auth/user/list",
      "auth/disable",
      "auth/user/add",
      "maintenance/status",
      "cluster/member/list",
    ]) {
      expect(await ask(path, { key: b("mallory/k"), ID: 1, TTL: 5 }, "")).toMatchObject({
        status: 400,
        error: "etcdserver: user name is empty",
      });
      expect(await ask(path, { key: b("mallory/k"), ID: 1, TTL: 5 }, "stolen")).toMatchObject({
        status: 401,
        error: "etcdserver: invalid auth token",
      });
    }
  });

  test("two neighbouring ranges may be read as one, a gap may not", async () => {
    await users.addUser("wide", "w");
    users.addRole("wide");
    users.grantRole("wide", "wide");
    const allow = (key: string, end: string) => users.grantPermission("wide", { type: "READ", key, end });
    allow("a", "c");
    allow("c", "e");
    allow("f", "g");
    allow("solo", "");
    const as = await login("wide", "w");
    expect((await ask("kv/range", { key: b("a"), range_end: b("e") }, as)).status).toBe(200);
    expect(await ask("kv/range", { key: b("a"), range_end: b("g") }, as)).toMatchObject(DENIED);
    expect((await ask("kv/range", { key: b("solo") }, as)).status).toBe(200);
    expect(await ask("kv/range", { key: b("solo"), range_end: b("solp") }, as)).toMatchObject(DENIED);
    expect(await ask("kv/put", { key: b("a") }, as)).toMatchObject(DENIED);
  });
});

describe("leases", () => {
  test("a foreign lease can be neither ended, renewed, looked at, listed nor used", async () => {
    const lease = await victim.grant(call(), 60);
    await victim.txn(call(), { then: [{ put: "victim/held", value: "1", lease }] });
    for (const path of [
      "lease/revoke",
      "kv/lease/revoke",
      "lease/keepalive",
      "lease/timetolive",
      "kv/lease/timetolive",
    ])
      expect(await ask(path, { ID: lease, keys: true })).toMatchObject(DENIED);
    expect(await ask("kv/put", { key: b("mallory/k"), lease })).toMatchObject(DENIED);
    expect(await ask("lease/grant", { TTL: 5, ID: lease })).toMatchObject({
      status: 412,
      error: "etcdserver: lease already exists",
    });
    const mine = (await ask("lease/grant", { TTL: 60 })).ID;
    expect((await ask("lease/leases", {})).leases).toEqual([{ ID: mine }]);
    expect(((await ask("lease/leases", {}, rootToken)).leases as unknown[]).length).toBe(2);
    expect(await victim.keepAlive(call(), lease)).toBe(60);
    expect((await ask("lease/revoke", { ID: mine })).status).toBe(200);
    await victim.revoke(call(), lease);
    expect(engine.range({ key: "victim/held" }).count).toBe(0);
  });

  test("whose lease it is survives a restart of the store", () => {
    const { id } = engine.grant(60, "0", "victim");
    const again = new EmbeddedEngine({ db, ...ports });
    expect(again.leaseOwner(id)).toBe("victim");
    again.close();
    engine.revoke(id);
  });
});

describe("watches", () => {
  test("a foreign key and a range over the edge are refused inside the stream, as etcd does", async () => {
    const first = async (create: object, as: string) => {
      const response = await fetch(`${gateway.url}/v3/watch`, {
        method: "POST",
        headers: { authorization: as },
        body: JSON.stringify({ create_request: create }),
      });
      const reader = response.body!.getReader();
      const { value } = await reader.read();
      await reader.cancel();
      return (JSON.parse(new TextDecoder().decode(value).split("\n")[0]!) as Answer).result;
    };
    const denied = {
      watch_id: "-1",
      created: true,
      canceled: true,
      cancel_reason: expect.stringContaining("permission denied"),
    };
    expect(await first({ key: b("victim/k") }, token)).toMatchObject(denied);
    expect(await first({ key: b("mallory/"), range_end: b("\0") }, token)).toMatchObject(denied);
    expect(await first({ key: "" }, token)).toMatchObject(denied);
    expect(await first({ key: b("mallory/k") }, token)).not.toHaveProperty("canceled");
  });

  test("a user who is removed is out at once: calls are refused and open watches end", async () => {
    await users.addLimited("leaver", "l", "leaver/");
    const leaver = openEtcd({ endpoints: [gateway.url], auth: { username: "leaver", password: () => "l" } }, ports);
    const watch = follow(leaver, { key: "leaver/k", from: String(engine.revision + 1) });
    expect((await watch.next()).kind).toBe("open");
    users.removeLimited("leaver");
    await until("the watch to end", () => watch.ended());
    expect(isFault(watch.error(), "store.refused")).toBe(true);
    expect(isFault(await failure(leaver.range(call(), "leaver/k")), "store.refused")).toBe(true);
    await leaver.close();
  });

  test("other users' watches go on through a change of rights", async () => {
    const watch = follow(victim, { key: "victim/k", from: String(engine.revision + 1) });
    expect((await watch.next()).kind).toBe("open");
    await users.addLimited("another", "a", "another/");
    await victim.txn(call(), { then: [{ put: "victim/k", value: "news" }] });
    expect((await watch.events(1))[0]?.kv.value).toBe("news");
    await watch.stop();
  });
});

describe("passwords", () => {
  test("a changed password ends the old one and its tokens", async () => {
    await users.addLimited("changer", "old", "changer/");
    const before = await login("changer", "old");
    await users.changePassword("changer", "new");
    expect((await ask("kv/range", { key: b("changer/k") }, before)).status).toBe(401);
    expect((await ask("auth/authenticate", { name: "changer", password: "old" }, "")).error).toContain(
      "authentication failed",
    );
    expect(await login("changer", "new")).toBeString();
  });

  test("a name that does not exist takes as long to refuse as one that does, and says the same", async () => {
    const time = async (name: string) => {
      const began = performance.now();
      const { error, status } = await ask("auth/authenticate", { name, password: "guess" }, "");
      return { ms: performance.now() - began, error, status };
    };
    await time("nobody");
    const [exists, absent] = [await time("victim"), await time("nobody")];
    expect({ ...absent, ms: 0 }).toEqual({ ...exists, ms: 0 });
    expect(absent.ms).toBeGreaterThan(exists.ms / 3);
    expect(exists.ms).toBeGreaterThan(absent.ms / 3);
    expect(await login("victim", "v")).toBeString(); // a right one sets the count of wrong ones back
  });

  test("names are not hashed, passwords are, and neither password nor token is ever on disk or in the log", async () => {
    const document = engine.tables.fact("auth")!;
    expect(document).toContain("mallory");
    expect(document).toContain("$2b$");
    expect(document).not.toContain('"old"');
    expect(document).not.toContain(token);
  });

  test("guessing is slowed down: after a few wrong ones the address has to wait, whatever the name", async () => {
    const answers = [];
    for (let i = 0; i < 8; i++) answers.push(await ask("auth/authenticate", { name: `n${i}`, password: "x" }, ""));
    expect(answers[0]?.status).toBe(400);
    expect(answers.at(-1)).toMatchObject({ status: 429, error: "etcdserver: too many requests", code: 8 });
    // Those who are in already are not disturbed.
    expect((await ask("kv/range", { key: b("mallory/k") })).status).toBe(200);
  });
});
