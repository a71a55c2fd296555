/** Steps 1, 9, 10 and 11 of the turn: read what is mine after a start, end a turn, and let an operator or a takeover end one. */
import { isoTime } from "../kernel/clock.ts";
import { Fault, isFault } from "../kernel/errors.ts";
import type { Compare, Int64, Op, Store } from "../store/store.ts";
import { call, type Fenced, type TurnContext } from "./context.ts";
import { cooldownPut } from "./cooldown.ts";
import { healthPut, type LiveHealth, type Snapshot, unchangedSince } from "./fence.ts";
import { type Contender, type Keyspace, readObject } from "./keys.ts";
import { type Line, readLine } from "./line.ts";
import { type HealthRecord, type RosterEntry, readHealthRecord, readRosterEntry } from "./roster.ts";

/** How long the note about a turn that somebody ended stays, s (30 days): longer than a machine is usually away. */
const ENDED_TTL_SEC = 30 * 24 * 3600;

/** What the store holds about this machine. */
export interface Survey {
  readonly revision: Int64;
  readonly storeId: Int64;
  readonly line: Line;
  /** My permanent key, the oldest if there should be several. Mine = my machine id, never my name. */
  readonly turn: Contender | undefined;
  /** My leased keys: left over from an earlier process, or from an answer that never came. */
  readonly leased: readonly Contender[];
  /** A permanent key of another machine with my name. */
  readonly namesake: Contender | undefined;
  readonly roster: RosterEntry | undefined;
  readonly health: HealthRecord | undefined;
  /** The daemon that shows itself alive with my machine id, by node name and boot id; my own earlier ones too. */
  readonly alive: { readonly node: string; readonly bootId: string } | undefined;
  /** Mod-revision of the mark of a takeover that has ended a turn of this machine, and no verified turn has ended since. */
  readonly ghost: Int64 | undefined;
}

/**
 * Step 1: one linearizable look at the line and at my own records. `recorded` is the key that turn.json knows: after a change of lock_key
 * it stands in the line of another group, and is mine all the same.
 */
export async function survey(ctx: TurnContext, signal?: AbortSignal, recorded?: string): Promise<Survey> {
  const elsewhere = recorded !== undefined && !recorded.startsWith(ctx.space.line) ? recorded : undefined;
  const { space, store, self } = ctx;
  const answer = await store.txn(call("turn.survey", signal), {
    then: [
      { get: space.line, rangeEnd: space.lineEnd },
      { get: space.roster + self.node },
      { get: space.health + self.node },
      { get: space.alive + self.machine },
      { get: space.ghosts + self.machine },
      ...(elsewhere === undefined ? [] : [{ get: elsewhere }]),
    ],
  });
  const line = readLine(space, answer.reads[0] ?? []);
  const left = readLine({ line: elsewhere?.replace(/[^/]*$/, "") ?? "" }, answer.reads[5] ?? []);
  const mine = [...line, ...left].filter((contender) => contender.value?.machine === self.machine);
  const roster = answer.reads[1]?.[0];
  const health = answer.reads[2]?.[0];
  const alive = readObject(answer.reads[3]?.[0]?.value ?? "");
  return {
    revision: answer.revision,
    storeId: answer.storeId,
    line,
    turn: mine.find((contender) => contender.permanent),
    leased: mine.filter((contender) => !contender.permanent),
    namesake: line.find((c) => c.permanent && c.value?.node === self.node && c.value.machine !== self.machine),
    roster: roster && readRosterEntry(roster.value),
    health: health && readHealthRecord(health.value),
    alive: alive && { node: String(alive["node"]), bootId: String(alive["boot_id"]) },
    ghost: answer.reads[4]?.[0]?.modRevision,
  };
}

/** This machine has proven itself healthy outside a turn: the ghost that it was taken for at revision `mod` is none any more. */
export async function layGhost(ctx: TurnContext, mod: Int64, signal?: AbortSignal): Promise<void> {
  const key = ctx.space.ghosts + ctx.self.machine;
  const same: Compare = { target: "mod", key, is: "=", to: mod };
  await ctx.store.txn(call("turn.lay-ghost", signal), { if: [same], then: [{ delete: key }] });
}

/** What is written when a turn ends well. */
export interface Ending {
  readonly turnId: string;
  readonly live: LiveHealth;
  /** 0: no cooldown. */
  readonly cooldownSec: number;
}

/**
 * Step 9: gives the verified turn up and starts the cooldown in one transaction. With `fenced` undefined the key is gone already
 * (somebody released this machine), and `key` says which one must not be there. Throws while there is no definite answer: repeat.
 * Resolves to "ended", or "gone" when the key was not there any more (repeat with `fenced` undefined), or to the turn as it stands now.
 */
export async function endTurn(
  ctx: TurnContext,
  turn: { readonly key: string; readonly mod: Int64 } | { readonly key: string; readonly mod: undefined },
  ending: Ending,
  signal?: AbortSignal,
): Promise<"ended" | "gone" | { readonly mod: Int64 }> {
  const { space, store, self, clock } = ctx;
  const unchanged = await stillMine(ctx, turn, signal);
  const ops: Op[] = [
    healthPut(ctx, ending.live),
    { delete: space.ghosts + self.machine },
    { delete: space.ended(ending.turnId) },
  ];
  if (turn.mod !== undefined) ops.push({ delete: turn.key });
  if (ending.cooldownSec > 0) {
    // A lease of its own for each try: one granted before an outage would already have run down.
    const lease = await store.grant(call("turn.cooldown", signal), ending.cooldownSec);
    const startedAt = isoTime(clock.now());
    ops.push(
      cooldownPut(space, lease, { turnId: ending.turnId, node: self.node, startedAt, durationSec: ending.cooldownSec }),
    );
  }
  const answer = await store.txn(call("turn.end", signal), {
    if: unchanged,
    then: ops,
    else: [{ get: turn.key }, { get: space.health + self.node }],
  });
  if (answer.succeeded) return "ended";
  const found = answer.reads[0]?.[0];
  if (found !== undefined) return { mod: found.modRevision };
  // Gone. If my live record is out of the turn too, an earlier try of this transaction landed and its answer was lost.
  const health = answer.reads[1]?.[0];
  const record = health && readHealthRecord(health.value);
  return record?.machine === self.machine && record.turn === undefined ? "ended" : "gone";
}

/**
 * The end of a verified turn on a store that has no space left: it refuses every put and every lease, and takes deletes. So the live record
 * goes (silence counts as down until it can be written again) and the cooldown is not started; nobody can be fenced on a full store
 * either. Resolves to whether the turn has ended.
 */
export async function endTurnWithoutRoom(
  { space, store, self }: TurnContext,
  { key, mod }: { readonly key: string; readonly mod: Int64 },
  turnId: string,
  signal?: AbortSignal,
): Promise<boolean> {
  const answer = await store.txn(call("turn.end", signal), {
    if: [{ target: "mod", key, is: "=", to: mod }],
    then: [
      { delete: key },
      { delete: space.health + self.node },
      { delete: space.ghosts + self.machine },
      { delete: space.ended(turnId) },
    ],
  });
  return answer.succeeded;
}

/**
 * What must hold for the end of a turn. The mod-revision of its key changes with it, so no try lands twice; an absent key stays absent, and
 * a late repetition would write health over the "down" of the next turn: there the live record's own revision stands in.
 */
async function stillMine(
  { space, store, self }: TurnContext,
  { key, mod }: { readonly key: string; readonly mod: Int64 | undefined },
  signal?: AbortSignal,
): Promise<Compare[]> {
  if (mod !== undefined) return [{ target: "mod", key, is: "=", to: mod }];
  const health = space.health + self.node;
  const record = (await store.range(call("turn.end.health", signal), health)).kvs[0];
  return [
    { target: "create", key, is: "=", to: "0" },
    { target: "mod", key: health, is: "=", to: record?.modRevision ?? "0" },
  ];
}

/** A turn as an operator was shown it. */
export interface ShownTurn {
  readonly contender: Contender;
  /** The daemon that asked for this turn is still running, in the same boot. */
  readonly daemonAlive: boolean;
  /** A daemon of this machine runs in a later boot: it is back, and has not proven itself healthy yet. */
  readonly cameBack: boolean;
  /** Mod-revision of the sign of life of its machine, in whichever boot; "0" when there is none. */
  readonly aliveMod: Int64;
  /** The fence is so young that its owner may still run the reboot command. */
  readonly young: boolean;
}

/** All contenders with what decides whether they may be released. */
export async function showLine(store: Store, space: Keyspace, signal?: AbortSignal): Promise<readonly ShownTurn[]> {
  const answer = await store.txn(call("turn.show", signal), {
    then: [
      { get: space.line, rangeEnd: space.lineEnd },
      { get: space.alive, rangeEnd: space.aliveEnd },
      { get: space.fresh(""), rangeEnd: `${space.fresh("").slice(0, -1)}0` },
    ],
  });
  const signs = new Map((answer.reads[1] ?? []).map((kv) => [kv.key.slice(space.alive.length), kv]));
  const fresh = new Set((answer.reads[2] ?? []).map((kv) => kv.key));
  return readLine(space, answer.reads[0] ?? []).map((contender) => {
    const { value } = contender;
    const sign = value && signs.get(value.machine);
    const sameBoot = sign !== undefined && String(readObject(sign.value)?.["boot_id"]) === value?.boot_id;
    return {
      contender,
      daemonAlive: sameBoot,
      cameBack: sign !== undefined && !sameBoot && contender.permanent,
      aliveMod: sign?.modRevision ?? "0",
      young: value !== undefined && fresh.has(space.fresh(value.turn_id)),
    };
  });
}

/**
 * Step 10: an operator ends a turn, by key and the revision that was shown. Faults: `turn.refused` with the reason when it may not
 * be (`force` overrides a living daemon and a foreign key, never the youth of a fence), `turn.changed` when the key is not as shown.
 */
export async function release(
  store: Store,
  space: Keyspace,
  shown: ShownTurn,
  by: { readonly who: string; readonly why: string; readonly at: number; readonly force: boolean },
  signal?: AbortSignal,
): Promise<void> {
  const { contender } = shown;
  const { value } = contender;
  if (!by.force && value === undefined)
    throw new Fault(
      "turn.refused",
      `${contender.key} is not one of Rota's keys (etcdctl lock, or another program); --force releases it all the same`,
    );
  if (!by.force && shown.daemonAlive)
    throw new Fault(
      "turn.refused",
      `the daemon of ${value?.node} still runs in the boot in which it took this turn and may yet reboot; stop it first, or use --force`,
    );
  const turnId = value?.turn_id ?? contender.key.slice(space.line.length);
  const note = { node: value?.node ?? null, who: by.who, why: by.why, at: isoTime(by.at) };
  // While the operator thought, the daemon may have been started again, and may be about to end what it finds or to go down.
  const sameDaemon: Compare[] =
    by.force || value === undefined
      ? []
      : [{ target: "mod", key: space.alive + value.machine, is: "=", to: shown.aliveMod }];
  const lease = await store.grant(call("turn.release", signal), ENDED_TTL_SEC);
  const answer = await store.txn(call("turn.release", signal), {
    if: [
      { target: "mod", key: contender.key, is: "=", to: contender.mod },
      { target: "create", key: space.fresh(turnId), is: "=", to: "0" },
      ...sameDaemon,
    ],
    then: [{ delete: contender.key }, { put: space.ended(turnId), value: JSON.stringify(note), lease }],
    else: [{ get: contender.key }, { get: space.fresh(turnId) }],
  });
  if (answer.succeeded) return;
  await giveBack(store, lease);
  if (answer.reads[1]?.length)
    throw new Fault(
      "turn.refused",
      `the turn of ${value?.node} was taken within the last ${60} s and its reboot command may be about to run; try again in a minute`,
      { retry: "later" },
    );
  const now = answer.reads[0]?.[0];
  if (now !== undefined && now.modRevision === contender.mod)
    throw new Fault("turn.changed", `the daemon of ${value?.node} has come or gone since; look at the queue again`, {
      retry: "later",
    });
  const gone = now === undefined;
  throw new Fault(
    "turn.changed",
    gone ? "the turn has ended meanwhile" : "the turn has changed since it was shown; look at the queue again",
    { retry: "later" },
  );
}

/**
 * Step 11: ends the turn of a machine that has been silent for too long, by policy instead of by an operator. Resolves to whether it
 * happened. `snap` shows the ghost's key, its silence, and an open policy.
 */
export async function takeOver(
  ctx: TurnContext,
  ghost: Contender,
  snap: Snapshot,
  signal?: AbortSignal,
): Promise<boolean> {
  const { space, store, self, clock } = ctx;
  if (ghost.value === undefined) return false;
  const { machine, node, turn_id: turnId } = ghost.value;
  const note = { node, who: self.node, why: "max_hold_sec", at: isoTime(clock.now()) };
  const lease = await store.grant(call("turn.takeover", signal), ENDED_TTL_SEC);
  const answer = await store.txn(call("turn.takeover", signal), {
    if: [
      { target: "mod", key: ghost.key, is: "=", to: ghost.mod },
      { target: "create", key: space.fresh(turnId), is: "=", to: "0" },
      { target: "create", key: space.ghosts, rangeEnd: space.ghostsEnd, is: "=", to: "0" },
      { target: "create", key: space.alive + machine, is: "=", to: "0" },
      ...unchangedSince(ctx, snap.revision),
    ],
    then: [
      { delete: ghost.key },
      { put: space.ghosts + machine, value: JSON.stringify({ ...note, turn_id: turnId }) },
      { put: space.ended(turnId), value: JSON.stringify(note), lease },
    ],
  });
  if (!answer.succeeded) await giveBack(store, lease);
  return answer.succeeded;
}

/** A lease that nothing came to hang on: the note about the end of a turn would keep it for a month. */
async function giveBack(store: Store, lease: Int64): Promise<void> {
  await store.revoke(call("turn.give-back"), lease).catch((error: unknown) => {
    if (!isFault(error, "store")) throw error;
  });
}

/** The turn that a contender of this machine stands for, with what a withdrawal needs. */
export function turnOf(contender: Contender): Fenced {
  const { value } = contender;
  const place = {
    turnId: value?.turn_id ?? "",
    reason: value?.reason ?? "",
    queuedAt: value?.queued_at ?? "",
    lease: contender.lease,
    key: contender.key,
    create: contender.create,
  };
  return { place, mod: contender.mod };
}
