/** The `file` detector: a reboot is required while a file exists. */
import { stat } from "node:fs/promises";
import { type Clock, orAbort, withDeadline } from "../../kernel/clock.ts";
import { Fault } from "../../kernel/errors.ts";
import { type Detector, type DetectorTools, since } from "./detector.ts";

export interface FileDetectorSettings {
  readonly type: "file";
  readonly name: string;
  readonly path: string;
  readonly timeoutMs: number;
}

/** Yes when anything is at the path; no when nothing is; an error when it cannot be told (permission, a file system that hangs, …). */
export function fileDetector(settings: FileDetectorSettings, tools: Pick<DetectorTools, "clock">): Detector {
  const { name, path, timeoutMs } = settings;
  const { clock } = tools;
  const there = presence(path, clock);
  return {
    name,
    async detect(signal) {
      const began = clock.monotonic();
      const found = (await there(timeoutMs, signal))
        ? { requires: true, reason: `${path} exists` }
        : { requires: false };
      return { name, ...found, durationMs: since(clock, began), output: "" };
    },
  };
}

/**
 * Asks whether anything is at `path`; `detector.file` and `detector.timeout` when it cannot be told. A system call on a dead file system cannot
 * be taken back: it is waited for again the next time instead of losing one more of the few threads there are.
 */
export function presence(
  path: string,
  clock: Clock,
  look: (path: string) => Promise<unknown> = stat,
): (timeoutMs: number, signal?: AbortSignal) => Promise<boolean> {
  let underway: Promise<boolean> | undefined;
  return (timeoutMs, signal) => {
    const late = () => new Fault("detector.timeout", `looking at ${path} took longer than ${timeoutMs / 1000} s`);
    underway ??= exists(path, look).finally(() => {
      underway = undefined;
    });
    const found = underway;
    return withDeadline(clock, timeoutMs, late, signal, (deadline) => orAbort(found, deadline));
  };
}

async function exists(path: string, look: (path: string) => Promise<unknown>): Promise<boolean> {
  try {
    await look(path);
    return true;
  } catch (cause) {
    const code = String((cause as NodeJS.ErrnoException).code);
    if (code === "ENOENT" || code === "ENOTDIR") return false;
    throw new Fault("detector.file", `cannot look at ${path}`, { cause });
  }
}
