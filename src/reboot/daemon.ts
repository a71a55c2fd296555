/** The loop of a node: carry out the act of the state, let the machine decide, wait, again. Also how it starts late, stumbles, and stops. */
import { withDeadline } from "../kernel/clock.ts";
import { Fault, isFault, sentence } from "../kernel/errors.ts";
import { showAlive } from "../turn/live.ts";
import { Acts } from "./acts.ts";
import { closing, type FactOf, type Notice, type Outcome, type State, step, stumble } from "./machine.ts";
import type { Ports } from "./ports.ts";

/** States in which somebody waits for this node, or its turn hangs in the air: trouble with the store is tried again at once, not with the long backoff. */
const URGENT: readonly State["at"][] = ["settling", "withdrawing", "finishing", "recovering", "leaving", "waiting"];
/** Longest pause between two tries in an urgent state, ms. */
const URGENT_MAX_MS = 5_000;
/** How long a daemon that is stopped tries to leave the line properly, ms. Whatever remains then ends with its lease, or waits for the next start. */
const CLOSING_MS = 10_000;

/** What an observer of the loop is told: every state that is entered, every outcome that is new. */
export interface Watcher {
  entered(state: State): void;
  noticed(notice: Notice): void;
}

/**
 * Runs one node until `signal` aborts (or, with rules.mode "once", until the pass has come to something). Resolves to the last outcome.
 * Never rejects for the world's faults: they are logged, counted and tried again ("once" rejects with the first). Rejects on a bug.
 */
export async function runDaemon(ports: Ports, signal: AbortSignal, watcher?: Watcher): Promise<Outcome> {
  return await new Daemon(ports, signal, watcher).run();
}

class Daemon {
  readonly #ports: Ports;
  readonly #signal: AbortSignal;
  readonly #watcher: Watcher | undefined;
  readonly #acts: Acts;
  #outcome: Notice = { outcome: "no_action", why: "" };
  #decided = false;
  #troubles = 0;
  /** What a single pass ("once") failed with. */
  #failed: Fault | undefined;

  constructor(ports: Ports, signal: AbortSignal, watcher: Watcher | undefined) {
    this.#ports = ports;
    this.#signal = signal;
    this.#watcher = watcher;
    this.#acts = new Acts(ports, signal);
  }

  async run(): Promise<Outcome> {
    const { settings, clock, log } = this.#ports;
    const own = new AbortController();
    const signal = AbortSignal.any([this.#signal, own.signal]);
    const alive = showAlive(this.#acts.turn, settings.lockTtlSec, signal, (error) =>
      log("debug", "alive_failed", sentence(error)),
    );
    let state: State = { at: "starting" };
    try {
      while (!this.#signal.aborted && !this.#done(state)) {
        this.#watcher?.entered(state);
        const { next, waitMs } = await this.#turn(state);
        if (next.at !== state.at) log("debug", "state", "", { from: state.at, to: next.at });
        state = next;
        if (waitMs > 0 && !this.#done(state)) await clock.sleep(waitMs, this.#signal).catch(() => undefined);
      }
      await this.#close(state);
    } finally {
      own.abort();
      await alive;
    }
    if (this.#failed) throw this.#failed;
    return this.#outcome.outcome;
  }

  /** A single pass is over when it is back in a resting state with something to say. */
  #done(state: State): boolean {
    if (this.#failed) return true;
    if (this.#ports.settings.rules.mode !== "once" || !this.#decided) return false;
    return ["steady", "recovering", "refused", "aftermath"].includes(state.at);
  }

  /** One act and its step. */
  async #turn(state: State): Promise<{ next: State; waitMs: number }> {
    const { settings, clock, log } = this.#ports;
    try {
      const fact = await this.#acts.carryOut(state);
      const { next, waitMs, notice } = step(
        state as never,
        fact as FactOf[typeof state.at] as never,
        settings.rules,
        clock.monotonic(),
      );
      if (this.#troubles > 0) log("info", "recovered", "working again", { after_failures: this.#troubles });
      this.#troubles = 0;
      if (notice !== undefined) this.#notice(notice);
      return { next, waitMs: waitMs * this.#jitter(next) };
    } catch (error) {
      if (this.#signal.aborted) return { next: state, waitMs: 0 };
      if (!(error instanceof Fault)) throw error;
      return this.#trouble(state, error);
    }
  }

  #trouble(state: State, fault: Fault): { next: State; waitMs: number } {
    const { settings, log, clock } = this.#ports;
    if (fault.kind === "store.restored") {
      log("error", "store_restored", fault.message);
      return { next: { at: "halting", why: fault.message }, waitMs: 0 };
    }
    if (fault.kind === "roster.taken") {
      this.#notice({ outcome: "name_taken", why: fault.message });
      // A place in line is left first: nobody is to wait behind a machine that must not take part.
      return { next: closing(state) ?? { at: "refused", why: fault.message }, waitMs: 0 };
    }
    if (settings.rules.mode === "once") this.#failed = fault;
    const next = stumble(state, this.#acts.placeLost, fault.message);
    this.#troubles++;
    const longest = URGENT.includes(state.at) ? URGENT_MAX_MS : settings.backoffMaxMs;
    const first = Math.min(settings.backoffMinMs, longest);
    const most = Math.min(longest, first * 2 ** Math.min(this.#troubles - 1, 10));
    const waitMs = fault.kind === "turn.lease-lost" ? 0 : first + clock.random() * (most - first);
    // The first failure and every doubling of their number are said; the rest is noise.
    const loud = (this.#troubles & (this.#troubles - 1)) === 0;
    log(loud ? "warn" : "debug", "retry", sentence(fault), {
      kind: fault.kind,
      state: state.at,
      failures: this.#troubles,
      retry_in_ms: Math.round(waitMs),
    });
    return { next, waitMs };
  }

  #notice(notice: Notice): void {
    const { log } = this.#ports;
    const before = this.#outcome;
    this.#outcome = notice;
    this.#decided = true;
    if (before.outcome === notice.outcome && before.why === notice.why) return;
    this.#watcher?.noticed(notice);
    const bad: readonly Outcome[] = ["reboot_failed", "name_taken", "recovering", "health_error", "detector_error"];
    log(bad.includes(notice.outcome) ? "warn" : "info", "run_outcome", notice.why, { status: notice.outcome });
  }

  /** Passes of a fleet that was started at one moment drift apart; everything else keeps its time. */
  #jitter(next: State): number {
    return next.at === "steady" ? 0.9 + 0.2 * this.#ports.clock.random() : 1;
  }

  /** Leaves the line, or gives an unused turn back, within CLOSING_MS. */
  async #close(from: State): Promise<void> {
    const { clock, log, settings } = this.#ports;
    const last = closing(from);
    if (last === undefined) return;
    const late = () => new Fault("turn.closing", "the store did not answer in time", { retry: "later" });
    try {
      await withDeadline(clock, CLOSING_MS, late, undefined, async (signal) => {
        for (let state: State | undefined = last; state !== undefined && !signal.aborted; ) {
          try {
            const fact = await this.#acts.carryOut(state);
            state = closing(step(state as never, fact as never, settings.rules, clock.monotonic()).next);
          } catch (error) {
            if (!isFault(error, "store")) throw error;
            await clock.sleep(500, signal);
          }
        }
      });
    } catch (error) {
      if (!(error instanceof Fault)) throw error;
      log("warn", "left_unfinished", sentence(error), { state: from.at });
    }
  }
}
