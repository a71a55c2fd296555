/** What only the engine itself promises: simulated time, a restart on the same database, history, and speed enough for the simulator. */
import { Database } from "bun:sqlite";
import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import type { Clock } from "../../src/kernel/clock.ts";
import { isFault } from "../../src/kernel/errors.ts";
import { EmbeddedEngine } from "../../src/store/embedded.ts";
import { embeddedStore } from "../../src/store/embedded-store.ts";
import type { EngineEvent, OpRequest, WatchNews } from "../../src/store/embedded-types.ts";
import { call, failure } from "./suite.ts";

/** Time that moves only when it is told to; sleepers wake in the order of their time. */
function manualClock(): Clock & { advance(ms: number): Promise<void>; readonly sleepers: number } {
  let now = 0;
  let seed = 1;
  const sleeping = new Set<{ at: number; wake: () => void }>();
  const random = () => {
    seed = (seed * 48271) % 2147483647;
    return seed / 2147483647;
  };
  return {
    now: () => now,
    monotonic: () => now,
    boottime: () => now,
    random,
    uuid: () => `${random()}`,
    sleep: (ms, signal) =>
      new Promise((resolve, reject) => {
        const sleeper = { at: now + ms, wake: resolve };
        sleeping.add(sleeper);
        signal?.addEventListener("abort", () => {
          sleeping.delete(sleeper);
          reject(signal.reason);
        });
      }),
    get sleepers() {
      return sleeping.size;
    },
    async advance(ms) {
      const end = now + ms;
      for (;;) {
        const [next] = [...sleeping].filter(({ at }) => at <= end).sort((a, b) => a.at - b.at);
        if (next === undefined) break;
        now = Math.max(now, next.at);
        sleeping.delete(next);
        next.wake();
        for (let i = 0; i < 10; i++) await Promise.resolve();
      }
      now = end;
    },
  };
}

const log = () => undefined;
const memory = (options: { keepRevisions?: number } = {}) => {
  const db = new Database(":memory:");
  const clock = manualClock();
  return { db, clock, engine: new EmbeddedEngine({ db, clock, log, ...options }) };
};
const put = (key: string, value = "", lease = "0"): OpRequest => ({ kind: "put", put: { key, value, lease } });
const del = (key: string, end?: string): OpRequest => ({ kind: "delete", delete: { key, end } });
const told = () => {
  const news: WatchNews[] = [];
  const events = () => news.flatMap((each) => (each.kind === "events" ? each.events : []));
  return { news, events, tell: (each: WatchNews) => void news.push(each) };
};

describe("time", () => {
  test("a lease ends on the clock it was given, without a single real timer, in one revision a lease", async () => {
    const { engine, clock } = memory();
    const watch = told();
    const [long, short] = [engine.grant(20).id, engine.grant(10).id];
    engine.txn({ compare: [], success: [put("b", "", short), put("a", "", short), put("c", "", long)], failure: [] });
    engine.watch({ key: "\0", end: "\0", from: 0 }, watch.tell);
    await clock.advance(9_999);
    expect(watch.events()).toEqual([]);
    await clock.advance(2);
    expect(watch.events().map((e) => [e.type, e.row.key, e.row.modified])).toEqual([
      ["delete", "a", 3],
      ["delete", "b", 3],
    ]);
    expect(engine.keepAlive(short)).toBe(0);
    expect(engine.keepAlive(long)).toBe(20);
    await clock.advance(19_000);
    expect(engine.leaseInfo(long, true)).toEqual({ id: long, ttl: 1, granted: 20, keys: ["c"] });
    await clock.advance(1_002);
    expect(engine.range({ key: "\0", end: "\0" }).count).toBe(0);
    expect(clock.sleepers).toBe(0);
  });

  test("a lease that has run out is gone for whoever asks, even if no timer has fired", () => {
    let now = 0;
    const clock: Clock = { ...manualClock(), monotonic: () => now, sleep: () => new Promise(() => undefined) };
    const engine = new EmbeddedEngine({ db: new Database(":memory:"), clock, log });
    const { id } = engine.grant(10);
    engine.put({ key: "k", value: "", lease: id });
    now = 10_000;
    expect(engine.range({ key: "k" }).rows).toEqual([]);
    expect(engine.keepAlive(id)).toBe(0);
  });

  test("a thousand leases renewed for an hour cost one sleeper", async () => {
    const { engine, clock } = memory();
    const ids = Array.from({ length: 1000 }, () => engine.grant(30).id);
    for (let minute = 0; minute < 60; minute++)
      for (let i = 0; i < 6; i++) {
        await clock.advance(10_000);
        for (const id of ids) expect(engine.keepAlive(id)).toBe(30);
      }
    expect(clock.sleepers).toBe(1);
    await clock.advance(30_002);
    expect(engine.leases()).toEqual([]);
  });

  test("the same seed makes the same ids", () => {
    expect(memory().engine.clusterId).toBe(memory().engine.clusterId);
    expect(memory().engine.grant(5)).toEqual(memory().engine.grant(5));
  });
});

describe("restart on the same database", () => {
  test("everything is there, leases have their full TTL again, watches are closed, old handles refuse", async () => {
    const { engine, db, clock } = memory();
    const { id } = engine.grant(10);
    engine.put({ key: "k", value: "v", lease: id });
    const watch = told();
    engine.watch({ key: "k", from: 0 }, watch.tell);
    const old = embeddedStore(engine);
    const iterator = old.watch(call(), { key: "k", from: "1" })[Symbol.asyncIterator]();
    expect((await iterator.next()).value).toMatchObject({ kind: "open" });
    await clock.advance(9_000);
    engine.close();
    engine.close();
    expect(watch.news).toEqual([{ kind: "closed" }]);
    expect(isFault(await failure(old.range(call(), "k")), "store.away")).toBe(true);
    expect((await iterator.next()).value).toMatchObject({ kind: "events" });
    expect(isFault(await failure(iterator.next()), "store.away")).toBe(true);
    await clock.advance(60_000); // while it is down nothing ends
    const again = new EmbeddedEngine({ db, clock, log });
    expect(again.clusterId).toBe(engine.clusterId);
    expect(again.revision).toBe(2);
    await clock.advance(9_000);
    expect(again.range({ key: "k" }).rows[0]).toMatchObject({ value: "v", lease: id });
    await clock.advance(1_100);
    expect(again.range({ key: "k" }).rows).toEqual([]);
    again.close();
  });

  test("the revision never goes back, even when the newest writes were deletions that were compacted away", () => {
    const { engine, db, clock } = memory();
    engine.put({ key: "k", value: "", lease: "0" });
    engine.deleteRange({ key: "k" });
    engine.compact(engine.revision);
    engine.close();
    const again = new EmbeddedEngine({ db, clock, log });
    expect([again.revision, again.compactedRevision]).toEqual([3, 3]);
    expect(again.put({ key: "k", value: "", lease: "0" }).revision).toBe(4);
  });
});

describe("history", () => {
  test("old revisions are compacted by count, and the store stays as it is", () => {
    const { engine } = memory({ keepRevisions: 100 });
    for (let i = 0; i < 1000; i++) engine.put({ key: `k/${i % 7}`, value: String(i), lease: "0" });
    expect(engine.revision).toBe(1001);
    expect(engine.revision - engine.compactedRevision).toBeLessThanOrEqual(110);
    expect(() => engine.range({ key: "k/0", revision: 500 })).toThrow("required revision has been compacted");
    expect(engine.range({ key: "k/", end: "k0", revision: 950 }).rows.map((row) => Number(row.value))).toEqual([
      945, 946, 947, 948, 942, 943, 944,
    ]);
    const { n } = engine.tables.db.query<{ n: number }, []>("SELECT count(*) AS n FROM history").get()!;
    expect(n).toBeLessThan(130);
  });

  test("a write that is on disk is answered with yes, also when the compaction behind it finds the disk full", async () => {
    const { engine, clock } = memory({ keepRevisions: 10 });
    const { id } = engine.grant(60);
    for (const key of ["a", "b", "c", "d"]) engine.put({ key, value: "", lease: "0" });
    for (const key of ["e", "f", "g", "h"]) engine.put({ key, value: "", lease: id });
    const { tables } = engine;
    const compact = tables.compact.bind(tables);
    let tries = 0;
    tables.compact = () => {
      tries++;
      throw Object.assign(new Error("database or disk is full"), { code: "SQLITE_FULL" });
    };
    for (const key of ["a", "b", "c", "d"]) expect(engine.deleteRange({ key }).deleted).toBe(1);
    engine.revoke(id);
    expect(engine.range({ key: "\0", end: "\0" }).count).toBe(0);
    expect(tries).toBeGreaterThan(1);
    // What was put off is done as soon as it can be.
    tables.compact = compact;
    await clock.advance(10_000);
    engine.put({ key: "k", value: "", lease: "0" });
    expect(engine.revision - engine.compactedRevision).toBeLessThanOrEqual(11);
  });

  test("any past revision reads as the store was then, and a watch from it tells exactly what happened since", () => {
    const key = fc.constantFrom("a", "a/b", "b", "é", "\0", "zz");
    const op = fc.oneof(
      fc.record({ do: fc.constant("put" as const), key, value: fc.string({ maxLength: 3 }) }),
      fc.record({ do: fc.constant("delete" as const), key, end: fc.option(key, { nil: undefined }) }),
    );
    fc.assert(
      fc.property(fc.array(fc.array(op, { minLength: 1, maxLength: 4 }), { maxLength: 30 }), fc.nat(), (txns, pick) => {
        const { engine } = memory();
        const live = told();
        engine.watch({ key: "\0", end: "\0", from: 1 }, live.tell);
        const states: Map<string, string>[] = [new Map(), new Map()];
        for (const ops of txns) {
          const before = engine.revision;
          const success = ops.map((each) => (each.do === "put" ? put(each.key, each.value) : del(each.key, each.end)));
          try {
            engine.txn({ compare: [], success, failure: [] });
          } catch (error) {
            expect((error as Error).message).toContain("duplicate key");
          }
          const now = new Map(engine.range({ key: "\0", end: "\0" }).rows.map((row) => [row.key, row.value]));
          if (engine.revision === before) expect(now).toEqual(states[before]!);
          else states[engine.revision] = now;
        }
        for (let revision = 2; revision <= engine.revision; revision++) {
          const { rows } = engine.range({ key: "\0", end: "\0", revision });
          expect(new Map(rows.map((row) => [row.key, row.value]))).toEqual(states[revision]!);
        }
        const from = 1 + (pick % engine.revision);
        const replay = told();
        engine.watch({ key: "\0", end: "\0", from }, replay.tell);
        const brief = (events: EngineEvent[]) =>
          events.map(({ type, row }) => [type, row.key, row.value, row.modified, row.version]);
        expect(brief(replay.events())).toEqual(brief(live.events().filter((each) => each.row.modified >= from)));
        // The state at `from - 1` and the events since make the state now.
        const rebuilt = new Map(states[from - 1] ?? []);
        for (const { type, row } of replay.events())
          type === "put" ? rebuilt.set(row.key, row.value) : rebuilt.delete(row.key);
        expect(rebuilt).toEqual(states[engine.revision]!);
        engine.close();
      }),
      { numRuns: 150 },
    );
  });

  test("a replay never splits a revision between two answers", () => {
    const { engine } = memory();
    for (let i = 0; i < 20; i++)
      engine.txn({ compare: [], success: Array.from({ length: 90 }, (_, n) => put(`${i}/${n}`)), failure: [] });
    const watch = told();
    engine.watch({ key: "\0", end: "\0", from: 1 }, watch.tell);
    expect(watch.news.length).toBeGreaterThan(1);
    const ends = watch.news.map((each) =>
      each.kind === "events" ? [each.events[0]!.row.modified, each.events.at(-1)!.row.modified] : [],
    );
    for (let i = 1; i < ends.length; i++) expect(ends[i]![0]).toBeGreaterThan(ends[i - 1]![1]!);
  });
});

test("it is fast enough for tens of thousands of simulated rounds", async () => {
  const { engine } = memory();
  const store = embeddedStore(engine);
  const lease = await store.grant(call(), 1000);
  const count = 20_000;
  const began = performance.now();
  for (let i = 0; i < count; i++)
    await store.txn(call(), {
      if: [{ target: "mod", key: `k/${i % 50}`, is: "<", to: "999999" }],
      then: [{ put: `k/${i % 50}`, value: `value ${i}`, lease }],
    });
  const perSecond = count / ((performance.now() - began) / 1000);
  // Measured 46 000 on two cores; a tenth of it is left for a machine that is busy with other tests.
  expect(perSecond).toBeGreaterThan(5_000);
}, 30_000);
