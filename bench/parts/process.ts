/** What the kernel says of a process: memory, and the time it has had on a core. Linux only. */
import { readFileSync } from "node:fs";

/** MB of 2^20 bytes. */
export interface Memory {
  /** Everything that is in memory and mapped, shared pages counted in full. */
  readonly rss: number;
  /** Shared pages counted in parts. */
  readonly pss: number;
  /** Written by this process: what another one of its kind costs on top. */
  readonly privateDirty: number;
  /** Read from files that nobody else has mapped now: the executable's own pages while one process runs it. Can be dropped at any time. */
  readonly privateClean: number;
  readonly anonymous: number;
}

/** The sums over all mappings of a process. */
export function memoryOf(pid: number): Memory {
  const text = readFileSync(`/proc/${pid}/smaps_rollup`, "latin1");
  const mb = (name: string) => Number(new RegExp(`^${name}:\\s+(\\d+) kB$`, "m").exec(text)?.[1] ?? Number.NaN) / 1024;
  return {
    rss: mb("Rss"),
    pss: mb("Pss"),
    privateDirty: mb("Private_Dirty"),
    privateClean: mb("Private_Clean"),
    anonymous: mb("Anonymous"),
  };
}

/** Seconds on a core so far: the process itself, and the programs that it has started and waited for. */
export function cpuOf(pid: number): { readonly own: number; readonly children: number } {
  const stat = readFileSync(`/proc/${pid}/stat`, "latin1");
  // proc(5): the fields after the last ")", of which the first is the third.
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  const seconds = (first: number) => (Number(fields[first - 3]) + Number(fields[first - 2])) / TICKS;
  return { own: seconds(14), children: seconds(16) };
}

/** USER_HZ: 100 on every architecture that we build for. */
const TICKS = 100;
