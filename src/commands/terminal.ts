/** The real terminal and the real signals of this process. */
import { fstatSync, readSync, writeSync } from "node:fs";
import { Fault } from "../kernel/errors.ts";
import type { Signals } from "./command.ts";
import type { Terminal } from "./invoke.ts";
import type { Sink, Source } from "./output.ts";

/** Standard input and output of this process, and its environment. */
export function processTerminal(): Terminal {
  const stderr = sink(2);
  return { stdin: source(stderr), stdout: sink(1), stderr, env: process.env };
}

/** node:tty costs as much to load as the rest of a short command, so it is only asked about what may be a terminal. */
function isTerminal(fd: number): boolean {
  try {
    const stat = fstatSync(fd);
    const isMemory = stat.rdev >> 8 === 1; // /dev/null and its like
    return stat.isCharacterDevice() && !isMemory && process.getBuiltinModule("node:tty").isatty(fd);
  } catch {
    return false; // closed
  }
}

/** Writes at once and whole: process.stdout may lose its end when the process exits while a pipe is full. */
function sink(fd: 1 | 2): Sink {
  return {
    get isTTY() {
      return isTerminal(fd);
    },
    get columns() {
      return isTerminal(fd) ? (fd === 1 ? process.stdout : process.stderr).columns : undefined;
    },
    write(text) {
      const bytes = Buffer.from(text, "utf8");
      for (let done = 0; done < bytes.length; ) {
        try {
          done += writeSync(fd, bytes, done);
        } catch (error) {
          const { code } = error as NodeJS.ErrnoException;
          // The other end of a shared pipe may have made it non-blocking; a full one is waited for.
          if (code === "EAGAIN") Bun.sleepSync(2);
          else if (code === "EPIPE" || code === "EIO" || code === "EBADF") return;
          else throw error;
        }
      }
    },
  };
}

function source(stderr: Sink): Source {
  return {
    get isTTY() {
      return isTerminal(0);
    },
    text: () => Bun.stdin.text(),
    async line(prompt) {
      if (!isTerminal(0)) return pipedLine();
      stderr.write(prompt);
      return mortal(readLine);
    },
    async secret(prompt) {
      if (!isTerminal(0)) return pipedLine();
      stderr.write(prompt);
      process.stdin.setRawMode(true);
      try {
        return readHidden();
      } finally {
        process.stdin.setRawMode(false);
        stderr.write("\n");
      }
    },
  };
}

async function pipedLine(): Promise<string> {
  return (await Bun.stdin.text()).split(/\r?\n/, 1)[0] ?? "";
}

/**
 * The signals end the process as usual while `work` runs: it blocks, so that our own listeners would not hear them, and Ctrl-C at
 * "End it? [y/N]" would do nothing.
 */
function mortal<T>(work: () => T): T {
  const names = ["SIGINT", "SIGTERM"] as const;
  const before = names.map((name) => [name, process.listeners(name)] as const);
  for (const name of names) process.removeAllListeners(name);
  try {
    return work();
  } finally {
    for (const [name, listeners] of before) for (const listener of listeners) process.on(name, listener);
  }
}

function readLine(): string {
  const bytes: number[] = [];
  for (let byte = readByte(); byte !== undefined && byte !== 10; byte = readByte()) bytes.push(byte);
  return Buffer.from(bytes).toString("utf8");
}

/** The next byte of standard input; undefined at its end. */
function readByte(): number | undefined {
  const one = Buffer.alloc(1);
  return readSync(0, one, 0, 1, null) === 1 ? one[0] : undefined;
}

/** One line from a terminal in raw mode: backspace works, Ctrl-C and Ctrl-D end it. */
function readHidden(): string {
  const bytes: number[] = [];
  for (let byte = readByte(); byte !== undefined; byte = readByte()) {
    if (byte === 3) throw interrupted("SIGINT");
    if (byte === 13 || byte === 10 || byte === 4) break;
    if (byte === 127 || byte === 8) {
      // A character may be several bytes: those that continue one begin with the bits 10.
      while (bytes.length > 0 && ((bytes.pop() ?? 0) & 0xc0) === 0x80);
    } else bytes.push(byte);
  }
  return Buffer.from(bytes).toString("utf8");
}

const CODES = { SIGINT: 130, SIGTERM: 143 } as const;
type Ending = keyof typeof CODES;

function interrupted(name: Ending): Fault {
  return new Fault("interrupted", `stopped by ${name}`, { exitCode: CODES[name] });
}

/** The signals of this process: the first asks, the second hurries, the third ends it. */
export function processSignals(): Signals {
  const first = new AbortController();
  const second = new AbortController();
  let seen: Ending | undefined;
  const on = (name: Ending) => () => {
    if (second.signal.aborted) process.exit(CODES[name]);
    const reason = interrupted(name);
    if (seen === undefined) first.abort(reason);
    else second.abort(reason);
    seen ??= name;
  };
  process.on("SIGINT", on("SIGINT"));
  process.on("SIGTERM", on("SIGTERM"));
  return {
    signal: first.signal,
    hurry: second.signal,
    signalName: () => seen,
    onHangup(listener) {
      process.on("SIGHUP", listener);
      return () => process.off("SIGHUP", listener);
    },
  };
}
