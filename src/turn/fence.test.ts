/** The fence on the real engine: every thing that it compares, and what becomes of unknown outcomes, late requests and ways back. */
import { describe, expect, test } from "bun:test";
import { Field, faultOf } from "../../test/world/engine.ts";
import { Fault } from "../kernel/errors.ts";
import type { Fenced, Place, TurnContext } from "./context.ts";
import { fence, type LiveHealth, type Snapshot, settle, snapshot, withdraw, YOUTH_TTL_SEC } from "./fence.ts";
import { type Contender, keyspace } from "./keys.ts";
import { enrol, LiveRecord } from "./live.ts";
import type { PolicySettings } from "./policy.ts";
import { enter, leave, writeOwned } from "./queue.ts";
import { setStop } from "./stop.ts";

const OPEN: PolicySettings = { forbidIfOnlyFallbackLeft: false, fallbackNodes: [], blockOnUnhealthyPeer: false };
const HEALTHY = { healthy: true, stage: "monitor" };

type Node = ReturnType<Field["node"]>;

async function queued(field: Field, node: TurnContext, turnId = `t-${node.self.node}`): Promise<Place> {
  const ticket = { turnId, reason: "a new kernel", queuedAt: "2026-01-01T00:00:00.000Z" };
  return await enter(node, ticket, await field.grant(300));
}

interface Ready {
  readonly a: Node;
  readonly b: Node;
  readonly place: Place;
  readonly snap: Snapshot & { readonly me: Contender };
}

/** Two nodes on the roster and well; `a` owns the turn and has looked. */
async function ready(field: Field): Promise<Ready> {
  const [a, b] = [field.node("a"), field.node("b")];
  for (const node of [a, b]) {
    await enrol(node);
    await new LiveRecord(node, 600).report(HEALTHY);
  }
  const place = await queued(field, a);
  await writeOwned(a, place);
  return { a, b, place, snap: await look(a, place) };
}

async function look(node: TurnContext, place: Place, policy = OPEN): Promise<Ready["snap"]> {
  const snap = await snapshot(node, place.key, policy);
  if (snap.me === undefined) throw new Error("not in line");
  return { ...snap, me: snap.me };
}

async function fenced(field: Field, { a, place, snap }: Ready): Promise<Fenced> {
  const turn = await fence(a, place, snap, await field.grant(YOUTH_TTL_SEC));
  if (turn === undefined) throw new Error("the fence said no");
  return turn;
}

async function liveOf(node: TurnContext): Promise<LiveHealth> {
  return await new LiveRecord(node, 600).mark({ healthy: true, stage: "monitor" });
}

describe("snapshot", () => {
  test("is one reading: line, place, fleet, gates, living daemons", async () => {
    using field = new Field();
    const { snap, place, a } = await ready(field);
    await field.put(`${field.space.alive}m-b`, "{}");
    expect(snap).toMatchObject({ revision: String(field.engine.revision - 1), storeId: field.engine.clusterId });
    expect(snap.me).toMatchObject({ key: place.key, create: place.create });
    expect(snap.position).toMatchObject({ ahead: 0, owns: true });
    expect(snap.fleet.nodes.map(({ node, health }) => [node, health?.healthy])).toEqual([
      ["a", true],
      ["b", true],
    ]);
    expect(snap.gates.map(({ name, open }) => [name, open])).toEqual([
      ["stop", true],
      ["cooldown", true],
      ["policy", true],
    ]);
    expect((await look(a, place)).alive).toEqual(["m-b"]);
  });

  test("a node that is not in line has neither place nor position", async () => {
    using field = new Field();
    const snap = await snapshot(field.node("x"), "", OPEN);
    expect(snap.me).toBeUndefined();
    expect(snap.position).toBeUndefined();
  });

  test.each([true, false])(
    "the stop closes its gate (everywhere: %p), and another group's does not",
    async (everywhere) => {
      using field = new Field();
      const { a, place } = await ready(field);
      await setStop(field.store, keyspace("/elsewhere"), { label: "x" }, { ...STOP, everywhere: false });
      expect((await look(a, place)).gates[0]?.open).toBe(true);
      await setStop(field.store, field.space, { label: "x" }, { ...STOP, everywhere });
      expect((await look(a, place)).gates[0]).toMatchObject({
        open: false,
        why: `stopped${everywhere ? "" : " (this group only)"} by op since 1970-01-01T00:00:00.000Z: incident`,
      });
    },
  );

  test("an unreadable stop and an unreadable cooldown close their gates all the same", async () => {
    using field = new Field();
    const { a, place } = await ready(field);
    await field.put(field.space.stops[1], "stop!");
    await field.put(`${field.space.cooldown}t0`, "");
    expect((await look(a, place)).gates.map(({ name, open }) => [name, open])).toEqual([
      ["stop", false],
      ["cooldown", false],
      ["policy", true],
    ]);
  });

  test("the cooldown says whose, and since when", async () => {
    using field = new Field();
    const { a, place } = await ready(field);
    await field.put(
      `${field.space.cooldown}t0`,
      JSON.stringify({ node: "b", started_at: "noon" }),
      await field.grant(9),
    );
    expect((await look(a, place)).gates[1]).toMatchObject({
      open: false,
      why: "b was verified at noon; waiting out min_reboot_interval_sec",
    });
    await field.clock.advance(10_000);
    expect((await look(a, place)).gates[1]?.open).toBe(true);
  });

  test("policy is judged on the same reading: I am down, and silence is not health", async () => {
    using field = new Field();
    const { a, place } = await ready(field);
    const policy = { ...OPEN, minHealthyAbsolute: 1 };
    expect((await look(a, place, policy)).gates[2]?.open).toBe(true);
    await field.clock.advance(601_000);
    const place2 = await queued(field, a, "t2");
    expect((await look(a, place2, policy)).gates[2]).toMatchObject({
      open: false,
      why: "0 of 2 nodes would be up, min_healthy_absolute is 1",
    });
  });
});

const STOP = { who: "op", why: "incident", now: 0 };

describe("the fence", () => {
  test("passes when nothing has changed: the key is permanent and mine still, health says down, the turn is young", async () => {
    using field = new Field();
    const at = await ready(field);
    const { place, a } = at;
    field.clock.jump(3_600_000);
    const turn = await fenced(field, at);
    const kv = await field.get(place.key);
    expect(kv).toMatchObject({ createRevision: place.create, lease: "0", modRevision: turn.mod });
    expect(await field.json(place.key)).toMatchObject({
      phase: "rebooting",
      turn_id: "t-a",
      machine: "m-a",
      boot_id: "boot-a-1",
      fenced_at: "2026-01-01T01:00:00.000Z",
    });
    expect(await field.get(`${field.space.health}a`)).toMatchObject({ lease: "0", modRevision: turn.mod });
    expect(await field.json(`${field.space.health}a`)).toMatchObject({
      node: "a",
      machine: "m-a",
      healthy: false,
      stage: "turn",
      turn: "t-a",
    });
    const youth = await field.get(field.space.fresh("t-a"));
    expect(youth?.lease).not.toBe("0");
    // Neither the lapse of the lease nor that of the youth ends the turn.
    await leave(a, place.lease);
    await field.clock.advance(YOUTH_TTL_SEC * 1000 + 1_000);
    expect(await field.get(field.space.fresh("t-a"))).toBeUndefined();
    expect(await field.get(place.key)).toMatchObject({ createRevision: place.create, lease: "0" });
    expect((await look(field.node("b"), place)).fleet.nodes[0]?.health?.turn).toBe("t-a");
  });

  const changes: readonly (readonly [string, (field: Field, at: Ready) => Promise<unknown>])[] = [
    [
      "a stop for everybody",
      ({ store, space }) => setStop(store, space, { label: "x" }, { ...STOP, everywhere: true }),
    ],
    [
      "a stop for the group",
      ({ store, space }) => setStop(store, space, { label: "x" }, { ...STOP, everywhere: false }),
    ],
    ["a cooldown", (field) => field.put(`${field.space.cooldown}t0`, "{}")],
    ["another's health", (_, { b }) => new LiveRecord(b, 600).report({ healthy: false, stage: "monitor" })],
    [
      "another that falls ill and is well again",
      async (_, { b }) => {
        const live = new LiveRecord(b, 600);
        await live.report({ healthy: false, stage: "monitor" });
        await live.report(HEALTHY);
      },
    ],
    ["the roster", (field) => enrol(field.node("c"))],
    ["the line: one more", (field, { b }) => queued(field, b)],
    ["the line: a foreign one", async (field) => field.put(`${field.space.line}abc`, "", await field.grant())],
    ["my own key rewritten by myself", (_, { a, place }) => writeOwned(a, place)],
    ["my own key rewritten by somebody", (field, { place }) => field.put(place.key, "x", place.lease)],
    ["my own key made permanent by somebody", (field, { place }) => field.put(place.key, "x")],
    ["my own key deleted", (field, { place }) => field.delete(place.key)],
    [
      "my own key deleted and made anew",
      async (field, { place }) => {
        await field.delete(place.key);
        await field.put(place.key, "x", place.lease);
      },
    ],
    [
      "my own lease lapsed",
      async (field, { b }) => {
        await field.clock.advance(301_000);
        await new LiveRecord(b, 600).report(HEALTHY);
      },
    ],
    ["my own lease revoked", (_, { a, place }) => leave(a, place.lease)],
  ];
  test.each(changes)("says no after a change of: %s", async (_, change) => {
    using field = new Field();
    const at = await ready(field);
    await change(field, at);
    const before = await field.below("/");
    expect(await fence(at.a, at.place, at.snap, await field.grant(60))).toBeUndefined();
    expect(await field.below("/")).toEqual(before);
    expect((await field.get(at.place.key))?.value ?? "").not.toContain("rebooting");
  });

  const indifferent: readonly (readonly [string, (field: Field, at: Ready) => Promise<unknown>])[] = [
    [
      "a stop of another group",
      ({ store }) => setStop(store, keyspace("/x"), { label: "x" }, { ...STOP, everywhere: false }),
    ],
    [
      "another's unchanged verdict again",
      async (field, { b }) => {
        const live = new LiveRecord(b, 600);
        await live.report(HEALTHY);
        const snapAfter = field.engine.revision;
        await live.report(HEALTHY);
        expect(field.engine.revision).toBe(snapAfter);
      },
    ],
    ["another group's line", async (field) => field.put("/elsewhere/ff", "", await field.grant())],
    ["a sign of life", async (field) => field.put(`${field.space.alive}m-b`, "{}", await field.grant())],
    ["somebody ahead or behind that leaves", async (field) => field.delete(`${field.space.line}fff`)],
  ];
  test.each(indifferent)("does not mind: %s", async (name, change) => {
    using field = new Field();
    const at = await ready(field);
    if (name.startsWith("another's unchanged")) {
      // The first report of a new process is a write; what it repeats is none.
      await change(field, at);
      const snap = await look(at.a, at.place);
      expect(await fence(at.a, at.place, snap, await field.grant(60))).toBeDefined();
      return;
    }
    await change(field, at);
    expect(await fence(at.a, at.place, at.snap, await field.grant(60))).toBeDefined();
  });

  test("without its youth it does not happen", async () => {
    using field = new Field();
    const { a, place, snap } = await ready(field);
    const youth = await field.grant(60);
    await field.revoke(youth);
    expect((await faultOf(fence(a, place, snap, youth))).kind).toBe("store.no-lease");
    expect((await field.get(place.key))?.lease).toBe(place.lease);
  });

  test("is within etcd's 128 compares and operations", async () => {
    using field = new Field();
    const at = await ready(field);
    await fenced(field, at);
    const txn = at.a.line.last("turn.fence");
    expect(txn.if?.length).toBeLessThanOrEqual(128);
    expect(txn.then).toHaveLength(3);
  });

  test("two machines under one policy exclude each other, also from two groups", async () => {
    using field = new Field();
    const at = await ready(field);
    const other = field.node("b", {}, keyspace("/rota/other"));
    const place = await queued(field, other);
    const snap = await look(other, place);
    await fenced(field, at);
    expect(await fence(other, place, snap, await field.grant(60))).toBeUndefined();
    expect((await look(other, place, { ...OPEN, minHealthyAbsolute: 1 })).gates[2]?.open).toBe(false);
  });
});

describe("an unknown fence", () => {
  test("that was lost: settling keeps the place, and can be repeated when its own answer is lost", async () => {
    using field = new Field();
    const at = await ready(field);
    const { a, place, snap } = at;
    a.line.next("turn.fence", "request lost");
    a.line.next("turn.settle", "answer lost");
    expect((await faultOf(fence(a, place, snap, await field.grant(60)))).kind).toBe("store.unknown");
    expect((await faultOf(settle(a, place, snap.me.mod))).kind).toBe("store.unknown");
    expect(await settle(a, place, snap.me.mod)).toEqual({ kind: "kept" });
    expect(await field.get(place.key)).toMatchObject({ createRevision: place.create, lease: place.lease });
  });

  test("that is late cannot land after settling", async () => {
    using field = new Field();
    const { a, place, snap } = await ready(field);
    a.line.next("turn.fence", "late");
    await faultOf(fence(a, place, snap, await field.grant(60)));
    expect(await settle(a, place, snap.me.mod)).toEqual({ kind: "kept" });
    expect((await a.line.deliver()).map(({ succeeded }) => succeeded)).toEqual([false]);
    expect((await field.get(place.key))?.lease).toBe(place.lease);
    expect(await field.json(`${field.space.health}a`)).toMatchObject({ healthy: true });
  });

  test("that is late and lands after a settling that never got there is found", async () => {
    using field = new Field();
    const { a, place, snap } = await ready(field);
    a.line.next("turn.fence", "late");
    await faultOf(fence(a, place, snap, await field.grant(60)));
    a.line.next("turn.settle", "request lost");
    await faultOf(settle(a, place, snap.me.mod));
    await a.line.deliver();
    const found = await settle(a, place, snap.me.mod);
    expect(found).toMatchObject({ kind: "fenced", fenced: { place } });
  });

  test("that landed is found, with the revision that a withdrawal needs", async () => {
    using field = new Field();
    const { a, place, snap } = await ready(field);
    a.line.next("turn.fence", "answer lost");
    await faultOf(fence(a, place, snap, await field.grant(60)));
    const found = await settle(a, place, snap.me.mod);
    if (found.kind !== "fenced") throw new Error(found.kind);
    expect((await field.get(place.key))?.modRevision).toBe(found.fenced.mod);
    expect(await withdraw(a, found.fenced, await liveOf(a), true)).toBe("kept");
  });

  test.each([
    ["lapsed", async (field: Field, place: Place) => field.revoke(place.lease)],
    ["released by an operator", async (field: Field, place: Place) => field.delete(place.key)],
    [
      "made anew by somebody",
      async (field: Field, place: Place) => {
        await field.delete(place.key);
        await field.put(place.key, "x", place.lease);
      },
    ],
  ])("of a key that is %s is over for good", async (_, change) => {
    using field = new Field();
    const { a, place, snap } = await ready(field);
    a.line.next("turn.fence", "late");
    await faultOf(fence(a, place, snap, await field.grant(60)));
    await change(field, place);
    expect(await settle(a, place, snap.me.mod)).toEqual({ kind: "gone" });
    expect((await a.line.deliver()).map(({ succeeded }) => succeeded)).toEqual([false]);
  });

  test("is ruled out by a late write of my own as well", async () => {
    using field = new Field();
    const { a, place, snap } = await ready(field);
    a.line.next("turn.fence", "late");
    await faultOf(fence(a, place, snap, await field.grant(60)));
    await writeOwned(a, place);
    expect(await settle(a, place, snap.me.mod)).toEqual({ kind: "kept" });
    expect((await a.line.deliver())[0]?.succeeded).toBe(false);
  });
});

describe("withdraw", () => {
  test("gives the key its lease back: the same place in line; health is as last reported", async () => {
    using field = new Field();
    const at = await ready(field);
    const second = await queued(field, at.b);
    const snap = await look(at.a, at.place);
    const turn = await fenced(field, { ...at, snap });
    const live = await liveOf(at.a);
    expect(await withdraw(at.a, turn, live, true)).toBe("kept");
    expect(await field.get(at.place.key)).toMatchObject({ createRevision: at.place.create, lease: at.place.lease });
    expect(await field.json(at.place.key)).toMatchObject({ phase: "queued" });
    expect(await field.json(`${field.space.health}a`)).toMatchObject({ healthy: true, stage: "monitor" });
    expect((await field.get(`${field.space.health}a`))?.lease).toBe(live.lease);
    expect((await look(at.b, second)).position).toMatchObject({ ahead: 1, owns: false });
    // It dies with its lease again.
    await leave(at.a, at.place.lease);
    expect(await field.get(at.place.key)).toBeUndefined();
  });

  test("without keeping, the key goes", async () => {
    using field = new Field();
    const at = await ready(field);
    const turn = await fenced(field, at);
    expect(await withdraw(at.a, turn, await liveOf(at.a), false)).toBe("gone");
    expect(await field.get(at.place.key)).toBeUndefined();
    expect(await field.json(`${field.space.health}a`)).toMatchObject({ healthy: true });
  });

  test("when the lease is dead the key goes, and is not left permanent", async () => {
    using field = new Field();
    const at = await ready(field);
    const turn = await fenced(field, at);
    await leave(at.a, at.place.lease);
    expect(await withdraw(at.a, turn, await liveOf(at.a), true)).toBe("gone");
    expect(await field.get(at.place.key)).toBeUndefined();
    expect(await field.json(`${field.space.health}a`)).toMatchObject({ healthy: true });
  });

  test("when the lease of the live record is dead it says so, and nothing has changed", async () => {
    using field = new Field();
    const at = await ready(field);
    const turn = await fenced(field, at);
    const live = await liveOf(at.a);
    await field.revoke(live.lease);
    expect((await faultOf(withdraw(at.a, turn, live, false))).kind).toBe("store.no-lease");
    expect((await faultOf(withdraw(at.a, turn, live, true))).kind).toBe("store.no-lease");
    expect((await field.get(at.place.key))?.lease).toBe("0");
    expect(await field.json(`${field.space.health}a`)).toMatchObject({ healthy: false });
  });

  test.each([true, false])("repeated after a lost answer it finds what it did (keep: %p)", async (keep) => {
    using field = new Field();
    const at = await ready(field);
    const turn = await fenced(field, at);
    const live = await liveOf(at.a);
    at.a.line.next("turn.withdraw", "answer lost");
    expect((await faultOf(withdraw(at.a, turn, live, keep))).kind).toBe("store.unknown");
    expect(await withdraw(at.a, turn, live, keep)).toBe(keep ? "kept" : "gone");
  });

  test("a late repetition does not undo the next fence", async () => {
    using field = new Field();
    const at = await ready(field);
    const turn = await fenced(field, at);
    at.a.line.next("turn.withdraw", "late");
    await faultOf(withdraw(at.a, turn, await liveOf(at.a), true));
    expect(await withdraw(at.a, turn, await liveOf(at.a), true)).toBe("kept");
    const again = await fenced(field, { ...at, snap: await look(at.a, at.place) });
    expect((await at.a.line.deliver())[0]?.succeeded).toBe(false);
    expect(await field.get(at.place.key)).toMatchObject({ lease: "0", modRevision: again.mod });
  });

  test("of a turn that somebody has ended: gone, and what is there now is left alone", async () => {
    using field = new Field();
    const at = await ready(field);
    const turn = await fenced(field, at);
    await field.delete(at.place.key);
    expect(await withdraw(at.a, turn, await liveOf(at.a), true)).toBe("gone");
    await field.put(at.place.key, "somebody's");
    expect(await withdraw(at.a, turn, await liveOf(at.a), true)).toBe("gone");
    expect((await field.get(at.place.key))?.value).toBe("somebody's");
  });

  test("of a key that somebody has rewritten: what is there now is withdrawn", async () => {
    using field = new Field();
    const at = await ready(field);
    const turn = await fenced(field, at);
    await field.put(at.place.key, "somebody's");
    expect(await withdraw(at.a, turn, await liveOf(at.a), true)).toBe("kept");
    expect(await field.get(at.place.key)).toMatchObject({ lease: at.place.lease, createRevision: at.place.create });
  });

  test("a store that is away is a fault: repeat", async () => {
    using field = new Field();
    const at = await ready(field);
    const turn = await fenced(field, at);
    at.a.line.next("turn.withdraw", new Fault("store.away", "away"));
    expect((await faultOf(withdraw(at.a, turn, await liveOf(at.a), true))).kind).toBe("store.away");
    expect((await field.get(at.place.key))?.lease).toBe("0");
  });
});
