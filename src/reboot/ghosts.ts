/** Holders that have gone silent: said loudly, and after max_hold_sec, if that is set, their turn is taken over (step 11). */
import type { Log } from "../kernel/log.ts";
import type { TurnContext } from "../turn/context.ts";
import type { Snapshot } from "../turn/fence.ts";
import type { LineRead } from "../turn/queue.ts";
import { takeOver } from "../turn/recover.ts";

/** How often silence is checked at the most, ms. */
const LOOK_MS = 10_000;
/** Between two looks no more than this counts as silence, ms: a waiter's own scripts may take a while. */
const MOST_BETWEEN_MS = 3 * LOOK_MS;

export class GhostHunt {
  readonly #ctx: TurnContext;
  readonly #log: Log;
  readonly #maxHoldMs: number;
  /**
   * The silent holder that is being timed, by key and mod-revision: how long it was seen silent on this process's own monotonic clock, and
   * when it was looked at last. Time in which nobody could look (the store away) is nobody's silence.
   */
  #timed: { readonly id: string; readonly silentMs: number; readonly at: number } | undefined;

  constructor(ctx: TurnContext, log: Log, maxHoldMs: number) {
    this.#ctx = ctx;
    this.#log = log;
    this.#maxHoldMs = maxHoldMs;
  }

  /** How long a waiter may sleep without looking for ghosts, ms. */
  get patienceMs(): number {
    return this.#maxHoldMs > 0 ? Math.min(LOOK_MS, this.#maxHoldMs / 4) : Number.POSITIVE_INFINITY;
  }

  /** Looks at the oldest holder ahead; ends its turn when it has been silent for the whole time and policy allows. */
  async consider(read: LineRead, snapshot: () => Promise<Snapshot>, signal: AbortSignal): Promise<void> {
    if (this.#maxHoldMs === 0) return;
    const holder = read.position?.before.find((contender) => contender.permanent && contender.value !== undefined);
    if (holder?.value === undefined) {
      this.#timed = undefined;
      return;
    }
    const snap = await snapshot();
    const still = snap.line.some((contender) => contender.key === holder.key && contender.mod === holder.mod);
    const now = this.#ctx.clock.monotonic();
    if (!still || snap.alive.includes(holder.value.machine)) {
      this.#timed = undefined;
      return;
    }
    const id = `${holder.key} ${holder.mod}`;
    const before = this.#timed?.id === id ? this.#timed : undefined;
    const silentMs = before === undefined ? 0 : before.silentMs + Math.min(now - before.at, MOST_BETWEEN_MS);
    this.#timed = { id, silentMs, at: now };
    if (before === undefined) {
      this.#log("warn", "ghost", `${holder.value.node} is in its turn and silent`, {
        node: holder.value.node,
        lock_id: holder.value.turn_id,
      });
    }
    if (silentMs < this.#maxHoldMs) return;
    const shut = snap.gates.find((gate) => !gate.open && gate.name !== "cooldown");
    if (shut !== undefined) {
      this.#log("warn", "ghost_kept", `the turn of ${holder.value.node} is not taken over: ${shut.why}`);
      return;
    }
    const taken = await takeOver(this.#ctx, holder, snap, signal);
    this.#timed = undefined;
    if (taken)
      this.#log(
        "error",
        "takeover",
        `${holder.value.node} was silent in its turn for longer than max_hold_sec; its turn is over, it counts as down`,
        {
          node: holder.value.node,
          lock_id: holder.value.turn_id,
        },
      );
  }
}
