/** Time and chance. The only file that reads either; everything else gets a Clock, so that the simulator owns both. */
import { readFileSync } from "node:fs";

export interface Clock {
  /** Wall clock, ms since 1970. May jump either way: only for people and windows. */
  now(): number;
  /** Monotonic ms for measuring waits inside one process. */
  monotonic(): number;
  /** Monotonic ms since boot, suspend counted (/proc/uptime): for deadlines that a frozen machine must not miss. */
  boottime(): number;
  /** Resolves after `ms`; rejects with the signal's reason as soon as it aborts. */
  sleep(ms: number, signal?: AbortSignal): Promise<void>;
  /** Uniform in [0, 1). */
  random(): number;
  /** A random (version 4) UUID. */
  uuid(): string;
}

/** The real clock of this machine. `uptimeFile` is /proc/uptime; where there is none, monotonic time stands in. */
export function realClock(uptimeFile = "/proc/uptime"): Clock {
  const boottime = () => {
    try {
      const seconds = Number.parseFloat(readFileSync(uptimeFile, "latin1"));
      if (Number.isFinite(seconds)) return seconds * 1000;
    } catch {
      // No procfs (not Linux): commands still run there, the daemon does not.
    }
    return performance.now();
  };
  return {
    now: () => Date.now(),
    monotonic: () => performance.now(),
    boottime,
    sleep,
    random: () => Math.random(),
    uuid: () => crypto.randomUUID(),
  };
}

/** setTimeout counts in a signed 32-bit number of milliseconds; a longer wait is cut into pieces. */
const LONGEST_TIMER_MS = 2 ** 31 - 1;

function sleep(ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) return reject(signal.reason);
    let left = Math.max(0, ms);
    let timer: ReturnType<typeof setTimeout>;
    const stop = () => {
      clearTimeout(timer);
      reject(signal?.reason);
    };
    const piece = () => {
      const wait = Math.min(left, LONGEST_TIMER_MS);
      left -= wait;
      timer = setTimeout(() => {
        if (left > 0) return piece();
        signal?.removeEventListener("abort", stop);
        resolve();
      }, wait);
    };
    signal?.addEventListener("abort", stop, { once: true });
    piece();
  });
}

/** Date and time as RFC 3339 in UTC with milliseconds. */
export function isoTime(ms: number): string {
  return new Date(ms).toISOString();
}

/** Runs `work` with a signal that aborts after `ms` (reason: what `expired` makes) or when `parent` does. Always frees its timer. */
export async function withDeadline<T>(
  clock: Clock,
  ms: number,
  expired: () => unknown,
  parent: AbortSignal | undefined,
  work: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  const own = new AbortController();
  const timer = new AbortController();
  const pass = () => own.abort(parent?.reason);
  if (parent?.aborted) pass();
  parent?.addEventListener("abort", pass, { once: true });
  clock.sleep(ms, timer.signal).then(
    () => own.abort(expired()),
    () => undefined,
  );
  try {
    return await work(own.signal);
  } finally {
    parent?.removeEventListener("abort", pass);
    timer.abort();
  }
}

/** `work`, or the signal's reason as soon as it aborts: for what cannot be taken back, or does not heed its signal. It is left behind then. */
export function orAbort<T>(work: Promise<T>, signal: AbortSignal): Promise<T> {
  return new Promise((resolve, reject) => {
    const stop = () => reject(signal.reason);
    if (signal.aborted) stop();
    signal.addEventListener("abort", stop, { once: true });
    work.then(resolve, reject).finally(() => signal.removeEventListener("abort", stop));
  });
}
