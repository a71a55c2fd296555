/** How turns end: by the machine itself, by an operator, by a takeover; and what a machine finds of its own after a start. */
import { describe, expect, test } from "bun:test";
import { Field, faultOf } from "../../test/world/engine.ts";
import type { Fenced, Place } from "./context.ts";
import { fence, type Snapshot, snapshot } from "./fence.ts";
import { type Contender, keyspace } from "./keys.ts";
import { enrol, LiveRecord } from "./live.ts";
import type { PolicySettings } from "./policy.ts";
import { enter } from "./queue.ts";
import { type Ending, endTurn, release, showLine, survey, takeOver, turnOf } from "./recover.ts";
import { setStop } from "./stop.ts";

const OPEN: PolicySettings = { forbidIfOnlyFallbackLeft: false, fallbackNodes: [], blockOnUnhealthyPeer: false };
type Node = ReturnType<Field["node"]>;

async function well(...nodes: Node[]): Promise<void> {
  for (const node of nodes) {
    await enrol(node);
    await new LiveRecord(node, 100_000).report({ healthy: true, stage: "monitor" });
  }
}

async function queued(field: Field, node: Node, ttlSec = 100_000): Promise<Place> {
  const { node: name, bootId } = node.self;
  const ticket = { turnId: `t-${name}-${bootId}`, reason: "a new kernel", queuedAt: "2026-01-01T00:00:00.000Z" };
  return await enter(node, ticket, await field.grant(ttlSec));
}

/** A turn of this node, a minute old: its youth is over. */
async function turn(field: Field, node: Node): Promise<Fenced> {
  const place = await queued(field, node);
  const snap = await snapshot(node, place.key, OPEN);
  const done = await fence(node, place, snap as Snapshot & { me: Contender }, await field.grant(60));
  if (done === undefined) throw new Error("the fence said no");
  return done;
}

async function ending(node: Node, turnId: string, cooldownSec = 0): Promise<Ending> {
  const live = await new LiveRecord(node, 100_000).mark({ healthy: true, stage: "post-reboot" });
  return { turnId, live, cooldownSec };
}

describe("survey", () => {
  test("mine is what has my machine id, whatever its name; leased and permanent apart", async () => {
    using field = new Field();
    const a = field.node("a");
    const place = await queued(field, a);
    expect(await survey(a)).toMatchObject({ turn: undefined, leased: [{ key: place.key }], namesake: undefined });
    const renamed = field.node("new-name", { machine: "m-a", bootId: "boot-a-2" });
    await field.delete(place.key);
    const { mod } = await turn(field, a);
    const found = await survey(renamed);
    expect(found).toMatchObject({ turn: { mod, value: { node: "a", boot_id: "boot-a-1" } }, leased: [] });
    expect(found.namesake).toBeUndefined();
  });

  test("another machine with my name is a namesake once it is in its turn, and nothing of mine", async () => {
    using field = new Field();
    const place = await queued(field, field.node("a"));
    const twin = field.node("a", { machine: "m-twin" });
    expect(await survey(twin)).toMatchObject({ turn: undefined, leased: [], namesake: undefined });
    await field.delete(place.key);
    const { place: held } = await turn(field, field.node("a"));
    expect(await survey(twin)).toMatchObject({ turn: undefined, namesake: { key: held.key } });
  });

  test("reads my roster entry, my live record and the sign of life of my machine", async () => {
    using field = new Field();
    const a = field.node("a");
    expect(await survey(a)).toMatchObject({ roster: undefined, health: undefined, alive: undefined });
    await well(a);
    await field.put(`${field.space.alive}m-a`, JSON.stringify({ node: "old", boot_id: "b0" }));
    expect(await survey(a)).toMatchObject({
      roster: { node: "a", machine: "m-a", group: "/rota/lock" },
      health: { healthy: true },
      alive: { node: "old", bootId: "b0" },
    });
    await field.put(`${field.space.alive}m-a`, "garbage");
    expect((await survey(a)).alive).toBeUndefined();
  });

  test("of several permanent keys the oldest comes first", async () => {
    using field = new Field();
    const a = field.node("a");
    const first = await turn(field, a);
    const second = await queued(field, a);
    await field.put(second.key, (await field.get(second.key))?.value ?? "");
    expect((await survey(a)).turn?.key).toBe(first.place.key);
  });
});

describe("the end of a turn", () => {
  test("in one transaction: the key goes, the cooldown starts, health is back, and nothing is left of a ghost", async () => {
    using field = new Field();
    const a = field.node("a");
    const { place, mod } = await turn(field, a);
    await field.put(`${field.space.ghosts}m-a`, "{}");
    const before = field.engine.revision;
    expect(await endTurn(a, { key: place.key, mod }, await ending(a, place.turnId, 30))).toBe("ended");
    expect(field.engine.revision).toBe(before + 1);
    expect(await field.get(place.key)).toBeUndefined();
    expect(await field.get(`${field.space.ghosts}m-a`)).toBeUndefined();
    expect(await field.json(field.space.cooldown + place.turnId)).toMatchObject({ node: "a", duration_sec: 30 });
    expect((await field.get(field.space.cooldown + place.turnId))?.lease).not.toBe("0");
    expect(await field.json(`${field.space.health}a`)).toMatchObject({ healthy: true, stage: "post-reboot" });
    expect((await field.json(`${field.space.health}a`))["turn"]).toBeUndefined();
    await field.clock.advance(31_000);
    expect(await field.get(field.space.cooldown + place.turnId)).toBeUndefined();
  });

  test("without min_reboot_interval_sec there is no cooldown", async () => {
    using field = new Field();
    const a = field.node("a");
    const { place, mod } = await turn(field, a);
    expect(await endTurn(a, { key: place.key, mod }, await ending(a, place.turnId))).toBe("ended");
    expect(await field.below(field.space.cooldown)).toEqual([]);
  });

  test("repeated after a lost answer it is ended", async () => {
    using field = new Field();
    const a = field.node("a");
    const { place, mod } = await turn(field, a);
    a.line.next("turn.end", "answer lost");
    const end = await ending(a, place.turnId, 30);
    expect((await faultOf(endTurn(a, { key: place.key, mod }, end))).kind).toBe("store.unknown");
    expect(await endTurn(a, { key: place.key, mod }, end)).toBe("ended");
    expect(await field.below(field.space.cooldown)).toHaveLength(1);
  });

  test("each try has a cooldown of full length: an outage does not eat it up", async () => {
    using field = new Field();
    const a = field.node("a");
    const { place, mod } = await turn(field, a);
    a.line.next("turn.end", "request lost");
    const end = await ending(a, place.turnId, 30);
    await faultOf(endTurn(a, { key: place.key, mod }, end));
    await field.clock.advance(29_000);
    expect(await endTurn(a, { key: place.key, mod }, end)).toBe("ended");
    await field.clock.advance(29_000);
    expect(await field.below(field.space.cooldown)).toHaveLength(1);
    await field.clock.advance(2_000);
    expect(await field.below(field.space.cooldown)).toHaveLength(0);
  });

  test("a turn that somebody has ended is gone; then health is proven and the cooldown starts all the same", async () => {
    using field = new Field();
    const a = field.node("a");
    const { place, mod } = await turn(field, a);
    await field.clock.advance(61_000);
    const [shown] = await showLine(field.store, field.space);
    if (shown === undefined) throw new Error("nobody in line");
    await release(field.store, field.space, shown, { who: "op", why: "dead", at: 0, force: false });
    expect(await field.get(field.space.ended(place.turnId))).toBeDefined();
    const end = await ending(a, place.turnId, 30);
    expect(await endTurn(a, { key: place.key, mod }, end)).toBe("gone");
    expect(await field.json(`${field.space.health}a`)).toMatchObject({ healthy: false, turn: place.turnId });
    expect(await endTurn(a, { key: place.key, mod: undefined }, end)).toBe("ended");
    expect(await field.json(`${field.space.health}a`)).toMatchObject({ healthy: true });
    expect(await field.get(field.space.ended(place.turnId))).toBeUndefined();
    expect(await field.below(field.space.cooldown)).toHaveLength(1);
  });

  test("a key that was rewritten, or is there although it was thought gone, is ended as it stands now", async () => {
    using field = new Field();
    const a = field.node("a");
    const { place, mod } = await turn(field, a);
    await field.put(place.key, "somebody's");
    const now = (await field.get(place.key))?.modRevision ?? "";
    const end = await ending(a, place.turnId);
    expect(await endTurn(a, { key: place.key, mod }, end)).toEqual({ mod: now });
    expect(await endTurn(a, { key: place.key, mod: undefined }, end)).toEqual({ mod: now });
    expect(await endTurn(a, { key: place.key, mod: now }, end)).toBe("ended");
    expect(await field.get(place.key)).toBeUndefined();
  });

  test("a late repetition does not write health over the down of the next turn", async () => {
    using field = new Field();
    const a = field.node("a");
    const first = await turn(field, a);
    await field.delete(first.place.key);
    const end = await ending(a, first.place.turnId);
    a.line.next("turn.end", "late");
    expect((await faultOf(endTurn(a, { key: first.place.key, mod: undefined }, end))).kind).toBe("store.unknown");
    expect(await endTurn(a, { key: first.place.key, mod: undefined }, end)).toBe("ended");
    await turn(field, a);
    await a.line.deliver();
    expect(await field.json(`${field.space.health}a`)).toMatchObject({ healthy: false, stage: "turn" });
  });

  test("with a dead lease for the live record nothing happens: the fault says so, and the turn stays", async () => {
    using field = new Field();
    const a = field.node("a");
    const { place, mod } = await turn(field, a);
    const end = await ending(a, place.turnId);
    await field.revoke(end.live.lease);
    expect((await faultOf(endTurn(a, { key: place.key, mod }, end))).kind).toBe("store.no-lease");
    expect((await field.get(place.key))?.modRevision).toBe(mod);
  });
});

describe("release", () => {
  const by = (more: Partial<Parameters<typeof release>[3]> = {}) => ({
    who: "op@desk",
    why: "mainboard died",
    at: 0,
    force: false,
    ...more,
  });

  async function shown(field: Field) {
    const [first] = await showLine(field.store, field.space);
    if (first === undefined) throw new Error("nobody in line");
    return first;
  }

  test("ends the turn as it was shown and leaves a note; the machine counts as down still", async () => {
    using field = new Field();
    const a = field.node("a");
    await well(a);
    const { place } = await turn(field, a);
    await field.clock.advance(61_000);
    const seen = await shown(field);
    expect(seen).toMatchObject({ daemonAlive: false, young: false, contender: { permanent: true } });
    await release(field.store, field.space, seen, by());
    expect(await field.get(place.key)).toBeUndefined();
    expect(await field.json(field.space.ended(place.turnId))).toEqual({
      node: "a",
      who: "op@desk",
      why: "mainboard died",
      at: "1970-01-01T00:00:00.000Z",
    });
    expect(await field.json(`${field.space.health}a`)).toMatchObject({ healthy: false, turn: place.turnId });
  });

  test("is refused while the fence is young, with or without force", async () => {
    using field = new Field();
    await turn(field, field.node("a"));
    const seen = await shown(field);
    expect(seen.young).toBe(true);
    for (const force of [false, true]) {
      const fault = await faultOf(release(field.store, field.space, seen, by({ force })));
      expect(fault.kind).toBe("turn.refused");
      expect(fault.message).toContain("try again in a minute");
    }
    await field.clock.advance(61_000);
    await release(field.store, field.space, seen, by());
  });

  test("is refused when the key is not as shown, and when it is gone", async () => {
    using field = new Field();
    const a = field.node("a");
    const place = await queued(field, a);
    const seen = await shown(field);
    await field.put(place.key, (await field.get(place.key))?.value ?? "", place.lease);
    const fault = await faultOf(release(field.store, field.space, seen, by()));
    expect(fault.kind).toBe("turn.changed");
    expect(fault.message).toContain("has changed since it was shown");
    expect(await field.get(place.key)).toBeDefined();
    await field.delete(place.key);
    expect((await faultOf(release(field.store, field.space, seen, by()))).message).toContain("has ended meanwhile");
  });

  test("a turn that was withdrawn and fenced anew since it was shown stays", async () => {
    using field = new Field();
    const a = field.node("a");
    const first = await turn(field, a);
    await field.clock.advance(61_000);
    const seen = await shown(field);
    await field.delete(first.place.key);
    const second = await turn(field, a);
    await field.clock.advance(61_000);
    expect((await faultOf(release(field.store, field.space, seen, by()))).kind).toBe("turn.changed");
    expect(await field.get(second.place.key)).toBeDefined();
  });

  test("is refused while the daemon of that boot is alive, unless forced; that of a later boot does not count", async () => {
    using field = new Field();
    const a = field.node("a");
    const { place } = await turn(field, a);
    await field.clock.advance(61_000);
    const alive = (boot: string) => field.put(`${field.space.alive}m-a`, JSON.stringify({ node: "a", boot_id: boot }));
    await alive("boot-a-1");
    const seen = await shown(field);
    expect(seen.daemonAlive).toBe(true);
    const fault = await faultOf(release(field.store, field.space, seen, by()));
    expect(fault.kind).toBe("turn.refused");
    expect(fault.message).toContain("still runs in the boot in which it took this turn");
    await alive("boot-a-2");
    expect((await shown(field)).daemonAlive).toBe(false);
    await alive("boot-a-1");
    await release(field.store, field.space, await shown(field), by({ force: true }));
    expect(await field.get(place.key)).toBeUndefined();
  });

  test("a daemon that has come back since the turn was shown is asked about again", async () => {
    using field = new Field();
    const { place } = await turn(field, field.node("a"));
    await field.clock.advance(61_000);
    const seen = await shown(field);
    await field.put(`${field.space.alive}m-a`, JSON.stringify({ node: "a", boot_id: "boot-a-1" }));
    const fault = await faultOf(release(field.store, field.space, seen, by()));
    expect(fault.kind).toBe("turn.changed");
    expect(fault.message).toContain("the daemon of a has come or gone since");
    expect(await field.get(place.key)).toBeDefined();
    expect((await faultOf(release(field.store, field.space, await shown(field), by()))).kind).toBe("turn.refused");
    await release(field.store, field.space, seen, by({ force: true }));
  });

  test("a refusal leaves no lease behind", async () => {
    using field = new Field();
    await turn(field, field.node("a"));
    const seen = await shown(field);
    const before = field.engine.leases();
    await faultOf(release(field.store, field.space, seen, by()));
    expect(field.engine.leases()).toEqual(before);
  });

  test("a foreign key needs force", async () => {
    using field = new Field();
    await field.put(`${field.space.line}abc`, "etcdctl lock", await field.grant());
    const seen = await shown(field);
    expect(seen).toMatchObject({ daemonAlive: false, young: false });
    const fault = await faultOf(release(field.store, field.space, seen, by()));
    expect(fault.kind).toBe("turn.refused");
    expect(fault.message).toContain("not one of Rota's keys");
    await release(field.store, field.space, seen, by({ force: true }));
    expect(await field.below(field.space.line)).toEqual([]);
    expect(await field.json(field.space.ended("abc"))).toMatchObject({ node: null });
  });

  test("repeated after a lost answer it says that the turn has ended", async () => {
    using field = new Field();
    const op = field.node("op");
    await turn(field, field.node("a"));
    await field.clock.advance(61_000);
    const seen = await shown(field);
    // The lease of the note is granted first, under the same label.
    op.line.next("turn.release", "as usual", "answer lost");
    expect((await faultOf(release(op.store, field.space, seen, by()))).kind).toBe("store.unknown");
    expect((await faultOf(release(field.store, field.space, seen, by()))).message).toContain("has ended meanwhile");
  });
});

describe("takeover", () => {
  interface Silent {
    readonly a: Node;
    readonly b: Node;
    readonly place: Place;
    readonly ghost: Contender;
    readonly snap: Snapshot;
  }

  /** a is in its turn and silent, b waits and has looked. */
  async function silent(field: Field): Promise<Silent> {
    const [a, b] = [field.node("a"), field.node("b")];
    await well(a, b);
    await turn(field, a);
    const place = await queued(field, b);
    await field.clock.advance(61_000);
    const snap = await snapshot(b, place.key, OPEN);
    const ghost = snap.line[0];
    if (ghost === undefined) throw new Error("nobody in line");
    return { a, b, place, ghost, snap };
  }

  test("ends the turn, names the ghost, and leaves it down in the eyes of policy", async () => {
    using field = new Field();
    const { b, ghost, snap, place } = await silent(field);
    expect(await takeOver(b, ghost, snap)).toBe(true);
    expect(await field.get(ghost.key)).toBeUndefined();
    expect(await field.json(`${field.space.ghosts}m-a`)).toMatchObject({ node: "a", who: "b", why: "max_hold_sec" });
    expect((await field.get(`${field.space.ghosts}m-a`))?.lease).toBe("0");
    expect(await field.json(field.space.ended("t-a-boot-a-1"))).toMatchObject({ who: "b" });
    const after = await snapshot(b, place.key, { ...OPEN, minHealthyAbsolute: 1 });
    expect(after.position?.owns).toBe(true);
    expect(after.gates[2]?.open).toBe(false);
  });

  const changes: readonly (readonly [string, (field: Field, at: Silent) => Promise<unknown>])[] = [
    ["the ghost's key", (field, { ghost }) => field.put(ghost.key, "x")],
    ["the ghost's turn ended", (field, { ghost }) => field.delete(ghost.key)],
    ["the ghost's daemon came back", (field) => field.put(`${field.space.alive}m-a`, "{}")],
    ["a youth for its turn", (field) => field.put(field.space.fresh("t-a-boot-a-1"), "")],
    ["another ghost", (field) => field.put(`${field.space.ghosts}m-z`, "{}")],
    [
      "a stop",
      (field) => setStop(field.store, field.space, { label: "x" }, { who: "o", why: "w", now: 0, everywhere: true }),
    ],
    ["somebody's health", (_, { b }) => new LiveRecord(b, 60).report({ healthy: false, stage: "monitor" })],
    ["the roster", (field) => enrol(field.node("c"))],
    ["the line", (field) => queued(field, field.node("c"))],
  ];
  test.each(changes)("does not happen after a change of: %s", async (_, change) => {
    using field = new Field();
    const at = await silent(field);
    await change(field, at);
    const before = await field.get(at.ghost.key);
    const leases = field.engine.leases();
    expect(await takeOver(at.b, at.ghost, at.snap)).toBe(false);
    expect(field.engine.leases()).toEqual(leases);
    expect(await field.get(at.ghost.key)).toEqual(before);
    expect(await field.get(`${field.space.ghosts}m-a`)).toBeUndefined();
  });

  test("never of a foreign key", async () => {
    using field = new Field();
    const { b, snap } = await silent(field);
    const foreign: Contender = { key: `${field.space.line}1`, lease: "0", create: "1", mod: "1", permanent: true };
    expect(await takeOver(b, foreign, snap)).toBe(false);
  });

  test("the machine that was taken over proves itself and is no ghost any more", async () => {
    using field = new Field();
    const { b, ghost, snap } = await silent(field);
    await takeOver(b, ghost, snap);
    const back = field.node("a", { bootId: "boot-a-2" });
    expect((await survey(back)).turn).toBeUndefined();
    const end = await ending(back, "t-a-boot-a-1");
    expect(await endTurn(back, { key: ghost.key, mod: undefined }, end)).toBe("ended");
    expect(await field.below(field.space.ghosts)).toEqual([]);
    expect(await field.json(`${field.space.health}a`)).toMatchObject({ healthy: true });
  });
});

test("showLine: every contender with the signs of its own group only", async () => {
  using field = new Field();
  const a = field.node("a");
  await turn(field, a);
  await queued(field, field.node("b"));
  await field.put(`${keyspace("/rota/other").alive}m-b`, JSON.stringify({ boot_id: "boot-b-1" }));
  expect(
    (await showLine(field.store, field.space)).map((s) => [s.contender.value?.node, s.daemonAlive, s.young]),
  ).toEqual([
    ["a", false, true],
    ["b", false, false],
  ]);
});

test("turnOf a foreign contender names nothing", () => {
  const turn = turnOf({ key: "/k/1", lease: "0", create: "4", mod: "5", permanent: true });
  expect(turn).toEqual({
    place: { turnId: "", reason: "", queuedAt: "", lease: "0", key: "/k/1", create: "4" },
    mod: "5",
  });
});

test("a machine whose daemon runs in a later boot is back, and no longer in the boot that took the turn", async () => {
  using field = new Field();
  const a = field.node("a");
  await turn(field, a);
  const sign = (boot: string) => JSON.stringify({ node: "a", boot_id: boot });
  await field.put(`${field.space.alive}m-a`, sign(a.self.bootId));
  expect((await showLine(field.store, field.space))[0]).toMatchObject({ daemonAlive: true, cameBack: false });
  await field.put(`${field.space.alive}m-a`, sign("boot-a-2"));
  expect((await showLine(field.store, field.space))[0]).toMatchObject({ daemonAlive: false, cameBack: true });
  await field.delete(`${field.space.alive}m-a`);
  expect((await showLine(field.store, field.space))[0]).toMatchObject({ daemonAlive: false, cameBack: false });
});
