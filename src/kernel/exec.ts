/** The only place that starts programs: argv arrays, a label, a deadline, capped output, and the end of the whole process group. */
import { readdirSync, readFileSync, statSync } from "node:fs";
import type { Clock } from "./clock.ts";

export interface RunOptions {
  /** After this long the process group gets SIGTERM, 2 s later SIGKILL. */
  readonly timeoutMs: number;
  /** The whole environment of the program (nothing is inherited unless it stands here). */
  readonly env: Readonly<Record<string, string>>;
  readonly cwd?: string;
  /** Text for standard input; without it standard input is empty. */
  readonly stdin?: string;
  /** How much of stdout and of stderr is kept, each; the rest is read and dropped. Default 64 KiB. */
  readonly maxOutputBytes?: number;
  /** Ends the process group as a timeout does. */
  readonly signal?: AbortSignal;
  /** Told the process group's id (= pid of the first process) as soon as it exists. */
  readonly onSpawn?: (pid: number) => void;
  /**
   * What happens to processes still in the group when the first one has ended by itself. "end" (default): they are ended.
   * "leave": for a reboot command that forks and lets its child do the work.
   */
  readonly leftovers?: "end" | "leave";
  /**
   * "capture" (default), or "inherit": it writes where this process does, and `stdout` and `stderr` stay empty. For what must outlive this
   * process: a captured program that writes after our end is killed by SIGPIPE.
   */
  readonly output?: "capture" | "inherit";
}

/** Success and failure have one shape. `reason` is absent exactly when the program ended by itself with exit code 0. */
export interface RunResult {
  readonly label: string;
  readonly argv: readonly string[];
  readonly stdout: string;
  readonly stderr: string;
  /** Output was longer than the cap; what was dropped is marked in the text. */
  readonly truncated: boolean;
  readonly durationMs: number;
  readonly exitCode?: number;
  /** Name of the signal that ended it, "SIGKILL" … */
  readonly signal?: string;
  readonly reason?: "spawn" | "exit" | "signal" | "timeout" | "cancelled";
  /** For "spawn": why it could not be started (not found, not executable, …). */
  readonly error?: string;
}

/** Never rejects for what a program does; local programs and (later) programs on other hosts share this type. */
export type Run = (label: string, argv: readonly [string, ...string[]], options: RunOptions) => Promise<RunResult>;

/** A process that cannot be mistaken for a later one with the same number: `start` is its start time in ticks since boot. */
export interface ProcessRef {
  readonly pid: number;
  readonly start: string;
}

const DEFAULT_OUTPUT_BYTES = 64 * 1024;
/** Between SIGTERM and SIGKILL. */
const GRACE_MS = 2000;
/** After SIGKILL: only a process stuck in the kernel needs longer, and nobody waits for that one. */
const KILLED_MS = 1000;
/** After the first process has ended, for what it wrote last; whoever else holds the pipe is not waited for. */
const DRAIN_MS = 200;
const POLL_MS = 20;
/**
 * Bytes read beyond the cap between two collections of garbage. The buffers of a stream are invisible to the collector's own pacing: with none,
 * 500 MB of output leave the process 25 MB larger; at 64 KiB 2 MB, at 512 KiB 4.5 MB in two thirds of the time, at 2 MiB 6.5 MB.
 */
const COLLECT_BYTES = 512 * 1024;

/** The real thing: every program leads a session and process group of its own, and gets no shell and no inherited environment. */
export function realRun(clock: Clock): Run {
  return async (label, argv, options) => {
    const began = clock.monotonic();
    const finish = (rest: Partial<RunResult>): RunResult => ({
      label,
      argv,
      stdout: "",
      stderr: "",
      truncated: false,
      durationMs: Math.round(clock.monotonic() - began),
      ...rest,
    });
    if (options.signal?.aborted) return finish({ reason: "cancelled" });
    let child: Child;
    try {
      child = start(argv, options);
    } catch (error) {
      return finish({ reason: "spawn", error: whyNotStarted(argv[0], options.cwd, error) });
    }
    const group: ProcessRef = { pid: child.pid, start: startOf(child.pid) ?? "" };
    try {
      options.onSpawn?.(child.pid);
    } catch (error) {
      await endGroup(group, clock); // whoever wanted to know of it could not take note of it: nothing may run unrecorded
      throw error;
    }
    const cap = options.maxOutputBytes ?? DEFAULT_OUTPUT_BYTES;
    const out = collect(child.stdout, cap);
    const err = collect(child.stderr, cap);

    const stopped = await outcome(clock, child, options);
    if (stopped !== undefined) {
      await endGroup(group, clock);
      await firstOf(clock, KILLED_MS / 2, child.exited);
    }
    await firstOf(clock, DRAIN_MS, Promise.all([out.done, err.done]));
    const [stdout, stderr] = [out.stop(), err.stop()];
    if (stopped === undefined && options.leftovers !== "leave") await endGroup(group, clock);
    child.unref();
    return finish({
      stdout: stdout.text,
      stderr: stderr.text,
      truncated: stdout.truncated || stderr.truncated,
      ...verdict(child, stopped),
    });
  };
}

type Child = Bun.Subprocess<"ignore" | Uint8Array, "pipe" | "inherit", "pipe" | "inherit">;

function start(argv: readonly string[], options: RunOptions): Child {
  const output = options.output === "inherit" ? "inherit" : "pipe";
  return Bun.spawn([...argv], {
    detached: true, // setsid: pid, process group and session have one number
    env: { ...options.env },
    stdin: options.stdin === undefined ? "ignore" : new TextEncoder().encode(options.stdin),
    stdout: output,
    stderr: output,
    ...(options.cwd === undefined ? {} : { cwd: options.cwd }),
  });
}

/** Waits for the end of the first process; resolves to why it has to be ended, if it has to. The first reason wins. */
async function outcome(clock: Clock, child: Child, options: RunOptions): Promise<"timeout" | "cancelled" | undefined> {
  const timer = new AbortController();
  const { signal } = options;
  let cancel = () => {};
  const cancelled = new Promise<"cancelled">((resolve) => {
    cancel = () => resolve("cancelled");
    if (signal?.aborted) cancel();
    signal?.addEventListener("abort", cancel, { once: true });
  });
  const late = clock.sleep(options.timeoutMs, timer.signal).then(
    () => "timeout" as const,
    () => undefined, // our own abort below: the race is over
  );
  try {
    return await Promise.race([child.exited.then(() => undefined), late, cancelled]);
  } finally {
    timer.abort();
    signal?.removeEventListener("abort", cancel);
  }
}

function verdict(child: Child, stopped: "timeout" | "cancelled" | undefined): Partial<RunResult> {
  const how: { exitCode?: number; signal?: string } = {
    ...(child.exitCode === null ? {} : { exitCode: child.exitCode }),
    ...(child.signalCode === null ? {} : { signal: String(child.signalCode) }),
  };
  if (stopped !== undefined) return { ...how, reason: stopped };
  if (child.signalCode !== null) return { ...how, reason: "signal" };
  return child.exitCode === 0 ? how : { ...how, reason: "exit" };
}

/** Waits for `work`, but no longer than `ms`. `work` must not reject. */
async function firstOf(clock: Clock, ms: number, work: Promise<unknown>): Promise<void> {
  const timer = new AbortController();
  const late = clock.sleep(ms, timer.signal).catch(() => undefined); // aborted below when `work` was first
  await Promise.race([work, late]);
  timer.abort();
}

/** The sentence for a program that could not be started. */
function whyNotStarted(program: string, cwd: string | undefined, error: unknown): string {
  const code = error instanceof Error && "code" in error ? String(error.code) : "";
  const there = program.includes("/") ? statSync(program, { throwIfNoEntry: false }) : undefined;
  if (cwd !== undefined && !statSync(cwd, { throwIfNoEntry: false })?.isDirectory())
    return `working directory not found: ${cwd}`;
  if (there?.isDirectory()) return `not executable: ${program} is a directory`;
  if (code === "ENOENT" && there)
    return `not executable: the interpreter or loader that ${program} asks for was not found`;
  if (code === "ENOENT") return `not found: ${program}`;
  if (code === "EACCES") return `not executable: ${program} (permission denied)`;
  if (code === "ENOEXEC")
    return `not executable: ${program} has neither a "#!" line nor a format that this machine knows`;
  return `cannot start ${program}: ${error instanceof Error ? error.message : String(error)}`;
}

interface Kept {
  readonly text: string;
  readonly truncated: boolean;
}

interface Collector {
  /** Resolves when the stream has ended or broke; never rejects. */
  readonly done: Promise<void>;
  /** Lets go of the stream, whoever still holds its other end, and gives what was kept. */
  stop(): Kept;
}

/** Reads a stream to its end, keeping the first and the last half of `cap` bytes. */
function collect(stream: ReadableStream<Uint8Array> | undefined, cap: number): Collector {
  if (!stream) return { done: Promise.resolve(), stop: () => ({ text: "", truncated: false }) };
  const reader = stream.getReader();
  const head = ring(Math.ceil(cap / 2));
  const tail = ring(Math.floor(cap / 2));
  let total = 0;
  let garbage = 0;
  const take = (chunk: Uint8Array) => {
    const first = chunk.subarray(0, Math.max(0, Math.ceil(cap / 2) - total));
    total += chunk.length;
    head.push(first);
    tail.push(chunk.subarray(first.length));
    if (total <= cap) return;
    garbage += chunk.length;
    if (garbage < COLLECT_BYTES) return;
    garbage = 0;
    Bun.gc(true);
  };
  const done = (async () => {
    try {
      for (let next = await reader.read(); !next.done; next = await reader.read()) take(next.value);
    } catch {
      // A broken or cancelled pipe is its end: the exit code tells what became of the program.
    }
  })();
  return {
    done,
    stop() {
      reader.cancel().catch(() => undefined); // already ended: nothing to let go of
      return render(head.bytes(), tail.bytes(), total);
    },
  };
}

/** The last `room` bytes of what is pushed; takes memory only once something is. */
function ring(room: number): { push(bytes: Uint8Array): void; bytes(): Buffer } {
  let kept = new Uint8Array(0);
  let at = 0;
  let full = false;
  return {
    push(bytes) {
      if (bytes.length === 0 || room === 0) return;
      if (kept.length === 0) kept = new Uint8Array(room);
      const last = bytes.subarray(-room);
      const fits = last.subarray(0, room - at);
      kept.set(fits, at);
      kept.set(last.subarray(fits.length), 0);
      full ||= at + last.length >= room;
      at = (at + last.length) % room;
    },
    bytes: () => (full ? Buffer.concat([kept.subarray(at), kept.subarray(0, at)]) : Buffer.from(kept.subarray(0, at))),
  };
}

/** Head and tail as text, with the number of bytes dropped between them; no character is cut in half. */
function render(head: Buffer, tail: Buffer, total: number): Kept {
  if (head.length + tail.length === total)
    return { text: Buffer.concat([head, tail]).toString("utf8"), truncated: false };
  let end = head.length;
  while (end > 0 && end > head.length - 4 && ((head[end - 1] ?? 0) & 0xc0) === 0x80) end--;
  if (end > 0 && (head[end - 1] ?? 0) >= 0xc0) end--;
  else end = head.length;
  let begin = 0;
  while (begin < 3 && begin < tail.length && ((tail[begin] ?? 0) & 0xc0) === 0x80) begin++;
  const dropped = total - end - (tail.length - begin);
  return {
    text: `${head.toString("utf8", 0, end)}\n[… ${dropped} bytes dropped …]\n${tail.toString("utf8", begin)}`,
    truncated: true,
  };
}

// ---- processes ----

interface ProcessStat {
  readonly state: string;
  readonly group: number;
  readonly start: string;
}

/** proc(5): the fields after the last ")" (a program's name may contain anything), state first. */
function statOf(pid: number): ProcessStat | undefined {
  const text = readProc(`${pid}/stat`);
  if (text === undefined) return undefined;
  const fields = text.slice(text.lastIndexOf(")") + 2).split(" ");
  return { state: fields[0] ?? "", group: Number(fields[2]), start: fields[19] ?? "" };
}

function readProc(name: string): string | undefined {
  try {
    return readFileSync(`/proc/${name}`, "latin1");
  } catch {
    return undefined; // ended while we looked, or not ours to read: for every caller the same as not there
  }
}

function startOf(pid: number): string | undefined {
  return statOf(pid)?.start;
}

/** Zombies do not run any more and may never be collected (a container's init that does not); they count as gone. */
function runs(stat: ProcessStat | undefined): stat is ProcessStat {
  return stat !== undefined && stat.state !== "Z" && stat.state !== "X";
}

function allPids(): number[] {
  return readdirSync("/proc")
    .map(Number)
    .filter((pid) => Number.isInteger(pid) && pid > 0);
}

/** Sends a signal; false when nobody is there. A process of another user cannot be signalled and counts as there. */
function send(target: number, signal: "SIGTERM" | "SIGKILL" | 0): boolean {
  try {
    process.kill(target, signal);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "EPERM";
  }
}

/** The process with this number now, for `endGroup` and `endProcesses` later. Undefined when there is none. */
export function processRef(pid: number): ProcessRef | undefined {
  const stat = statOf(pid);
  return runs(stat) ? { pid, start: stat.start } : undefined;
}

/** True while this very process runs (a zombie does not). */
export function isRunning(ref: ProcessRef): boolean {
  const stat = statOf(ref.pid);
  return runs(stat) && stat.start === ref.start;
}

/**
 * Ends the process group led by `leader` (whether or not the leader still lives): SIGTERM, 2 s, SIGKILL. Resolves to true as soon
 * as no process of it runs, and to false when some still do 1 s after SIGKILL (stuck in the kernel, or another user's).
 */
export async function endGroup(leader: ProcessRef, clock: Clock): Promise<boolean> {
  const alive = () => {
    // The number of a group is not given out again while a member lives: another process with it means that the group is gone.
    const now = startOf(leader.pid);
    if (now !== undefined && leader.start !== "" && now !== leader.start) return false;
    return send(-leader.pid, 0) && allPids().some((pid) => hasGroup(statOf(pid), leader.pid));
  };
  return end(clock, alive, (signal) => void send(-leader.pid, signal));
}

function hasGroup(stat: ProcessStat | undefined, group: number): boolean {
  return runs(stat) && stat.group === group;
}

/** SIGTERM, 2 s, SIGKILL, 1 s: resolves to "nobody is alive". */
async function end(
  clock: Clock,
  alive: () => boolean,
  signal: (name: "SIGTERM" | "SIGKILL") => void,
): Promise<boolean> {
  for (const [name, ms] of [
    ["SIGTERM", GRACE_MS],
    ["SIGKILL", KILLED_MS],
  ] as const) {
    if (!alive()) return true;
    signal(name);
    const until = clock.monotonic() + ms;
    while (alive() && clock.monotonic() < until) await clock.sleep(POLL_MS);
  }
  return !alive();
}

/**
 * Every running process but this one that was started with `name=value` in its environment, wherever it hangs in the tree: finds what
 * an earlier life of the daemon started. Processes whose environment may not be read (other users', unless root) are not seen.
 */
export function processesWithEnv(name: string, value: string): ProcessRef[] {
  const wanted = Buffer.from(`${name}=${value}`).toString("latin1");
  return allPids().flatMap((pid) => {
    // Who it is comes before what it has: the other way round, the number could have gone to a process that nobody asked for.
    const ref = pid === process.pid ? undefined : processRef(pid);
    return ref && readProc(`${pid}/environ`)?.split("\0").includes(wanted) ? [ref] : [];
  });
}

/** Ends these processes: SIGTERM, 2 s, SIGKILL, 1 s. Resolves to those that still run then: none, unless stuck in the kernel or another user's. */
export async function endProcesses(refs: readonly ProcessRef[], clock: Clock): Promise<ProcessRef[]> {
  const left = () => refs.filter(isRunning);
  await end(
    clock,
    () => left().length > 0,
    (name) => {
      for (const ref of left()) send(ref.pid, name);
    },
  );
  return left();
}
