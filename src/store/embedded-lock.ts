/** A lock on a directory that dies with the process that has it, and says who that is. SQLite takes it, because it knows how (fcntl). */
import { Database } from "bun:sqlite";
import {
  chmodSync,
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { type Clock, isoTime } from "../kernel/clock.ts";
import { Fault } from "../kernel/errors.ts";

/**
 * Takes `<dir>/<name>.lock` for this process; the directory is made when it is not there, for its owner alone. Faults: `state.taken` with
 * the program, pid and time of whoever has it, `state.unusable`.
 */
export function lockDirectory(dir: string, name: string, program: string, clock: Clock): { release(): void } {
  const path = join(dir, `${name}.lock`);
  const owner = join(dir, `${name}.owner`);
  let db: Database | undefined;
  try {
    mkdirSync(dir, { recursive: true, mode: 0o700 });
    db = openDatabase(path);
    // The lock is taken by the first transaction and kept until the end.
    for (const pragma of ["busy_timeout = 0", "locking_mode = EXCLUSIVE", "journal_mode = MEMORY"])
      db.run(`PRAGMA ${pragma}`);
    db.run("BEGIN EXCLUSIVE");
    db.run("COMMIT");
    sayWhoHas(owner, program, clock);
  } catch (cause) {
    db?.close();
    const { code } = cause as { code?: string };
    if (code === "SQLITE_BUSY" || code === "SQLITE_LOCKED")
      throw new Fault("state.taken", `${dir} is in use by ${whoHas(owner)}; two daemons must not share a state_dir`, {
        cause,
      });
    throw new Fault("state.unusable", `cannot use ${dir} (state_dir)`, { cause });
  }
  const held = db;
  return { release: () => held.close() };
}

/**
 * A database file for its owner alone, also in a directory that others may enter (systemd's StateDirectory= is one): it may hold secrets, and
 * whoever can read it can take a read lock on it, which keeps its owner out.
 */
export function openDatabase(path: string): Database {
  // One that is there is not opened: closing it would take this process' own fcntl lock off it, if it has one.
  if (existsSync(path)) chmodSync(path, 0o600);
  else closeSync(openSync(path, "a", 0o600));
  return new Database(path, { create: true, readwrite: true });
}

/** For whoever finds the lock taken. Written beside and renamed, so that a reader never sees half of it; only whoever has the lock writes it. */
export function sayWhoHas(owner: string, program: string, clock: Clock): void {
  const mine = { pid: process.pid, program, since: isoTime(clock.now()) };
  writeFileSync(`${owner}.new`, `${JSON.stringify(mine)}\n`, { mode: 0o644 });
  renameSync(`${owner}.new`, owner);
}

/** What `sayWhoHas` said, in words. */
export function whoHas(owner: string): string {
  try {
    const { pid, program, since } = JSON.parse(readFileSync(owner, "utf8")) as Record<string, unknown>;
    return `${String(program)} (pid ${String(pid)}) since ${String(since)}`;
  } catch {
    return "another process"; // it is just starting, and has not said who it is yet
  }
}
