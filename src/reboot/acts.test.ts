/** Acts in the moments that the loop rarely sees: leases that die, keys that are not mine, marks of others. */
import { describe, expect, test } from "bun:test";
import { Field, faultOf } from "../../test/world/engine.ts";
import { TestNode } from "../../test/world/node.ts";
import { Fault } from "../kernel/errors.ts";
import type { Place } from "../turn/context.ts";
import { Acts } from "./acts.ts";
import type { FactOf, State } from "./machine.ts";

const away = () => new Fault("store.away", "away", { retry: "later" });

function acting(field: Field, name = "a") {
  const node = new TestNode(field, name);
  const stop = new AbortController();
  const acts = new Acts(node.ports, stop.signal);
  const act = async <S extends State["at"]>(state: Extract<State, { at: S }>) =>
    (await acts.carryOut(state)) as unknown as FactOf[S];
  const join = () => act<"joining">({ at: "joining", reason: "a new kernel" });
  const placed = async (): Promise<Place> => {
    const { place, why } = await join();
    if (place === undefined) throw new Error(why);
    return place;
  };
  return { node, acts, stop, act, join, placed };
}

describe("getting in line", () => {
  test("a store that says away: the lease is given back, and what is late cannot land", async () => {
    using field = new Field();
    const { node, join } = acting(field);
    node.line.next("turn.enter", "late");
    node.line.next("turn.enter", away());
    const asked = faultOf(join());
    await field.clock.advance(5_000);
    expect((await asked).kind).toBe("store.away");
    expect(field.engine.leases()).toEqual([]);
    await expect(node.line.deliver()).rejects.toMatchObject({ kind: "store.no-lease" });
    expect(await field.below(field.space.line)).toEqual([]);
  });

  test("when even the lease cannot be given back it runs out, and the place with it", async () => {
    using field = new Field();
    const { node, join } = acting(field);
    node.line.next("turn.enter", "answer lost", away());
    node.line.next("turn.leave", away());
    const asked = faultOf(join());
    await field.clock.advance(1_000);
    expect((await asked).kind).toBe("store.away");
    expect(await field.below(field.space.line)).toHaveLength(1);
    await field.clock.advance(16_000);
    expect(await field.below(field.space.line)).toEqual([]);
  });

  test("a key that is there already and is not mine: no place, and nobody's key is touched", async () => {
    using field = new Field();
    const { node, join } = acting(field);
    node.line.before.set("turn.enter", async () => {
      for (const lease of field.engine.leases()) await field.put(field.space.contender(lease), "somebody's");
    });
    expect(await join()).toMatchObject({ place: undefined });
    expect((await field.below(field.space.line)).map(({ value }) => value)).toEqual(["somebody's"]);
  });

  test("a lease that dies before the key is there: no place", async () => {
    using field = new Field();
    const { node, join } = acting(field);
    node.line.before.set("turn.enter", async () => {
      for (const lease of field.engine.leases()) await field.revoke(lease);
    });
    expect(await join()).toMatchObject({ place: undefined });
  });

  test("SIGTERM while its answer is lost: the place is given up at once", async () => {
    using field = new Field();
    const { node, stop, join } = acting(field);
    node.line.before.set("turn.enter", () => stop.abort(new Error("SIGTERM")));
    node.line.next("turn.enter", "answer lost");
    await faultOf(join());
    expect(await field.below(field.space.line)).toEqual([]);
    expect(field.engine.leases()).toEqual([]);
  });
});

describe("the fence", () => {
  test("a youth that is gone before it is used: look again, nothing has happened", async () => {
    using field = new Field();
    const { node, act, placed } = acting(field);
    const place = await placed();
    node.line.before.set("turn.fence", async () => {
      for (const lease of field.engine.leases()) if (lease !== place.lease) await field.revoke(lease);
    });
    expect(await act<"fencing">({ at: "fencing", place, by: 1e9 })).toEqual({ kind: "changed" });
    expect((await field.get(place.key))?.lease).toBe(place.lease);
  });

  test("somebody ahead again, or my key made anew: no fence is sent", async () => {
    using field = new Field();
    const first = acting(field);
    await first.placed();
    const second = acting(field, "b");
    const place = await second.placed();
    expect(await second.act<"fencing">({ at: "fencing", place, by: 1e9 })).toEqual({ kind: "changed" });
    await field.delete(place.key);
    await field.put(place.key, "x", place.lease);
    expect(await second.act<"fencing">({ at: "fencing", place, by: 1e9 })).toEqual({ kind: "gone" });
    expect(second.node.line.sent.some(({ label }) => label === "turn.fence")).toBe(false);
  });

  test("without a place there is nothing to wait for", async () => {
    using field = new Field();
    const { act, acts } = acting(field);
    const place: Place = {
      turnId: "t",
      reason: "r",
      queuedAt: "q",
      lease: "7",
      key: `${field.space.line}7`,
      create: "1",
    };
    expect(acts.placeLost).toBe(true);
    expect((await faultOf(act<"waiting">({ at: "waiting", place, rechecked: 0 }))).kind).toBe("turn.lease-lost");
  });

  test("the command is not started when turn.json knows another turn", async () => {
    using field = new Field();
    const { node, act, placed } = acting(field);
    const place = await placed();
    const fenced = { place, mod: "1" };
    expect(await act<"launching">({ at: "launching", fenced, sentAt: 0 })).toMatchObject({ launched: false });
    expect(node.launched).toEqual([]);
    expect(node.disk.turn).toBeUndefined();
  });
});

describe("the start", () => {
  test("a turn of this boot that turn.json does not know: the command may run, so the grace is waited out", async () => {
    using field = new Field();
    const node = new TestNode(field, "a");
    node.wants = true;
    node.start();
    await field.clock.until("a goes", () => node.launched.length > 0);
    node.kill();
    const again = node.again(field);
    again.disk = {};
    again.down = "a job";
    again.start();
    await field.clock.advance(120_000);
    expect(again.states).toEqual(["starting", "aftermath"]);
    expect(again.ended).toContain(node.launched[0] ?? "");
    expect(await field.below(field.space.line)).toHaveLength(1);
    again.down = undefined;
    await field.clock.until("given up", () => again.states.includes("steady"));
    expect(await field.below(field.space.line)).toEqual([]);
  });

  test("turn.json that cannot be read: nothing is done, and nothing is taken for another turn", async () => {
    using field = new Field();
    const { node, act } = acting(field);
    const unreadable = new Fault("memory.unreadable", "turn.json does not hold what Rota wrote there");
    Object.assign(node.ports.memory, { loadTurn: () => Promise.reject(unreadable) });
    expect((await faultOf(act<"starting">({ at: "starting" }))).kind).toBe("memory.unreadable");
    expect(node.line.sent).toEqual([]);
  });

  test("a roster entry of another machine with my name is refused", async () => {
    using field = new Field();
    const entry = { node: "a", machine: "m-twin", group: "/rota/lock" };
    await field.put(`${field.space.roster}a`, JSON.stringify(entry));
    expect((await faultOf(acting(field).act<"starting">({ at: "starting" }))).kind).toBe("roster.taken");
  });

  test("off the roster, a machine that has nothing to do puts itself back", async () => {
    using field = new Field();
    const { act } = acting(field);
    await act<"starting">({ at: "starting" });
    await field.delete(`${field.space.roster}a`);
    const looked = act<"steady">({ at: "steady", notBefore: 0 });
    await field.clock.advance(200);
    expect(await looked).toMatchObject({ required: false, strayTurn: false });
    expect(await field.get(`${field.space.roster}a`)).toBeDefined();
  });
});
