/** Getting in line, seeing who is ahead, owning, and leaving: on the real engine, with lost and late answers. */
import { describe, expect, test } from "bun:test";
import { breath, Field, faultOf } from "../../test/world/engine.ts";
import { readTurnValue } from "./keys.ts";
import { enter, LineWatch, leave, lookAtLine, writeOwned } from "./queue.ts";

const ticket = (turnId: string) => ({ turnId, reason: "a new kernel", queuedAt: "2026-01-01T00:00:00.000Z" });

describe("enter", () => {
  test("puts a key named by its lease, with all that a reader needs", async () => {
    using field = new Field();
    const a = field.node("a", { slots: 2 });
    const lease = await field.grant();
    const place = await enter(a, ticket("t1"), lease);
    expect(place).toMatchObject({ turnId: "t1", lease, key: field.space.contender(lease) });
    const kv = await field.get(place.key);
    expect(kv).toMatchObject({ createRevision: place.create, lease });
    expect(readTurnValue(kv?.value ?? "")).toEqual({
      schema: 1,
      node: "a",
      pid: 7,
      turn_id: "t1",
      machine: "m-a",
      boot_id: "boot-a-1",
      slots: 2,
      phase: "queued",
      queued_at: "2026-01-01T00:00:00.000Z",
      reason: "a new kernel",
    });
  });

  test("repeated after a lost answer it finds the key that it had put", async () => {
    using field = new Field();
    const a = field.node("a");
    const lease = await field.grant();
    a.line.next("turn.enter", "answer lost");
    expect((await faultOf(enter(a, ticket("t1"), lease))).kind).toBe("store.unknown");
    const again = await enter(a, ticket("t1"), lease);
    expect((await field.get(again.key))?.createRevision).toBe(again.create);
    expect((await lookAtLine(a, again.key)).line).toHaveLength(1);
  });

  test("a key that is there with another turn id is not accepted", async () => {
    using field = new Field();
    const a = field.node("a");
    const lease = await field.grant();
    await enter(a, ticket("t1"), lease);
    expect((await faultOf(enter(a, ticket("t2"), lease))).kind).toBe("turn.lost");
    await field.put(field.space.contender(lease), "garbage", lease);
    expect((await faultOf(enter(a, ticket("t1"), lease))).kind).toBe("turn.lost");
  });

  test("without its lease a late request cannot land: that is how a place is given up", async () => {
    using field = new Field();
    const a = field.node("a");
    const lease = await field.grant();
    a.line.next("turn.enter", "late");
    await faultOf(enter(a, ticket("t1"), lease));
    await leave(a, lease);
    await expect(a.line.deliver()).rejects.toMatchObject({ kind: "store.no-lease" });
    expect(await field.below(field.space.line)).toEqual([]);
  });

  test("leaving twice, or when the lease has lapsed, is no fault", async () => {
    using field = new Field();
    const a = field.node("a");
    const lease = await field.grant();
    const { key } = await enter(a, ticket("t1"), lease);
    await leave(a, lease);
    expect(await field.get(key)).toBeUndefined();
    await leave(a, lease);
  });
});

describe("own", () => {
  test("says so in the key, keeps its lease, and can be repeated", async () => {
    using field = new Field();
    const a = field.node("a");
    const lease = await field.grant();
    const place = await enter(a, ticket("t1"), lease);
    a.line.next("turn.own", "answer lost");
    await faultOf(writeOwned(a, place));
    expect(await writeOwned(a, place)).toBe(true);
    expect(await field.get(place.key)).toMatchObject({ createRevision: place.create, lease });
    expect(await field.json(place.key)).toMatchObject({ phase: "owned", acquired_at: "2026-01-01T00:00:00.000Z" });
  });

  test("never brings a lapsed key back", async () => {
    using field = new Field();
    const a = field.node("a");
    const lease = await field.grant(5);
    const place = await enter(a, ticket("t1"), lease);
    await field.clock.advance(6_000);
    expect(await writeOwned(a, place)).toBe(false);
    expect(await field.below(field.space.line)).toEqual([]);
  });

  test("not on a key that somebody made permanent, nor on one that was made anew", async () => {
    using field = new Field();
    const a = field.node("a");
    const lease = await field.grant();
    const place = await enter(a, ticket("t1"), lease);
    await field.put(place.key, "x");
    expect(await writeOwned(a, place)).toBe(false);
    await field.delete(place.key);
    await field.put(place.key, "x", lease);
    expect(await writeOwned(a, place)).toBe(false);
  });
});

describe("the watch of a waiter", () => {
  async function inLine(field: Field, name: string, slots = 1) {
    const node = field.node(name, { slots });
    return { node, place: await enter(node, ticket(name), await field.grant(3600)) };
  }

  /** Watches as a waiter does; says whether the next reading is there. */
  function waiting(watch: LineWatch, ms: number) {
    const stop = new AbortController();
    const state: { ahead?: number | undefined; done: boolean } = { done: false };
    const over = watch.next(ms, stop.signal).then((read) => {
      state.done = true;
      state.ahead = read.position?.ahead;
    });
    return { state, over, stop };
  }

  test("the first look is at once; the next as soon as the one ahead is gone", async () => {
    using field = new Field();
    const first = await inLine(field, "a");
    const second = await inLine(field, "b");
    const watch = new LineWatch(second.node, second.place);
    const look = waiting(watch, 0);
    await look.over;
    expect(look.state.ahead).toBe(1);
    const wait = waiting(watch, 30_000);
    await breath();
    expect(wait.state.done).toBe(false);
    await field.delete(first.place.key);
    await wait.over;
    expect(wait.state.ahead).toBe(0);
    expect(field.clock.monotonic()).toBe(0);
    watch.close();
  });

  test("a deletion while the waiter does something else is not slept through", async () => {
    using field = new Field();
    const first = await inLine(field, "a");
    const second = await inLine(field, "b");
    const watch = new LineWatch(second.node, second.place);
    await watch.next(0, new AbortController().signal);
    // The waiter runs its health script; meanwhile the one ahead leaves.
    await breath();
    await field.delete(first.place.key);
    await breath();
    const wait = waiting(watch, 30_000);
    await breath();
    expect(wait.state).toEqual({ done: true, ahead: 0 });
    watch.close();
  });

  test("what was seen to go makes an owner without another reading, if nobody else was ahead", async () => {
    using field = new Field();
    const first = await inLine(field, "a");
    const second = await inLine(field, "b");
    const watch = new LineWatch(second.node, second.place);
    const { signal } = new AbortController();
    const read = await watch.next(0, signal);
    await field.delete(first.place.key);
    const known = await watch.next(30_000, signal);
    expect(known).toMatchObject({ deduced: true, revision: read.revision, position: { ahead: 0, owns: true } });
    // Asked without patience it reads, as an owner does whose gates are shut.
    expect((await watch.next(0, signal)).deduced).toBeUndefined();
    watch.close();
  });

  test("the nearest one ahead may go before the others: then only a reading tells", async () => {
    using field = new Field();
    await inLine(field, "a");
    const second = await inLine(field, "b");
    const third = await inLine(field, "c");
    const watch = new LineWatch(third.node, third.place);
    const { signal } = new AbortController();
    await watch.next(0, signal);
    await field.delete(second.place.key);
    const read = await watch.next(30_000, signal);
    expect(read).toMatchObject({ position: { ahead: 1, owns: false } });
    expect(read.deduced).toBeUndefined();
    watch.close();
  });

  test("whose own key has lapsed meanwhile finds out when it writes that it owns", async () => {
    using field = new Field();
    const first = await inLine(field, "a");
    const second = await inLine(field, "b");
    const watch = new LineWatch(second.node, second.place);
    const { signal } = new AbortController();
    await watch.next(0, signal);
    await field.revoke(second.place.lease);
    await field.delete(first.place.key);
    expect((await watch.next(30_000, signal)).position?.owns).toBe(true);
    expect(await writeOwned(second.node, second.place)).toBe(false);
    expect(await field.get(second.place.key)).toBeUndefined();
    watch.close();
  });

  test("with more slots it looks at every place of the line", async () => {
    using field = new Field();
    const first = await inLine(field, "a", 2);
    await inLine(field, "b", 2);
    const third = await inLine(field, "c", 2);
    const watch = new LineWatch(third.node, third.place);
    await watch.next(0, new AbortController().signal);
    const wait = waiting(watch, 30_000);
    await breath();
    await field.delete(first.place.key);
    await wait.over;
    expect(wait.state.ahead).toBe(1);
    watch.close();
  });

  test("reads again after the given time, whatever the watch says", async () => {
    using field = new Field();
    await inLine(field, "a");
    const second = await inLine(field, "b");
    const watch = new LineWatch(second.node, second.place);
    await watch.next(0, new AbortController().signal);
    const wait = waiting(watch, 30_000);
    await field.clock.advance(29_000);
    expect(wait.state.done).toBe(false);
    await field.clock.advance(1_001);
    expect(wait.state).toEqual({ done: true, ahead: 1 });
    watch.close();
  });

  test("a place that is gone is seen; an abort ends the wait with its reason", async () => {
    using field = new Field();
    await inLine(field, "a");
    const second = await inLine(field, "b");
    const watch = new LineWatch(second.node, second.place);
    await watch.next(0, new AbortController().signal);
    const wait = waiting(watch, 30_000);
    await breath();
    wait.stop.abort(new Error("stop"));
    await expect(wait.over).rejects.toThrow("stop");
    await field.delete(second.place.key);
    expect((await watch.next(0, new AbortController().signal)).position).toBeUndefined();
    watch.close();
  });

  test("a watch that the store refuses does not become a busy loop, and reading goes on", async () => {
    using field = new Field();
    await inLine(field, "a");
    const second = await inLine(field, "b");
    let watches = 0;
    const { Fault } = await import("../kernel/errors.ts");
    const refusing = {
      ...second.node,
      store: {
        ...second.node.store,
        watch: () => {
          watches++;
          return (async function* () {
            yield* [];
            throw new Fault("store.refused", "permission denied");
          })();
        },
      },
    };
    const watch = new LineWatch(refusing, second.place);
    const signal = new AbortController().signal;
    await watch.next(0, signal);
    for (let i = 0; i < 4; i++) {
      const next = watch.next(2_000, signal);
      await field.clock.advance(2_000);
      expect((await next).position?.ahead).toBe(1);
    }
    expect(watches).toBeLessThanOrEqual(3);
    watch.close();
  });
});
