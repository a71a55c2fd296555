/** Steps 2 to 4 of the turn: get in line, see who is ahead, write "owned", and leave. */
import { isoTime } from "../kernel/clock.ts";
import { Fault, isFault } from "../kernel/errors.ts";
import { add64, type Int64, type Op } from "../store/store.ts";
import { call, type Place, type TurnContext } from "./context.ts";
import { type Phase, readTurnValue, type TurnValue } from "./keys.ts";
import { type Line, type Position, position, readLine } from "./line.ts";

/** The JSON that stands in the key of a place, in this phase. */
export function turnValue(ctx: TurnContext, place: Omit<Place, "create" | "lease" | "key">, phase: Phase): string {
  const { self, clock } = ctx;
  const value: TurnValue = {
    schema: 1,
    node: self.node,
    pid: self.pid,
    ...(phase !== "queued" && { acquired_at: isoTime(clock.now()) }),
    turn_id: place.turnId,
    machine: self.machine,
    boot_id: self.bootId,
    slots: self.slots,
    phase,
    queued_at: place.queuedAt,
    ...(phase === "rebooting" && { fenced_at: isoTime(clock.now()) }),
    reason: place.reason,
  };
  return JSON.stringify(value);
}

/**
 * Step 2: puts my key under `lease`, which must be new. Safe to repeat after an unknown outcome: a key that is there already is
 * accepted only with my turn id. Faults: the store's; `turn.lost` when the key is there and is not mine; `store.no-lease` when the lease is gone.
 */
export async function enter(
  ctx: TurnContext,
  ticket: { readonly turnId: string; readonly reason: string; readonly queuedAt: string },
  lease: Int64,
  signal?: AbortSignal,
): Promise<Place> {
  const key = ctx.space.contender(lease);
  const value = turnValue(ctx, ticket, "queued");
  const answer = await ctx.store.txn(call("turn.enter", signal), {
    if: [{ target: "create", key, is: "=", to: "0" }],
    then: [{ put: key, value, lease }],
    else: [{ get: key }],
  });
  if (answer.succeeded) return { ...ticket, lease, key, create: answer.revision };
  const found = answer.reads[0]?.[0];
  if (found === undefined || readTurnValue(found.value)?.turn_id !== ticket.turnId)
    throw new Fault("turn.lost", `the key ${key} in the line is not the one this node put there`, { retry: "later" });
  return { ...ticket, lease, key, create: found.createRevision };
}

export interface LineRead {
  readonly line: Line;
  readonly revision: Int64;
  readonly storeId: Int64;
  /** Where the place stands; undefined when its key is gone. */
  readonly position: Position | undefined;
}

/** One linearizable look at the line. */
export async function lookAtLine(ctx: TurnContext, key: string, signal?: AbortSignal): Promise<LineRead> {
  const { space, store } = ctx;
  const read = await store.range(call("turn.line", signal), space.line, space.lineEnd);
  const line = readLine(space, read.kvs);
  return { line, revision: read.revision, storeId: read.storeId, position: position(line, key) };
}

/** Step 4: writes "owned". Guarded by my create-revision and lease, because a plain put would bring a lapsed key back for ever. False: the key is not mine any more. */
export async function writeOwned(ctx: TurnContext, place: Place, signal?: AbortSignal): Promise<boolean> {
  const keep: Op = { put: place.key, value: turnValue(ctx, place, "owned"), keepLease: true };
  const answer = await ctx.store.txn(call("turn.own", signal), {
    if: [
      { target: "create", key: place.key, is: "=", to: place.create },
      { target: "lease", key: place.key, is: "=", to: place.lease },
    ],
    then: [keep],
  });
  return answer.succeeded;
}

/** Gives a place up: the lease goes, and the key with it, so that a put of mine that is still on its way cannot land. */
export async function leave(ctx: TurnContext, lease: Int64, signal?: AbortSignal): Promise<void> {
  await ctx.store.revoke(call("turn.leave", signal), lease);
}

/**
 * Step 3: sees the line again whenever it may have moved for this place, and at the latest after the time that the caller allows.
 * Watches deletions only: of the key ahead when there is one slot, of the whole line when there are more.
 */
export class LineWatch {
  readonly #ctx: TurnContext;
  readonly #place: Place;
  #watch: { readonly target: string; readonly stop: AbortController; readonly moved: Promise<void> } | undefined;

  constructor(ctx: TurnContext, place: Place) {
    this.#ctx = ctx;
    this.#place = place;
  }

  /** Waits until something ahead was deleted or `maxMs` are over, then reads the line. `maxMs` 0 reads at once. */
  async next(maxMs: number, signal: AbortSignal): Promise<LineRead> {
    if (maxMs > 0) await this.#moved(maxMs, signal);
    const read = await lookAtLine(this.#ctx, this.#place.key, signal);
    this.#aim(read);
    return read;
  }

  close(): void {
    this.#watch?.stop.abort();
    this.#watch = undefined;
  }

  async #moved(maxMs: number, signal: AbortSignal): Promise<void> {
    const timer = new AbortController();
    const stop = AbortSignal.any([signal, timer.signal]);
    const over = this.#ctx.clock.sleep(maxMs, stop).catch((reason: unknown) => {
      if (signal.aborted) throw reason;
    });
    try {
      await Promise.race(this.#watch ? [over, this.#watch.moved] : [over]);
    } finally {
      timer.abort();
    }
  }

  /** Points the watch at what stands ahead of the place in this reading; a watch that already looks there goes on. */
  #aim(read: LineRead): void {
    const { space } = this.#ctx;
    const ahead = read.position?.before.at(-1);
    if (read.position === undefined || ahead === undefined || read.position.owns) return this.close();
    const target = read.position.slots === 1 ? ahead.key : space.line;
    if (this.#watch?.target === target) return;
    this.close();
    const stop = new AbortController();
    const watch = { target, stop, moved: this.#change(target, add64(read.revision, 1), stop.signal) };
    this.#watch = watch;
    const over = () => {
      if (this.#watch === watch) this.#watch = undefined;
    };
    watch.moved.then(over, over);
  }

  /** Resolves at the first sign of a change, and also when the watch cannot go on: then the line is read again, which shows why. */
  async #change(target: string, from: Int64, signal: AbortSignal): Promise<void> {
    const { space, store, clock } = this.#ctx;
    const range = target === space.line ? { rangeEnd: space.lineEnd } : {};
    try {
      for await (const item of store.watch(call("turn.watch", signal), {
        key: target,
        ...range,
        from,
        deletesOnly: true,
      }))
        if (item.kind !== "open") return;
    } catch (error) {
      if (!isFault(error, "store")) throw error;
      await clock.sleep(WATCH_REFUSED_PAUSE_MS);
    }
  }
}

/** A watch that the store refuses must not turn waiting into a busy loop of reads. */
const WATCH_REFUSED_PAUSE_MS = 5_000;
