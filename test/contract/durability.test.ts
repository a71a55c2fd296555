/** The embedded store's file: what was acknowledged survives kill -9, one process has it at a time, and a full disk is no disaster. */
import { Database } from "bun:sqlite";
import { afterEach, expect, test } from "bun:test";
import { chmodSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { realClock } from "../../src/kernel/clock.ts";
import { type Fault, isFault } from "../../src/kernel/errors.ts";
import { EmbeddedEngine } from "../../src/store/embedded.ts";
import { openStoreFile } from "../../src/store/embedded-file.ts";
import { lockDirectory } from "../../src/store/embedded-lock.ts";
import { openNodeStore } from "../../src/store/open.ts";
import { until } from "../world/wait.ts";
import { call, failure } from "./suite.ts";

const ports = { clock: realClock(), log: () => undefined };
const dirs: string[] = [];
const stateDir = () => {
  const dir = mkdtempSync(join(tmpdir(), "rota-store-"));
  dirs.push(dir);
  return dir;
};
afterEach(() => {
  for (const dir of dirs.splice(0)) rmSync(dir, { recursive: true, force: true });
});

/** Runs the writer until the moment, kills it, and gives what it had said by then. */
async function killedAfter(dir: string, ms: number): Promise<{ n: number; revision: number; lease: string }> {
  const writer = Bun.spawn([process.execPath, join(import.meta.dir, "writer.ts"), dir], {
    stdout: "pipe",
    stderr: "inherit",
  });
  const decoder = new TextDecoder();
  let said = "";
  const reading = (async () => {
    for await (const piece of writer.stdout) said += decoder.decode(piece, { stream: true });
  })();
  await until("the writer to write", () => /\n\d+ \d+\n/.test(said));
  await Bun.sleep(ms);
  writer.kill("SIGKILL");
  await writer.exited;
  await reading;
  const lines = said.split("\n").slice(0, -1);
  const [n, revision] = (lines.at(-1) ?? "").split(" ").map(Number);
  return { n: n!, revision: revision!, lease: lines[0]!.split(" ")[1]! };
}

test("kill -9 at random moments loses no acknowledged write, and leaves no half of a transaction", async () => {
  const dir = stateDir();
  let total = 0;
  for (let round = 0; round < 12; round++) {
    const said = await killedAfter(dir, Math.random() * 250);
    const file = openStoreFile({ stateDir: dir, ...ports, program: "test" });
    const { engine } = file;
    try {
      const n = Number(engine.range({ key: "n" }).rows[0]?.value);
      // One more may have been written and not been said yet.
      expect(n - said.n === 0 || n - said.n === 1).toBe(true);
      expect(engine.revision - said.revision).toBe(n - said.n);
      const kept = engine.range({ key: "k/", end: "k0" }).rows;
      expect(kept.map((row) => Number(row.key.slice(2))).sort((a, b) => a - b)).toEqual(
        Array.from({ length: Math.min(50, n) }, (_, i) => n - Math.min(50, n) + 1 + i),
      );
      for (const row of kept) expect(row.value.length).toBe(Number(row.key.slice(2)) % 3000);
      expect(engine.range({ key: "leased" }).rows[0]).toMatchObject({ value: String(n), lease: said.lease });
      expect(engine.leaseInfo(said.lease).ttl).toBeGreaterThan(3590);
      total += n;
    } finally {
      file.close();
    }
    const check = new Database(join(dir, "store.db"), { readonly: true });
    expect(check.query("PRAGMA integrity_check").get()).toEqual({ integrity_check: "ok" });
    check.close();
  }
  expect(total).toBeGreaterThan(100);
}, 60_000);

test("a second process is told who has the file, and gets it as soon as that one is dead", async () => {
  const dir = stateDir();
  const writer = Bun.spawn([process.execPath, join(import.meta.dir, "writer.ts"), dir], {
    stdout: "pipe",
    stderr: "inherit",
  });
  await writer.stdout.getReader().read();
  const open = () => openStoreFile({ stateDir: dir, ...ports, program: "test" });
  const taken = (await failure((async () => open())())) as Fault;
  expect(taken.kind).toBe("store.taken");
  expect(taken.message).toContain(`pid ${writer.pid}`);
  expect(taken.message).toMatch(/since 20\d\d-/);
  writer.kill("SIGKILL");
  await writer.exited;
  open().close();
}, 20_000);

test("one process cannot open it twice either", () => {
  const dir = stateDir();
  const first = openStoreFile({ stateDir: dir, ...ports, program: "first" });
  expect(() => openStoreFile({ stateDir: dir, ...ports, program: "second" })).toThrow(/in use by first/);
  first.engine.put({ key: "k", value: "still mine", lease: "0" });
  first.close();
  const second = openStoreFile({ stateDir: dir, ...ports, program: "second" });
  expect(second.engine.range({ key: "k" }).rows[0]?.value).toBe("still mine");
  second.close();
});

test("whoever may enter the state directory can neither read the store nor keep a daemon out with a lock of his own", () => {
  const dir = stateDir();
  chmodSync(dir, 0o755);
  // As an earlier version made it.
  writeFileSync(join(dir, "daemon.lock"), "", { mode: 0o644 });
  const lock = lockDirectory(dir, "daemon", "test", ports.clock);
  expect(statSync(join(dir, "daemon.lock")).mode & 0o777).toBe(0o600);
  expect(() => lockDirectory(dir, "daemon", "another", ports.clock)).toThrow("in use by test");
  lock.release();
  const file = openStoreFile({ stateDir: dir, ...ports, program: "test" });
  const open = readdirSync(dir).filter((name) => (statSync(join(dir, name)).mode & 0o077) !== 0);
  expect(open.sort()).toEqual(["daemon.owner", "store.owner"]);
  file.close();
});

test("the file is for its owner alone", () => {
  const dir = stateDir();
  openStoreFile({ stateDir: dir, ...ports, program: "test" }).close();
  expect(statSync(join(dir, "store.db")).mode & 0o077).toBe(0);
});

test("a file of a newer format is left alone", () => {
  const dir = stateDir();
  openStoreFile({ stateDir: dir, ...ports, program: "test" }).close();
  const db = new Database(join(dir, "store.db"));
  db.run("PRAGMA user_version = 99");
  db.close();
  expect(() => openStoreFile({ stateDir: dir, ...ports, program: "test" })).toThrow(/format 99/);
});

test("above the quota puts and leases are refused as etcd does, deletes work and make room", () => {
  const db = new Database(":memory:");
  const engine = new EmbeddedEngine({ db, ...ports, quotaBytes: 1_000_000 });
  const put = (i: number) => engine.put({ key: `k/${i}`, value: "x".repeat(10_000), lease: "0" });
  let refused: unknown;
  for (let i = 0; i < 1000 && refused === undefined; i++)
    try {
      put(i);
    } catch (error) {
      refused = error;
    }
  expect(refused).toMatchObject({
    kind: "store.refused.full",
    code: 8,
    message: "etcdserver: mvcc: database space exceeded",
  });
  expect(() => engine.grant(10)).toThrow("space exceeded");
  expect(() =>
    engine.txn({ compare: [], success: [{ kind: "put", put: { key: "a", value: "", lease: "0" } }], failure: [] }),
  ).toThrow("space exceeded");
  expect(engine.status().full).toBe(true);
  expect(engine.deleteRange({ key: "k/", end: "k0" }).deleted).toBeGreaterThan(50);
  put(1);
  expect(engine.status().full).toBe(false);
  engine.close();
  db.close();
});

test("on a full disk puts are refused, deletes get the reserve, and puts work again when there is room", async () => {
  const db = new Database(":memory:");
  let now = 0;
  let reserve = true;
  let room = false;
  const clock = { ...realClock(), monotonic: () => now };
  const limit = (pages: number) => db.query(`PRAGMA max_page_count = ${pages}`).get();
  const engine = new EmbeddedEngine({
    db,
    ...ports,
    clock,
    reserve: {
      free() {
        if (!reserve) return false;
        reserve = false;
        limit(10_000);
        return true;
      },
      restore: () => {
        if (room) reserve = true;
        return room;
      },
    },
  });
  const lease = engine.grant(10).id;
  // Small keys: deleting every third frees no page, so that the notes of the deletions need new ones.
  for (let i = 0; i < 3000; i++) engine.put({ key: `k/${i}`, value: "small", lease: "0" });
  engine.put({ key: "held", value: "x", lease });
  limit(db.query<{ page_count: number }, []>("PRAGMA page_count").get()!.page_count);
  const before = engine.revision;
  const big = () => engine.put({ key: "more", value: "x".repeat(50_000), lease: "0" });
  expect(big).toThrow("space exceeded");
  expect(engine.revision).toBe(before);
  expect(engine.range({ key: "more" }).rows).toEqual([]);
  let deleted = 0;
  for (let i = 0; i < 3000 && reserve; i += 3) deleted += engine.deleteRange({ key: `k/${i}` }).deleted;
  expect(reserve).toBe(false);
  expect(engine.revision).toBe(before + deleted);
  // What the reserve gave is for deletes, however small the put.
  expect(() => engine.put({ key: "tiny", value: "", lease: "0" })).toThrow("space exceeded");
  now += 20_000; // the lease has run out on a full disk: its key must go all the same
  expect(engine.range({ key: "held" }).count).toBe(0);
  expect(() => engine.put({ key: "tiny", value: "", lease: "0" })).toThrow("space exceeded");
  room = true;
  now += 10_000;
  big();
  expect(reserve).toBe(true);
  engine.close();
  db.close();
});

test("a node without etcd_endpoints has the store in its process, and commands beside it find it there", async () => {
  const dir = stateDir();
  const values = { etcd_endpoints: [], etcd_namespace: "", etcd_tls: undefined, etcd_auth: undefined, state_dir: dir };
  const daemon = await openNodeStore(values, { ...ports, daemon: true, program: "rota reboot run" });
  expect(daemon.alone).toBe(true);
  await daemon.store.txn(call(), { then: [{ put: "k", value: "from the daemon" }] });
  const command = await openNodeStore(values, { ...ports, daemon: false });
  expect((await command.store.range(call(), "k")).kvs[0]?.value).toBe("from the daemon");
  await command.store.txn(call(), { then: [{ put: "k", value: "from the command" }] });
  expect((await daemon.store.range(call(), "k")).kvs[0]?.value).toBe("from the command");
  await command.store.close();
  expect(isFault(await failure(openNodeStore(values, { ...ports, daemon: true })), "store.taken")).toBe(true);
  await daemon.store.close();
  const alone = await openNodeStore(values, { ...ports, daemon: false });
  expect((await alone.store.range(call(), "k")).kvs[0]?.value).toBe("from the command");
  await alone.store.close();
  expect(readFileSync(join(dir, "store.owner"), "utf8")).toContain("pid");
});
