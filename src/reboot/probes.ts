/** The real probes of a node: health script, detectors, kill-switch file; each run is logged, aloud when it says something new. */
import type { Clock } from "../kernel/clock.ts";
import type { Run } from "../kernel/exec.ts";
import { runHealth, type Verdict } from "../kernel/health.ts";
import type { Fields, Log } from "../kernel/log.ts";
import type { Gate } from "../turn/policy.ts";
import { type Evaluation, evaluate } from "./detectors/detector.ts";
import { presence } from "./detectors/file.ts";
import { makeDetector } from "./detectors/table.ts";
import { rcEnvironment, withProcessEnvironment } from "./environment.ts";
import type { HealthPhase, Probes } from "./ports.ts";
import type { RebootSettings } from "./settings.ts";

export interface ProbeOptions {
  readonly run: Run;
  readonly clock: Clock;
  readonly log: Log;
  readonly processEnv: Readonly<Record<string, string | undefined>>;
  readonly dryRun: boolean;
  /** `status --skip-health`, `--skip-lock`. */
  readonly skipHealth?: boolean;
  readonly skipLock?: boolean;
}

/** The probes, with what their last run found in full, for commands that show it. */
export interface NodeProbes extends Probes {
  readonly last: { evaluation?: Evaluation; verdict?: Verdict; phase?: HealthPhase };
}

/** The probes of these settings. Each run of a script or detector is logged, at info when it says something new, else at debug. */
export function realProbes(settings: RebootSettings, options: ProbeOptions): NodeProbes {
  const { run, clock, processEnv, skipHealth = false, skipLock = false } = options;
  const rc = rcEnvironment(settings, { dryRun: options.dryRun, skipHealth, skipLock });
  const env = withProcessEnvironment(rc, processEnv);
  const script = { script: settings.healthScript, timeoutMs: settings.healthTimeoutMs, env };
  const detectors = settings.detectors.map((detector) => makeDetector(detector, { run, clock, env }));
  const lookAtSwitch = killSwitch(settings.killSwitchFile, clock);
  const say = newsLog(options.log);
  const last: NodeProbes["last"] = {};
  return {
    last,
    async health(phase, lock, signal) {
      if (skipHealth) return { healthy: true, error: false, reason: "skipped" };
      const facts = { lockEnabled: !skipLock, lockHeld: lock.held, lockAttempts: lock.attempts };
      const verdict = await runHealth(run, script, phase, facts, signal);
      Object.assign(last, { verdict, phase });
      const { healthy, error, reason, exitCode, durationMs, stdout, stderr } = verdict;
      say("health_check", healthy ? "info" : "warn", `${healthy} ${reason ?? ""}`, reason ?? "", {
        phase,
        duration_ms: durationMs,
        healthy,
        ...(error ? { error: reason } : { exit_code: exitCode }),
        ...(stdout !== "" && { stdout }),
        ...(stderr !== "" && { stderr }),
      });
      return verdict;
    },
    async detect(signal) {
      const evaluation = await evaluate(detectors, clock, signal);
      last.evaluation = evaluation;
      const summaries = evaluation.findings.map((finding) => ({
        name: finding.name,
        requires: finding.requires,
        duration_ms: finding.durationMs,
        ...(finding.error !== undefined && { error: finding.error }),
        ...(finding.exitCode !== undefined && { exit_code: finding.exitCode }),
      }));
      const news = JSON.stringify(summaries.map(({ duration_ms: _, ...rest }) => rest));
      say("detectors_evaluated", evaluation.errors.length > 0 ? "warn" : "info", news, evaluation.reason, {
        requires_reboot: evaluation.required,
        detector_summaries: summaries,
      });
      return evaluation;
    },
    quick: async () => [await lookAtSwitch()],
  };
}

/** Says an event at its level when its news differ from the last, else only to those who debug. */
function newsLog(log: Log) {
  const before = new Map<string, string>();
  return (event: string, level: "info" | "warn", news: string, message: string, fields: Fields): void => {
    const fresh = before.get(event) !== news;
    before.set(event, news);
    log(fresh ? level : "debug", event, message, fields);
  };
}

/** A look at a file; what takes longer hangs. */
const LOOK_MS = 5_000;

/** The local kill switch: closed while the file is there. A path that cannot be looked at, or not in time, counts as there. */
function killSwitch(file: string, clock: Clock): () => Promise<Gate> {
  const gate = (open: boolean, why: string): Gate => ({ name: "kill_switch", open, why });
  const there = presence(file, clock);
  return async () => {
    if (file.trim() === "") return gate(true, "");
    try {
      return (await there(LOOK_MS)) ? gate(false, `the kill switch ${file} is there`) : gate(true, "");
    } catch (error) {
      const { code = "no answer" } = ((error as Error).cause ?? {}) as NodeJS.ErrnoException;
      return gate(false, `the kill switch ${file} cannot be looked at (${code})`);
    }
  };
}
