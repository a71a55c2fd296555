/** What the daemon needs from the world, as types: the real ones are built in wire.ts, the simulator brings its own. */
import type { Clock } from "../kernel/clock.ts";
import type { Log } from "../kernel/log.ts";
import type { Store } from "../store/store.ts";
import type { Self } from "../turn/context.ts";
import type { Keyspace } from "../turn/keys.ts";
import type { Gate, PolicySettings } from "../turn/policy.ts";
import type { Rules } from "./machine.ts";

/** turn.json: what this machine knows of its own turn, across crashes and reboots. */
export interface TurnRecord {
  readonly schema: 1;
  /** "open": the fence may have been sent. "launched": the reboot command may have been started. "closed": no turn. */
  readonly state: "open" | "launched" | "closed";
  readonly turnId: string;
  readonly key: string;
  readonly lease: string;
  readonly create: string;
  readonly reason: string;
  readonly queuedAt: string;
  readonly bootId: string;
  readonly storeId: string;
  /** When the command was started, ms since that boot; with "launched" only. */
  readonly launchedAt?: number;
  /** Reboots in a row that did not happen. */
  readonly failures: number;
}

/** The newest state of the store that this machine has seen; less than that means a restore from a backup. */
export interface SeenRecord {
  readonly storeId: string;
  readonly revision: string;
}

/** What outlives the process. Saving resolves when it would survive a power cut. Faults: `memory.*`. */
export interface Memory {
  loadTurn(): Promise<TurnRecord | undefined>;
  saveTurn(record: TurnRecord): Promise<void>;
  loadSeen(): Promise<SeenRecord | undefined>;
  saveSeen(seen: SeenRecord): Promise<void>;
}

/** The reboot command while it runs: resolves when it has ended, with whether it ended well. */
export interface Launched {
  readonly ended: Promise<{ readonly ok: boolean; readonly why: string }>;
}

/** The operating system, as far as going down is concerned. */
export interface Host {
  /** Starts the reboot command. Must not be ended when the daemon ends. */
  launch(turnId: string, reason: string): Launched;
  /** Ends every process of the command of that turn, also those of an earlier daemon; resolves when none is left. */
  endCommand(turnId: string): Promise<void>;
  /** Why the system may still go down by itself (a shutdown job, a schedule, stopping already); undefined when it does not. */
  goingDown(signal: AbortSignal): Promise<string | undefined>;
}

export type HealthPhase = "monitor" | "pre-lock" | "post-lock" | "post-reboot";

export interface HealthVerdict {
  readonly healthy: boolean;
  /** It could not be run, or did not end in time. */
  readonly error: boolean;
  readonly reason?: string;
}

export interface Detection {
  readonly required: boolean;
  /** Which detectors said yes, for people. */
  readonly reason: string;
  /** What failed; there may be a yes all the same. */
  readonly errors: readonly string[];
}

export interface Probes {
  /** Runs the health script. `held` and `attempts` go into its environment (RC_LOCK_HELD, RC_LOCK_ATTEMPTS). */
  health(
    phase: HealthPhase,
    lock: { readonly held: boolean; readonly attempts: number },
    signal: AbortSignal,
  ): Promise<HealthVerdict>;
  detect(signal: AbortSignal): Promise<Detection>;
  /** The gates of this machine that are quick to ask: kill-switch file, window. */
  quick(): Promise<readonly Gate[]>;
}

export interface DaemonSettings {
  readonly rules: Rules;
  readonly policy: PolicySettings;
  readonly lockTtlSec: number;
  /** How long this machine counts as well after its last completed health script, s. */
  readonly liveTtlSec: number;
  /** min_reboot_interval_sec; 0: none. */
  readonly cooldownSec: number;
  /** max_hold_sec as ms; 0: never take over. */
  readonly maxHoldMs: number;
  readonly backoffMinMs: number;
  readonly backoffMaxMs: number;
}

export interface Ports {
  readonly store: Store;
  readonly space: Keyspace;
  readonly clock: Clock;
  readonly log: Log;
  readonly self: Self;
  readonly memory: Memory;
  readonly host: Host;
  readonly probes: Probes;
  readonly settings: DaemonSettings;
}
