/** What the acts of one node share: its place in line, its live record, what it has seen of the store, its last health report. */
import type { TurnContext } from "../turn/context.ts";
import { type LeaseKeeper, LiveRecord, type Report } from "../turn/live.ts";
import type { LineWatch } from "../turn/queue.ts";
import type { HealthVerdict, Ports } from "./ports.ts";
import { Seen } from "./seen.ts";

/** One time in the line, from the grant of its lease to its end. */
export interface Contention {
  readonly keeper: LeaseKeeper;
  readonly watch: LineWatch;
  /** Longest wait before the next reading of the line, ms; 0 at first, so that nothing is missed. */
  waitMs: number;
  readonly attempts: number;
}

export class NodeState {
  readonly ports: Ports;
  /** Aborts when the daemon is to end. */
  readonly signal: AbortSignal;
  readonly turn: TurnContext;
  readonly live: LiveRecord;
  readonly seen: Seen;
  contention: Contention | undefined;
  /** Last report of the health script, to be put back when a turn is withdrawn. */
  report: Report = { healthy: false, stage: "starting", reason: "not known yet" };

  constructor(ports: Ports, signal: AbortSignal) {
    const { store, space, clock, self, settings } = ports;
    this.ports = ports;
    this.signal = signal;
    this.turn = { store, space, clock, self };
    this.live = new LiveRecord(this.turn, settings.liveTtlSec);
    this.seen = new Seen(ports.memory);
  }

  /** The lease of the place in line is gone, or there is no place. */
  get placeLost(): boolean {
    return this.contention?.keeper.dead.aborted ?? true;
  }

  /** The signal for what may go on only while the place in line lives. */
  under(): AbortSignal {
    const dead = this.contention?.keeper.dead;
    return dead ? AbortSignal.any([this.signal, dead]) : this.signal;
  }

  /** Forgets the place in line; its lease is not kept alive any more. */
  drop(): void {
    this.contention?.watch.close();
    this.contention?.keeper.stop();
    this.contention = undefined;
  }

  /** Keeps a verdict to itself: during a turn the record in the store says "down", whatever the script says. */
  note(stage: string, { healthy, reason }: HealthVerdict): void {
    this.report = { healthy, stage, ...(reason !== undefined && { reason }) };
  }

  /** Tells peers about a finished health script. */
  async tell(stage: string, verdict: HealthVerdict): Promise<void> {
    this.note(stage, verdict);
    await this.live.report(this.report, this.signal);
  }
}
