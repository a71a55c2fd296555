/** When a silent holder is taken over, and everything that keeps it from being. */
import { describe, expect, test } from "bun:test";
import { Field } from "../../test/world/engine.ts";
import type { Place } from "../turn/context.ts";
import { fence, type Snapshot, snapshot } from "../turn/fence.ts";
import type { Contender } from "../turn/keys.ts";
import { enrol, LiveRecord } from "../turn/live.ts";
import type { PolicySettings } from "../turn/policy.ts";
import { enter, lookAtLine } from "../turn/queue.ts";
import { GhostHunt } from "./ghosts.ts";

const OPEN: PolicySettings = { forbidIfOnlyFallbackLeft: false, fallbackNodes: [], blockOnUnhealthyPeer: false };
const HOLD_MS = 600_000;

/** a is in its turn and silent; b waits and looks whenever it is told to. */
async function hunt(field: Field, policy = OPEN, maxHoldMs = HOLD_MS) {
  const [a, b] = [field.node("a"), field.node("b")];
  const line = async (node: typeof a): Promise<Place> => {
    await enrol(node);
    await new LiveRecord(node, 1_000_000).report({ healthy: true, stage: "monitor" });
    const ticket = { turnId: `t-${node.self.node}`, reason: "r", queuedAt: "q" };
    return await enter(node, ticket, await field.grant(1_000_000));
  };
  const held = await line(a);
  const snap = (await snapshot(a, held.key, OPEN)) as Snapshot & { me: Contender };
  await fence(a, held, snap, await field.grant(60));
  const place = await line(b);
  const logs: string[] = [];
  const ghosts = new GhostHunt(b, (level, event, message) => void logs.push(`${level} ${event} ${message}`), maxHoldMs);
  let snapshots = 0;
  const look = async () => {
    const read = await lookAtLine(b, place.key);
    await ghosts.consider(
      read,
      () => {
        snapshots++;
        return snapshot(b, place.key, policy);
      },
      new AbortController().signal,
    );
  };
  /** Looks every ten seconds for this long. */
  const watch = async (ms: number) => {
    for (let passed = 0; passed < ms; passed += 10_000) {
      await look();
      await field.clock.advance(10_000);
    }
    await look();
  };
  const alive = async (is: boolean) => {
    const key = `${field.space.alive}m-a`;
    if (is) await field.put(key, "{}");
    else await field.delete(key);
  };
  const there = async () => (await field.get(held.key)) !== undefined;
  return { ghosts, look, watch, alive, there, logs, held, place, looks: () => snapshots };
}

describe("a silent holder", () => {
  test("is said loudly once, and taken over when it was silent for the whole time", async () => {
    using field = new Field();
    const at = await hunt(field);
    await at.watch(HOLD_MS - 20_000);
    expect(await at.there()).toBe(true);
    expect(at.logs).toEqual(["warn ghost a is in its turn and silent"]);
    await at.watch(30_000);
    expect(await at.there()).toBe(false);
    expect(at.logs.at(-1)).toBe(
      "error takeover a was silent in its turn for longer than max_hold_sec; its turn is over, it counts as down",
    );
  });

  test("is left alone when max_hold_sec is not set", async () => {
    using field = new Field();
    const at = await hunt(field, OPEN, 0);
    expect(at.ghosts.patienceMs).toBe(Number.POSITIVE_INFINITY);
    await at.watch(HOLD_MS * 3);
    expect(await at.there()).toBe(true);
    expect(at.looks()).toBe(0);
  });

  test("a sign of life begins the time anew", async () => {
    using field = new Field();
    const at = await hunt(field);
    await at.watch(HOLD_MS - 60_000);
    await at.alive(true);
    await at.look();
    await at.alive(false);
    await at.watch(HOLD_MS - 60_000);
    expect(await at.there()).toBe(true);
    await at.watch(120_000);
    expect(await at.there()).toBe(false);
  });

  test("time in which nobody could look is nobody's silence", async () => {
    using field = new Field();
    const at = await hunt(field);
    await at.watch(60_000);
    // The store was away for two hours, also for the machine that came back meanwhile.
    await field.clock.advance(7_200_000);
    await at.look();
    expect(await at.there()).toBe(true);
    await at.watch(HOLD_MS - 120_000);
    expect(await at.there()).toBe(true);
    await at.watch(120_000);
    expect(await at.there()).toBe(false);
  });

  test("a jump of the wall clock is no silence", async () => {
    using field = new Field();
    const at = await hunt(field);
    await at.watch(60_000);
    field.clock.jump(86_400_000);
    await at.watch(60_000);
    expect(await at.there()).toBe(true);
  });

  test("policy may keep it: counted down with me, and it is said why", async () => {
    using field = new Field();
    const at = await hunt(field, { ...OPEN, minHealthyAbsolute: 1 });
    await at.watch(HOLD_MS * 2);
    expect(await at.there()).toBe(true);
    expect(at.logs.at(-1)).toBe(
      "warn ghost_kept the turn of a is not taken over: 0 of 2 nodes would be up, min_healthy_absolute is 1",
    );
  });

  test("a stop keeps it; a cooldown does not", async () => {
    using field = new Field();
    const at = await hunt(field);
    await field.put(field.space.stops[0], "{}");
    await at.watch(HOLD_MS + 20_000);
    expect(await at.there()).toBe(true);
    await field.delete(field.space.stops[0]);
    await field.put(`${field.space.cooldown}t0`, "{}");
    await at.look();
    expect(await at.there()).toBe(false);
  });

  test("a second ghost is never taken over", async () => {
    using field = new Field();
    const at = await hunt(field);
    await field.put(`${field.space.ghosts}m-z`, "{}");
    await at.watch(HOLD_MS * 3);
    expect(await at.there()).toBe(true);
  });

  test("another turn of the same machine is another silence", async () => {
    using field = new Field();
    const at = await hunt(field);
    await at.watch(HOLD_MS - 60_000);
    await field.put(at.held.key, (await field.get(at.held.key))?.value ?? "");
    await at.watch(HOLD_MS - 60_000);
    expect(await at.there()).toBe(true);
  });

  test("waiters and foreign keys ahead are no ghosts", async () => {
    using field = new Field();
    const at = await hunt(field);
    await field.delete(at.held.key);
    await at.watch(HOLD_MS * 2);
    expect(at.looks()).toBe(0);
    expect(at.logs).toEqual([]);
  });
});

test("a waiter looks for silence often enough to notice it", async () => {
  using field = new Field();
  expect((await hunt(field)).ghosts.patienceMs).toBe(10_000);
  using other = new Field();
  expect((await hunt(other, OPEN, 8_000)).ghosts.patienceMs).toBe(2_000);
});
