/** What a detector is, what it finds, and how many of them are asked together. */
import type { Clock } from "../../kernel/clock.ts";
import { sentence } from "../../kernel/errors.ts";
import type { Run } from "../../kernel/exec.ts";

/** What one detector found. With `error` it found nothing: that is neither yes nor no, and `requires` is false. */
export interface Finding {
  readonly name: string;
  readonly requires: boolean;
  /** Why, for people; with a yes. */
  readonly reason?: string;
  readonly error?: string;
  readonly exitCode?: number;
  readonly durationMs: number;
  /** What the program printed, capped; "" where there is none. */
  readonly output: string;
}

export interface Detector {
  readonly name: string;
  /** Rejects only with the reason of `signal`; every failure of its own is a Finding with `error`. */
  detect(signal: AbortSignal): Promise<Finding>;
}

/** What detectors may use. */
export interface DetectorTools {
  readonly run: Run;
  readonly clock: Clock;
  /** The environment of the programs they start. */
  readonly env: Readonly<Record<string, string>>;
}

export interface Evaluation {
  readonly required: boolean;
  /** The reasons of all that said yes, joined. */
  readonly reason: string;
  /** In the order of the detectors. */
  readonly findings: readonly Finding[];
  /** `name: what failed`, one for each detector that failed; another's yes counts all the same. */
  readonly errors: readonly string[];
}

/** Asks all detectors side by side. Rejects only with the reason of `signal`. */
export async function evaluate(detectors: readonly Detector[], clock: Clock, signal: AbortSignal): Promise<Evaluation> {
  const findings = await Promise.all(
    detectors.map(async (detector): Promise<Finding> => {
      const began = clock.monotonic();
      try {
        return await detector.detect(signal);
      } catch (error) {
        signal.throwIfAborted();
        return {
          name: detector.name,
          requires: false,
          error: sentence(error),
          durationMs: since(clock, began),
          output: "",
        };
      }
    }),
  );
  return {
    required: findings.some((finding) => finding.requires),
    reason: findings.flatMap((finding) => (finding.requires ? (finding.reason ?? finding.name) : [])).join("; "),
    findings,
    errors: findings.flatMap(({ name, error }) => (error === undefined ? [] : `${name}: ${error}`)),
  };
}

/** Whole milliseconds since `began` (monotonic). */
export function since(clock: Clock, began: number): number {
  return Math.round(clock.monotonic() - began);
}
