/** A machine's own marks in the store: live record, roster entry, sign of life, and how it is forgotten. */
import { describe, expect, test } from "bun:test";
import { breath, Field, faultOf } from "../../test/world/engine.ts";
import { Fault } from "../kernel/errors.ts";
import { snapshot } from "./fence.ts";
import { keyspace } from "./keys.ts";
import { enrol, forget, LeaseKeeper, LiveRecord, showAlive } from "./live.ts";
import { enter } from "./queue.ts";

const WELL = { healthy: true, stage: "monitor" };
const SICK = { healthy: false, stage: "monitor", reason: "monitor exit 1" };
const DOWN = JSON.stringify({ node: "a", machine: "m-a", healthy: false, stage: "turn", turn: "t1", reported_at: "" });

describe("the live record", () => {
  test("is written when the verdict changes, and only then", async () => {
    using field = new Field();
    const live = new LiveRecord(field.node("a"), 60);
    const key = `${field.space.health}a`;
    await live.report(WELL);
    expect(await field.json(key)).toMatchObject({ node: "a", machine: "m-a", healthy: true, stage: "monitor" });
    const before = await field.get(key);
    await field.clock.advance(30_000);
    await live.report(WELL);
    expect(await field.get(key)).toEqual(before);
    await live.report(SICK);
    expect(await field.json(key)).toMatchObject({ healthy: false, reason: "monitor exit 1" });
    expect((await field.get(key))?.lease).toBe(before?.lease);
  });

  test("lives as long as scripts complete, and ends with silence", async () => {
    using field = new Field();
    const live = new LiveRecord(field.node("a"), 60);
    for (let i = 0; i < 5; i++) {
      await live.report(WELL);
      await field.clock.advance(50_000);
    }
    expect(await field.get(`${field.space.health}a`)).toBeDefined();
    await field.clock.advance(11_000);
    expect(await field.get(`${field.space.health}a`)).toBeUndefined();
    await live.report(WELL);
    expect(await field.get(`${field.space.health}a`)).toBeDefined();
  });

  test("a report that arrives late cannot overwrite the down of a fence", async () => {
    using field = new Field();
    const a = field.node("a");
    const live = new LiveRecord(a, 60);
    await live.report(SICK);
    a.line.next("live.report", "late");
    expect((await faultOf(live.report(WELL))).kind).toBe("store.unknown");
    await field.put(`${field.space.health}a`, DOWN);
    expect((await a.line.deliver())[0]?.succeeded).toBe(false);
    expect((await field.get(`${field.space.health}a`))?.value).toBe(DOWN);
  });

  test("after a lost answer the same verdict is said again", async () => {
    using field = new Field();
    const a = field.node("a");
    const live = new LiveRecord(a, 60);
    a.line.next("live.report", "request lost");
    await faultOf(live.report(WELL));
    await live.report(WELL);
    expect(await field.json(`${field.space.health}a`)).toMatchObject({ healthy: true });
    a.line.next("live.report", "answer lost");
    await faultOf(live.report(SICK));
    await live.report(SICK);
    expect(await field.json(`${field.space.health}a`)).toMatchObject({ healthy: false });
  });

  test("after its turn it is told to look again, and then a report goes through", async () => {
    using field = new Field();
    const live = new LiveRecord(field.node("a"), 60);
    await live.report(WELL);
    await field.put(`${field.space.health}a`, DOWN);
    // The same verdict as before: nothing is written until somebody says that the record has changed.
    await live.report(WELL);
    expect((await field.get(`${field.space.health}a`))?.value).toBe(DOWN);
    live.forget();
    await live.report(WELL);
    expect(await field.json(`${field.space.health}a`)).toMatchObject({ healthy: true });
  });

  test("a change by somebody else is read, and then written over", async () => {
    using field = new Field();
    const live = new LiveRecord(field.node("a"), 60);
    await live.report(WELL);
    await field.put(`${field.space.health}a`, "garbage");
    await live.report(SICK);
    expect(await field.json(`${field.space.health}a`)).toMatchObject({ healthy: false });
  });

  test("a name that another machine uses is refused, loudly", async () => {
    using field = new Field();
    await new LiveRecord(field.node("a"), 60).report(WELL);
    const fault = await faultOf(new LiveRecord(field.node("a", { machine: "m-twin" }), 60).report(WELL));
    expect(fault.kind).toBe("roster.taken");
    expect(fault.message).toContain("another machine is already known as a (live record)");
    expect(await field.json(`${field.space.health}a`)).toMatchObject({ machine: "m-a" });
  });

  test("mark gives a lease that is alive now", async () => {
    using field = new Field();
    const live = new LiveRecord(field.node("a"), 60);
    const first = await live.mark(WELL);
    expect((await live.mark(SICK)).lease).toBe(first.lease);
    await field.revoke(first.lease);
    const second = await live.mark(WELL);
    expect(second.lease).not.toBe(first.lease);
    expect(await field.store.keepAlive({ label: "x" }, second.lease)).toBe(60);
    expect(second.record).toMatchObject({ node: "a", healthy: true });
    expect(second.record.turn).toBeUndefined();
  });
});

describe("the roster", () => {
  test("is joined once, and without a lease", async () => {
    using field = new Field();
    const a = field.node("a");
    await enrol(a);
    const first = await field.get(`${field.space.roster}a`);
    expect(first?.lease).toBe("0");
    expect(JSON.parse(first?.value ?? "")).toEqual({
      node: "a",
      machine: "m-a",
      group: "/rota/lock",
      first_seen: "2026-01-01T00:00:00.000Z",
    });
    await field.clock.advance(1_000);
    await enrol(a);
    expect(await field.get(`${field.space.roster}a`)).toEqual(first);
  });

  test("a name that is taken is refused", async () => {
    using field = new Field();
    await enrol(field.node("a"));
    const fault = await faultOf(enrol(field.node("a", { machine: "m-twin" })));
    expect(fault.kind).toBe("roster.taken");
    expect(fault.message).toContain("rota reboot forget a");
    expect(await field.json(`${field.space.roster}a`)).toMatchObject({ machine: "m-a" });
  });

  test("follows a machine that moves to another group, and keeps its date", async () => {
    using field = new Field();
    await enrol(field.node("a"));
    await field.clock.advance(1_000);
    await enrol(field.node("a", {}, keyspace("/rota/other")));
    expect(await field.json(`${field.space.roster}a`)).toMatchObject({
      group: "/rota/other",
      first_seen: "2026-01-01T00:00:00.000Z",
    });
  });

  test("an entry that cannot be read is replaced", async () => {
    using field = new Field();
    await field.put(`${field.space.roster}a`, "garbage");
    await enrol(field.node("a"));
    expect(await field.json(`${field.space.roster}a`)).toMatchObject({ machine: "m-a" });
  });

  test.each([
    ["moved", JSON.stringify({ node: "a", machine: "m-a", group: "/old", first_seen: "" })],
    ["unreadable", "garbage"],
  ])("does not write over a machine that took the name between look and write (%s)", async (_, old) => {
    using field = new Field();
    await field.put(`${field.space.roster}a`, old);
    const a = field.node("a");
    const twin = field.node("a", { machine: "m-twin" });
    let calls = 0;
    a.line.before.set("roster.enrol", async () => {
      if (++calls !== 2) return;
      await field.delete(`${field.space.roster}a`);
      await enrol(twin);
    });
    const fault = await faultOf(enrol(a));
    expect(fault.kind).toBe("roster.taken");
    expect(await field.json(`${field.space.roster}a`)).toMatchObject({ machine: "m-twin" });
  });
});

describe("forget", () => {
  async function known(field: Field, name: string, space = field.space) {
    const node = field.node(name, {}, space);
    await enrol(node);
    await new LiveRecord(node, 600).report(WELL);
    return node;
  }

  test("takes roster entry, live record and ghost away together", async () => {
    using field = new Field();
    await known(field, "a");
    await field.put(`${field.space.ghosts}m-a`, "{}");
    await forget(field.store, field.space, "a");
    for (const key of [`${field.space.roster}a`, `${field.space.health}a`, `${field.space.ghosts}m-a`])
      expect(await field.get(key), key).toBeUndefined();
  });

  test("somebody nobody knows is said so", async () => {
    using field = new Field();
    expect((await faultOf(forget(field.store, field.space, "x"))).kind).toBe("roster.unknown");
  });

  test("not while it is in line or in its turn", async () => {
    using field = new Field();
    const a = await known(field, "a");
    const place = await enter(a, { turnId: "t", reason: "r", queuedAt: "q" }, await field.grant());
    const fault = await faultOf(forget(field.store, field.space, "a"));
    expect(fault).toMatchObject({ kind: "turn.refused", exitCode: 3 });
    expect(fault.message).toContain("end that first with `release`");
    await field.delete(place.key);
    await forget(field.store, field.space, "a");
  });

  test("not while its daemon is alive", async () => {
    using field = new Field();
    await known(field, "a");
    await field.put(`${field.space.alive}m-a`, "{}");
    expect((await faultOf(forget(field.store, field.space, "a"))).message).toContain("its daemon is alive");
    expect(await field.get(`${field.space.roster}a`)).toBeDefined();
  });

  test("a node of another group is looked for in its own line, and among its own daemons", async () => {
    using field = new Field();
    const other = keyspace("/rota/other");
    const a = await known(field, "a", other);
    const place = await enter(a, { turnId: "t", reason: "r", queuedAt: "q" }, await field.grant());
    expect((await faultOf(forget(field.store, field.space, "a"))).kind).toBe("turn.refused");
    await field.delete(place.key);
    await field.put(`${other.alive}m-a`, "{}");
    expect((await faultOf(forget(field.store, field.space, "a"))).kind).toBe("turn.refused");
    await field.delete(`${other.alive}m-a`);
    await field.put(`${other.ghosts}m-a`, "{}");
    await forget(field.store, field.space, "a");
    expect(await field.get(`${other.ghosts}m-a`)).toBeUndefined();
  });

  test("the old name of a machine that lives on under a new one", async () => {
    using field = new Field();
    await known(field, "a");
    await field.put(`${field.space.alive}m-a`, JSON.stringify({ node: "renamed", boot_id: "b" }));
    await forget(field.store, field.space, "a");
    expect(await field.get(`${field.space.roster}a`)).toBeUndefined();
    expect(await field.get(`${field.space.alive}m-a`)).toBeDefined();
  });

  test("when it gets in line meanwhile, nothing happens", async () => {
    using field = new Field();
    const a = await known(field, "a");
    const op = field.node("op");
    let calls = 0;
    op.line.before.set("roster.forget", async () => {
      if (++calls === 3) await enter(a, { turnId: "t", reason: "r", queuedAt: "q" }, await field.grant());
    });
    expect((await faultOf(forget(op.store, field.space, "a"))).kind).toBe("turn.changed");
    expect(await field.get(`${field.space.roster}a`)).toBeDefined();
  });

  test("garbage on the roster can be forgotten too", async () => {
    using field = new Field();
    await field.put(`${field.space.roster}a`, "garbage");
    await forget(field.store, field.space, "a");
    expect(await field.get(`${field.space.roster}a`)).toBeUndefined();
  });
});

describe("keeping a lease", () => {
  test("goes on for as long as it is wanted", async () => {
    using field = new Field();
    const lease = await field.grant(15);
    const keeper = new LeaseKeeper(field.node("a"), lease, 15, "keep");
    await field.clock.advance(300_000);
    expect(keeper.dead.aborted).toBe(false);
    keeper.stop();
    await field.clock.advance(16_000);
    expect(keeper.dead.aborted).toBe(false);
    expect(field.engine.leases()).toEqual([]);
  });

  test("an answer without a TTL means that it is dead", async () => {
    using field = new Field();
    const lease = await field.grant(15);
    const keeper = new LeaseKeeper(field.node("a"), lease, 15, "keep");
    await field.revoke(lease);
    await field.clock.advance(5_001);
    expect(keeper.dead.aborted).toBe(true);
    expect(keeper.dead.reason).toMatchObject({ kind: "turn.lease-lost" });
  });

  test("a store that is away for less than the TTL is sat out; for longer, the lease counts as dead", async () => {
    using field = new Field();
    const a = field.node("a");
    const away = new Fault("store.away", "away");
    const keeper = new LeaseKeeper(a, await field.grant(15), 15, "keep");
    a.line.next("keep", away, away, away, away);
    await field.clock.advance(60_000);
    expect(keeper.dead.aborted).toBe(false);
    a.line.next("keep", ...Array.from({ length: 20 }, () => away));
    await field.clock.advance(25_000);
    expect(keeper.dead.aborted).toBe(true);
  });
});

describe("the sign of life", () => {
  const start = (field: Field) => {
    const stop = new AbortController();
    const troubles: unknown[] = [];
    const a = field.node("a");
    const over = showAlive(a, 15, stop.signal, (error) => troubles.push(error));
    return { a, stop, over, troubles };
  };

  test("stands while the daemon runs and goes when it ends", async () => {
    using field = new Field();
    const { stop, over } = start(field);
    await field.clock.advance(60_000);
    expect(await field.json(`${field.space.alive}m-a`)).toMatchObject({ node: "a", boot_id: "boot-a-1", pid: 7 });
    stop.abort();
    await over;
    expect(await field.get(`${field.space.alive}m-a`)).toBeUndefined();
  });

  test("is put up again after its lease was lost, and after trouble with the store", async () => {
    using field = new Field();
    const { a, stop, over, troubles } = start(field);
    a.line.next("alive.put", new Fault("store.away", "away"));
    await field.clock.advance(30_000);
    expect(troubles).toHaveLength(1);
    const before = await field.get(`${field.space.alive}m-a`);
    expect(before).toBeDefined();
    await field.revoke(before?.lease ?? "");
    await field.clock.advance(30_000);
    expect((await field.get(`${field.space.alive}m-a`))?.lease).not.toBe(before?.lease);
    stop.abort();
    await over;
  });

  test("one that ends before it began says nothing", async () => {
    using field = new Field();
    const { stop, over } = start(field);
    stop.abort();
    await over;
    await breath();
    expect(await field.below(field.space.alive)).toEqual([]);
  });
});

test("a record under a name that the roster gives to another machine does not count", async () => {
  using field = new Field();
  await enrol(field.node("a"));
  await field.put(`${field.space.health}a`, JSON.stringify({ node: "a", machine: "m-z", healthy: true }));
  await field.put(`${field.space.health}b`, "garbage");
  await field.put(`${field.space.health}c`, JSON.stringify({ node: "z", machine: "m-z", healthy: true }));
  await field.put(`${field.space.roster}d`, JSON.stringify({ node: "other", machine: "m", group: "g" }));
  const policy = { forbidIfOnlyFallbackLeft: false, fallbackNodes: [], blockOnUnhealthyPeer: false };
  const { fleet } = await snapshot(field.node("b"), "", policy);
  expect(fleet.nodes).toEqual([{ node: "a", machine: "m-a", group: "/rota/lock" }]);
  expect(fleet.garbage).toEqual([`${field.space.health}b`, `${field.space.health}c`, `${field.space.roster}d`]);
});
