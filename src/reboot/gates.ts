/** The local gates of a pass, asked together: kill switch, window, detectors, health. Every gate says whether it is open, and why. */
import type { Gate } from "../turn/policy.ts";
import type { Look } from "./machine.ts";
import type { Detection, HealthVerdict, Probes } from "./ports.ts";

/** The verdict of the health script as a gate; one that could not be had is closed, and an error. */
export function healthGate(verdict: HealthVerdict): Gate {
  const { healthy, error, reason } = verdict;
  return { name: "health", open: healthy, why: reason ?? (healthy ? "" : "unhealthy"), ...(error && { failed: true }) };
}

function finish(gates: readonly Gate[], detection: Detection): Look {
  const error = detection.errors.length > 0 && !detection.required ? detection.errors.join("; ") : undefined;
  return {
    gates,
    required: detection.required,
    reason: detection.reason,
    strayTurn: false,
    ...(error !== undefined && { detectorError: error }),
  };
}

/**
 * A pass without the turn. Detectors come before health, because they decide its phase; they are asked also while a gate is closed,
 * so that a pending reboot is seen. `report` gets the verdict of the health script.
 */
export async function lookAround(
  probes: Probes,
  attempts: number,
  report: (phase: "monitor" | "pre-lock", verdict: HealthVerdict) => Promise<void>,
  signal: AbortSignal,
): Promise<Look> {
  const quick = await probes.quick();
  const detection = await probes.detect(signal);
  const phase = detection.required ? "pre-lock" : "monitor";
  const verdict = await probes.health(phase, { held: false, attempts }, signal);
  await report(phase, verdict);
  const health = healthGate(verdict);
  // Without a wanted reboot the verdict is for the peers; it blocks nothing here.
  return finish(phase === "pre-lock" ? [...quick, health] : quick, detection);
}

/** The pass under the lease. The slow ones first, the quick ones last, so that nothing changes unseen while a script runs. */
export async function lookOnceMore(
  probes: Probes,
  attempts: number,
  report: (phase: "post-lock", verdict: HealthVerdict) => Promise<void>,
  signal: AbortSignal,
): Promise<Look> {
  const verdict = await probes.health("post-lock", { held: true, attempts }, signal);
  await report("post-lock", verdict);
  const detection = await probes.detect(signal);
  return finish([healthGate(verdict), ...(await probes.quick())], detection);
}
