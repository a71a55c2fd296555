/** Steps 2 to 4 of the turn: get in line, see who is ahead, write "owned", and leave. */
import { isoTime } from "../kernel/clock.ts";
import { Fault, isFault } from "../kernel/errors.ts";
import { add64, type Int64, type Op, type WatchItem } from "../store/store.ts";
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
  /** Not read anew: it follows from the reading that the rest of this is from, and from what was seen to go since. */
  readonly deduced?: true;
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
  #last: LineRead | undefined;
  #watch: Watching | undefined;
  /** A watch that has told of a change: taken down only after its news has been used, since that takes longer than all the rest. */
  #spent: Watching | undefined;
  /** What the spent watch saw go, until somebody has looked. It may come while nobody waits. */
  #news: ReadonlySet<string> | undefined;

  constructor(ctx: TurnContext, place: Place) {
    this.#ctx = ctx;
    this.#place = place;
  }

  /** Waits until something ahead was deleted or `maxMs` are over, then gives the line. `maxMs` 0 reads it at once. */
  async next(maxMs: number, signal: AbortSignal): Promise<LineRead> {
    this.#spent?.stop();
    this.#spent = undefined;
    if (maxMs > 0 && this.#news === undefined) await this.#moved(maxMs, signal);
    const gone = this.#news;
    this.#news = undefined;
    const deduced = maxMs > 0 && gone !== undefined ? this.#without(gone) : undefined;
    if (deduced !== undefined) return deduced;
    const read = await lookAtLine(this.#ctx, this.#place.key, signal);
    this.#last = read;
    this.#aim(read);
    return read;
  }

  close(): void {
    this.#spent?.stop();
    this.#spent = undefined;
    this.#watch?.stop();
    this.#watch = undefined;
  }

  /**
   * The last reading without the keys that have gone, if the place owns in it. Ranks only fall, so there are at least as few ahead by now,
   * and a hand-over needs no further reading. That the place itself still stands is for step 4 to say, which compares it.
   */
  #without(gone: ReadonlySet<string>): LineRead | undefined {
    if (this.#last === undefined) return undefined;
    const line = this.#last.line.filter((contender) => !gone.has(contender.key));
    const where = position(line, this.#place.key);
    return where?.owns ? { ...this.#last, line, position: where, deduced: true } : undefined;
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
    if (read.position === undefined || ahead === undefined || read.position.owns) {
      this.#watch?.stop();
      this.#watch = undefined;
      return;
    }
    const target = read.position.slots === 1 ? ahead.key : space.line;
    if (this.#watch?.target === target) return;
    this.#watch?.stop();
    const watch = this.#open(target, add64(read.revision, 1));
    this.#watch = watch;
    const over = () => {
      if (this.#watch !== watch) return;
      this.#watch = undefined;
      this.#spent = watch;
      this.#news = watch.gone;
    };
    watch.moved.then(over, over);
  }

  #open(target: string, from: Int64): Watching {
    const { space, store } = this.#ctx;
    const range = target === space.line ? { rangeEnd: space.lineEnd } : {};
    const end = new AbortController();
    const options = { key: target, ...range, from, deletesOnly: true };
    const items = store.watch(call("turn.watch", end.signal), options)[Symbol.asyncIterator]();
    const stop = () => {
      end.abort();
      // Suspended between two items it would not see the signal. How it ends says nothing new.
      items.return?.().catch(() => undefined);
    };
    const gone = new Set<string>();
    return { target, stop, gone, moved: this.#change(items, gone) };
  }

  /** Resolves at the first sign of a change, and also when the watch cannot go on: then the line is read again, which shows why. */
  async #change(items: AsyncIterator<WatchItem>, gone: Set<string>): Promise<void> {
    try {
      for (let next = await items.next(); !next.done; next = await items.next()) {
        if (next.value.kind === "open") continue;
        if (next.value.kind === "events")
          for (const { type, kv } of next.value.events) if (type === "delete") gone.add(kv.key);
        return;
      }
    } catch (error) {
      if (!isFault(error, "store")) throw error;
      await this.#ctx.clock.sleep(WATCH_REFUSED_PAUSE_MS);
    }
  }
}

/** A watch under way. `moved` resolves at the first change; whoever has it ends it with `stop`. */
interface Watching {
  readonly target: string;
  readonly stop: () => void;
  /** The keys that were deleted, once it has moved. */
  readonly gone: ReadonlySet<string>;
  readonly moved: Promise<void>;
}

/** A watch that the store refuses must not turn waiting into a busy loop of reads. */
const WATCH_REFUSED_PAUSE_MS = 5_000;
