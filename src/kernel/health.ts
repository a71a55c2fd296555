/** The health script: what it is told, and what its end means. Silence, a hang or a script that cannot run are never health. */
import type { Run, RunResult } from "./exec.ts";

export type Phase = "monitor" | "heartbeat" | "pre-lock" | "post-lock" | "post-reboot";

export interface HealthScript {
  /** Absolute path. It gets no arguments and no standard input. */
  readonly script: string;
  readonly timeoutMs: number;
  /** Its environment, before what one run adds. */
  readonly env: Readonly<Record<string, string>>;
}

/** What the script is told of the turn. */
export interface LockFacts {
  /** False where no turn will be asked for (`status --skip-lock`, a script run by hand). */
  readonly lockEnabled: boolean;
  readonly lockHeld: boolean;
  /** 0 before the turn is owned. */
  readonly lockAttempts: number;
}

export interface Verdict {
  readonly healthy: boolean;
  /** It gave no verdict of its own: not in time, or it could not be run. Such a node counts as unhealthy. */
  readonly error: boolean;
  /** For a node that is not healthy: "<phase> exit <code>", "<phase> signal <name>", "timeout", "not executable: …", … */
  readonly reason?: string;
  readonly exitCode?: number;
  readonly durationMs: number;
  readonly stdout: string;
  readonly stderr: string;
  /** Output was longer than what is kept. */
  readonly truncated: boolean;
}

/** Runs the script once. Rejects only with the reason of `signal`: a run that was called off says nothing about health. */
export async function runHealth(
  run: Run,
  health: HealthScript,
  phase: Phase,
  lock: LockFacts,
  signal?: AbortSignal,
): Promise<Verdict> {
  const env = {
    ...health.env,
    RC_PHASE: phase,
    RC_LOCK_ENABLED: String(lock.lockEnabled),
    RC_LOCK_HELD: String(lock.lockHeld),
    RC_LOCK_ATTEMPTS: String(lock.lockAttempts),
  };
  const result = await run(`health.${phase}`, [health.script], {
    timeoutMs: health.timeoutMs,
    env,
    ...(signal && { signal }),
  });
  if (result.reason === "cancelled") throw signal?.reason;
  const { durationMs, stdout, stderr, truncated, exitCode } = result;
  return {
    ...judge(result, phase),
    ...(exitCode !== undefined && { exitCode }),
    durationMs,
    stdout,
    stderr,
    truncated,
  };
}

function judge(result: RunResult, phase: Phase): Pick<Verdict, "healthy" | "error" | "reason"> {
  switch (result.reason) {
    case undefined:
      return { healthy: true, error: false };
    case "timeout":
    case "cancelled":
      return { healthy: false, error: true, reason: "timeout" };
    case "spawn":
      return { healthy: false, error: true, reason: result.error ?? "could not be started" };
    case "signal":
      return { healthy: false, error: false, reason: `${phase} signal ${result.signal}` };
    default:
      return { healthy: false, error: false, reason: `${phase} exit ${result.exitCode}` };
  }
}
