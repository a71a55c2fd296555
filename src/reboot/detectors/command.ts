/** The `command` detector: a program's exit code says whether a reboot is required. */
import type { RunResult } from "../../kernel/exec.ts";
import type { Detector, DetectorTools, Finding } from "./detector.ts";

export interface CommandDetectorSettings {
  readonly type: "command";
  readonly name: string;
  readonly cmd: readonly [string, ...string[]];
  /** The exit codes that mean "reboot required". None: every code but 0 does. 126 and 127 never do. */
  readonly successExitCodes: readonly number[];
  readonly timeoutMs: number;
}

/** Yes or no by exit code. Not started, not ended in time, killed, and a shell's 126 and 127 are errors, never a yes. */
export function commandDetector(
  settings: CommandDetectorSettings,
  tools: Pick<DetectorTools, "run" | "env">,
): Detector {
  const { name, cmd, timeoutMs } = settings;
  return {
    name,
    async detect(signal) {
      const result = await tools.run(`detector.${name}`, cmd, { timeoutMs, env: tools.env, signal });
      if (result.reason === "cancelled") throw signal.reason;
      const { exitCode, durationMs } = result;
      const output = [result.stdout, result.stderr].filter((text) => text !== "").join("\n");
      return { name, ...judge(result, settings), ...(exitCode !== undefined && { exitCode }), durationMs, output };
    },
  };
}

function judge(result: RunResult, settings: CommandDetectorSettings): Pick<Finding, "requires" | "reason" | "error"> {
  const { cmd, successExitCodes, timeoutMs } = settings;
  if (result.reason === "spawn") return { requires: false, error: result.error ?? "could not be started" };
  if (result.reason === "timeout") return { requires: false, error: `did not end within ${timeoutMs / 1000} s` };
  if (result.reason === "signal") return { requires: false, error: `was ended by ${result.signal}` };
  const code = result.exitCode ?? 0;
  // A shell's words for "cannot be executed" and "not found": a missing tool must neither reboot a fleet nor pass for "no".
  if (code === 126) return { requires: false, error: "exit code 126: a program that it calls cannot be executed" };
  if (code === 127) return { requires: false, error: "exit code 127: a program that it calls was not found" };
  const requires = successExitCodes.length > 0 ? successExitCodes.includes(code) : code !== 0;
  return requires ? { requires, reason: `${cmd[0]} exited with ${code}` } : { requires };
}
