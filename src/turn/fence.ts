/** Steps 5 to 8 of the turn: the snapshot, the fence, what to do about an unknown outcome, and the way back. */
import { isoTime } from "../kernel/clock.ts";
import { isFault } from "../kernel/errors.ts";
import { add64, type Compare, type Int64, type KeyValue, type Op } from "../store/store.ts";
import { call, type Fenced, type Place, type TurnContext } from "./context.ts";
import { cooldownGate } from "./cooldown.ts";
import type { Contender } from "./keys.ts";
import { type Line, type Position, position, readLine } from "./line.ts";
import { type Gate, type PolicySettings, policyGate } from "./policy.ts";
import { turnValue } from "./queue.ts";
import { type Fleet, type HealthRecord, readFleet } from "./roster.ts";
import { stopGate } from "./stop.ts";

/** How long the youth key of a fence lives, s. Must be well above EXEC_DEADLINE_MS: while it lives, nobody may release the turn. */
export const YOUTH_TTL_SEC = 60;
/** From sending the fence to starting the command, ms on a clock that counts suspend. Later than this the turn may have been released. */
export const EXEC_DEADLINE_MS = 10_000;

/** Everything that the last decision rests on, as of one revision. */
export interface Snapshot {
  readonly revision: Int64;
  readonly storeId: Int64;
  readonly line: Line;
  readonly me: Contender | undefined;
  readonly position: Position | undefined;
  readonly fleet: Fleet;
  /** Stop, cooldown, policy: everybody's gates. */
  readonly gates: readonly Gate[];
  /** Machines whose daemon is running now. */
  readonly alive: readonly string[];
}

/** Step 5: one read of the line, health, roster, stop and cooldown, and the gates judged on it. */
export async function snapshot(
  ctx: TurnContext,
  key: string,
  policy: PolicySettings,
  signal?: AbortSignal,
): Promise<Snapshot> {
  const { space, store, self } = ctx;
  const answer = await store.txn(call("turn.snapshot", signal), {
    then: [
      { get: space.line, rangeEnd: space.lineEnd },
      { get: space.health, rangeEnd: space.healthEnd },
      { get: space.roster, rangeEnd: space.rosterEnd },
      { get: space.stops[0] },
      { get: space.stops[1] },
      { get: space.cooldown, rangeEnd: space.cooldownEnd },
      { get: space.alive, rangeEnd: space.aliveEnd },
    ],
  });
  const read = (index: number): readonly KeyValue[] => answer.reads[index] ?? [];
  const line = readLine(space, read(0));
  const fleet = readFleet(space, read(2), read(1));
  return {
    revision: answer.revision,
    storeId: answer.storeId,
    line,
    me: line.find((contender) => contender.key === key),
    position: position(line, key),
    fleet,
    gates: [stopGate([...read(3), ...read(4)]), cooldownGate(read(5)), policyGate(policy, fleet, line, self)],
    alive: read(6).map((kv) => kv.key.slice(space.alive.length)),
  };
}

/** Nothing of what a snapshot was judged on has been written since. Deletions do not show; that is why the roster has no lease. */
export function unchangedSince(ctx: TurnContext, revision: Int64): Compare[] {
  const { space } = ctx;
  const to = add64(revision, 1);
  return [
    { target: "mod", key: space.line, rangeEnd: space.lineEnd, is: "<", to },
    { target: "mod", key: space.health, rangeEnd: space.healthEnd, is: "<", to },
    { target: "mod", key: space.roster, rangeEnd: space.rosterEnd, is: "<", to },
    { target: "create", key: space.stops[0], is: "=", to: "0" },
    { target: "create", key: space.stops[1], is: "=", to: "0" },
  ];
}

/** What stands under my name in the live records while I am in a turn: down, and without a lease, so that silence does not change it. */
export function downRecord(ctx: TurnContext, turnId: string, reason: string): HealthRecord {
  const { node, machine } = ctx.self;
  const reported = isoTime(ctx.clock.now());
  return { node, machine, healthy: false, stage: "turn", reason, reported_at: reported, turn: turnId };
}

/**
 * Step 6: makes the turn permanent if nothing has changed since `snap`. Resolves to the turn, or to undefined when the store said no
 * (then take a new snapshot). Faults: `store.unknown` (then `settle`; never run the command), all others mean that it did not happen.
 * `youthLease` is a fresh lease of YOUTH_TTL_SEC.
 */
export async function fence(
  ctx: TurnContext,
  place: Place,
  snap: Snapshot & { readonly me: Contender },
  youthLease: Int64,
  signal?: AbortSignal,
): Promise<Fenced | undefined> {
  const { space, store, self } = ctx;
  const down = downRecord(ctx, place.turnId, `rebooting: ${place.reason}`);
  const answer = await store.txn(call("turn.fence", signal), {
    if: [
      { target: "create", key: place.key, is: "=", to: place.create },
      { target: "mod", key: place.key, is: "=", to: snap.me.mod },
      { target: "lease", key: place.key, is: "=", to: place.lease },
      { target: "create", key: space.cooldown, rangeEnd: space.cooldownEnd, is: "=", to: "0" },
      ...unchangedSince(ctx, snap.revision),
    ],
    then: [
      { put: place.key, value: turnValue(ctx, place, "rebooting") },
      { put: space.health + self.node, value: JSON.stringify(down) },
      { put: space.fresh(place.turnId), value: "", lease: youthLease },
    ],
  });
  return answer.succeeded ? { place, mod: answer.revision } : undefined;
}

export type Settled =
  /** The fence did not happen and cannot any more; the place is as it was. */
  | { readonly kind: "kept" }
  /** The fence happened: withdraw it. */
  | { readonly kind: "fenced"; readonly fenced: Fenced }
  /** The key is gone, and with it every chance of the fence. */
  | { readonly kind: "gone" };

/**
 * Step 8: finds out about a fence of unknown outcome, and rules out that it lands later, by writing my own key once more. Throws while
 * the store does not answer; repeat until it resolves. `mod` is the mod-revision that the fence was sent with.
 */
export async function settle(ctx: TurnContext, place: Place, mod: Int64, signal?: AbortSignal): Promise<Settled> {
  const answer = await ctx.store.txn(call("turn.settle", signal), {
    if: [
      { target: "mod", key: place.key, is: "=", to: mod },
      { target: "lease", key: place.key, is: "=", to: place.lease },
    ],
    then: [{ put: place.key, value: turnValue(ctx, place, "owned"), keepLease: true }],
    else: [{ get: place.key }],
  });
  if (answer.succeeded) return { kind: "kept" };
  const found = answer.reads[0]?.[0];
  if (found === undefined || found.createRevision !== place.create) return { kind: "gone" };
  if (found.lease === "0") return { kind: "fenced", fenced: { place, mod: found.modRevision } };
  // Leased with another mod-revision: an earlier try of this write has landed (its answer was lost). That too rules the fence out.
  return { kind: "kept" };
}

/** What the withdrawal or the end of a turn writes under my name in the live records: the record, and the lease it lives on. */
export interface LiveHealth {
  readonly record: HealthRecord;
  readonly lease: Int64;
}

/** The put of a live record that belongs into the transaction that ends or withdraws a turn. */
export function healthPut(ctx: TurnContext, live: LiveHealth): Op {
  return { put: ctx.space.health + ctx.self.node, value: JSON.stringify(live.record), lease: live.lease };
}

/**
 * Gives a fence back, command not run (or come to nothing): the key gets its lease again and so keeps its place; with `keep` false, or
 * when that lease is dead, the key is deleted. Resolves to where that leaves us; throws while the store does not answer: repeat.
 */
export async function withdraw(
  ctx: TurnContext,
  fenced: Fenced,
  live: LiveHealth,
  keep: boolean,
  signal?: AbortSignal,
): Promise<"kept" | "gone"> {
  const { place, mod } = fenced;
  const back: Op = keep
    ? { put: place.key, value: turnValue(ctx, place, "queued"), lease: place.lease }
    : { delete: place.key };
  try {
    const answer = await ctx.store.txn(call("turn.withdraw", signal), {
      if: [
        { target: "mod", key: place.key, is: "=", to: mod },
        { target: "lease", key: place.key, is: "=", to: "0" },
      ],
      then: [back, healthPut(ctx, live)],
      else: [{ get: place.key }],
    });
    if (answer.succeeded) return keep ? "kept" : "gone";
    const found = answer.reads[0]?.[0];
    if (found === undefined || found.createRevision !== place.create) return "gone";
    if (found.lease !== "0") return "kept";
    // Still permanent, but written by somebody else meanwhile: go by what is there now.
    return await withdraw(ctx, { place, mod: found.modRevision }, live, keep, signal);
  } catch (error) {
    if (keep && isFault(error, "store.no-lease")) return await withdraw(ctx, fenced, live, false, signal);
    throw error;
  }
}
