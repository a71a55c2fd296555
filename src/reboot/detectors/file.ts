/** The `file` detector: a reboot is required while a file exists. */
import { stat } from "node:fs/promises";
import { withDeadline } from "../../kernel/clock.ts";
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
  return {
    name,
    async detect(signal) {
      const began = clock.monotonic();
      const late = () => new Fault("detector.timeout", `looking at ${path} took longer than ${timeoutMs / 1000} s`);
      const there = await withDeadline(clock, timeoutMs, late, signal, (deadline) => orAborted(exists(path), deadline));
      const found = there ? { requires: true, reason: `${path} exists` } : { requires: false };
      return { name, ...found, durationMs: since(clock, began), output: "" };
    },
  };
}

async function exists(path: string): Promise<boolean> {
  try {
    await stat(path);
    return true;
  } catch (cause) {
    const code = String((cause as NodeJS.ErrnoException).code);
    if (code === "ENOENT" || code === "ENOTDIR") return false;
    throw new Fault("detector.file", `cannot look at ${path}`, { cause });
  }
}

/** A system call on a dead network file system cannot be taken back; it is left behind. */
function orAborted<T>(work: Promise<T>, signal: AbortSignal): Promise<T> {
  const { promise, resolve, reject } = Promise.withResolvers<T>();
  const stop = () => reject(signal.reason);
  if (signal.aborted) stop();
  signal.addEventListener("abort", stop, { once: true });
  work.then(resolve, reject);
  return promise.finally(() => signal.removeEventListener("abort", stop));
}
