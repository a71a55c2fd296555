/** This machine, as far as going down is concerned: the reboot command, its end, and whether the system is on its way. */
import type { Clock } from "../kernel/clock.ts";
import { Fault } from "../kernel/errors.ts";
import { endProcesses, processesWithEnv, type Run } from "../kernel/exec.ts";
import type { Host } from "./ports.ts";

/** In the environment of the reboot command and all that it starts, so that a later daemon finds them. */
const TURN_VARIABLE = "ROTA_TURN_ID";

/**
 * `command` is the finished argv; `graceMs` the time after which it is ended; `goingDown` asks the init system. `told` gets how the
 * command ended; its output goes where the daemon's goes.
 */
export function realHost(options: {
  readonly run: Run;
  readonly clock: Clock;
  readonly command: readonly [string, ...string[]];
  readonly env: Readonly<Record<string, string>>;
  readonly graceMs: number;
  readonly goingDown: (run: Run, signal: AbortSignal) => Promise<string | undefined>;
  readonly told: (fields: Readonly<Record<string, unknown>>) => void;
}): Host {
  const { run, clock, command, env, graceMs } = options;
  return {
    launch(turnId, reason) {
      const started = run("reboot.command", command, {
        timeoutMs: graceMs,
        env: { ...env, [TURN_VARIABLE]: turnId, RC_REBOOT_REASON: reason },
        // It may fork and let its child do the work; its end is no reason to end that.
        leftovers: "leave",
        // Not captured: a wrapper that prints after this daemon has ended must not die of a broken pipe on its way to the reboot.
        output: "inherit",
      });
      const ended = started.then(({ reason: failure, exitCode, signal, error, durationMs }) => {
        options.told({ command, exit_code: exitCode, signal, error, duration_ms: durationMs });
        const words =
          error ?? (signal ? `ended by ${signal}` : failure === "timeout" ? "timed out" : `exit code ${exitCode}`);
        return { ok: failure === undefined, why: failure === undefined ? "" : words };
      });
      return { ended };
    },
    async endCommand(turnId) {
      const left = await endProcesses(processesWithEnv(TURN_VARIABLE, turnId), clock);
      if (left.length > 0)
        throw new Fault(
          "host.command-stuck",
          `the reboot command cannot be ended (pid ${left.map(({ pid }) => pid).join(", ")})`,
          { retry: "later" },
        );
    },
    goingDown: (signal) => options.goingDown(run, signal),
  };
}
