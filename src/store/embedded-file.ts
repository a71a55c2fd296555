/** The embedded store's file: opened by one process at a time, safe on disk before anything is answered, with room kept for a full disk. */
import type { Database } from "bun:sqlite";
import { closeSync, existsSync, fsyncSync, mkdirSync, openSync, rmSync, writeSync } from "node:fs";
import { join } from "node:path";
import type { Clock } from "../kernel/clock.ts";
import { Fault } from "../kernel/errors.ts";
import type { Log } from "../kernel/log.ts";
import { EmbeddedEngine } from "./embedded.ts";
import { openDatabase, sayWhoHas, whoHas } from "./embedded-lock.ts";
import type { Reserve } from "./embedded-space.ts";

export interface StoreFileOptions {
  /** Made when it is not there, for its owner alone. */
  readonly stateDir: string;
  readonly clock: Clock;
  readonly log: Log;
  /** What opens it, for whoever finds it taken: "rota serve", "rota reboot run". */
  readonly program: string;
  readonly quotaBytes?: number;
}

export interface StoreFile {
  readonly engine: EmbeddedEngine;
  readonly path: string;
  /** Ends the engine and lets the next process in. */
  close(): void;
}

const RESERVE_BYTES = 4 * 1024 * 1024;

/**
 * Opens `<stateDir>/store.db`. Faults: `store.taken` (another process has it; the sentence says which), `store.newer`, `store.unreadable`.
 */
export function openStoreFile(options: StoreFileOptions): StoreFile {
  const { stateDir, clock, log } = options;
  const path = join(stateDir, "store.db");
  const owner = join(stateDir, "store.owner");
  let db: Database;
  try {
    mkdirSync(stateDir, { recursive: true, mode: 0o700 });
    db = openDatabase(path);
  } catch (cause) {
    throw new Fault("store.unreadable", `cannot open ${path}`, { cause });
  }
  try {
    take(db, path, owner);
    sayWhoHas(owner, options.program, clock);
    const reserve = reserveFile(join(stateDir, "store.reserve"));
    reserve.restore();
    const { quotaBytes } = options;
    const engine = new EmbeddedEngine({ db, clock, log, reserve, ...(quotaBytes === undefined ? {} : { quotaBytes }) });
    return {
      engine,
      path,
      close() {
        engine.close();
        db.close();
      },
    };
  } catch (error) {
    db.close();
    if (error instanceof Fault) throw error;
    throw new Fault("store.unreadable", `cannot open ${path}`, { cause: error });
  }
}

/**
 * Locks the file for this process and sets how it is written. The lock is the operating system's (fcntl), so it dies with the process.
 * WAL with synchronous=FULL has every commit on disk before it returns, with one fsync where a rollback journal takes three.
 */
function take(db: Database, path: string, owner: string): void {
  try {
    db.run("PRAGMA busy_timeout = 0");
    // Before the first access: then no shared memory is used, and the lock is held from the first access to the end.
    db.run("PRAGMA locking_mode = EXCLUSIVE");
    db.run("PRAGMA journal_mode = WAL");
    db.run("PRAGMA synchronous = FULL");
    db.run("BEGIN EXCLUSIVE");
    db.run("COMMIT");
  } catch (cause) {
    const { code } = cause as { code?: string };
    if (code !== "SQLITE_BUSY" && code !== "SQLITE_LOCKED") throw cause;
    throw new Fault("store.taken", `${path} is in use by ${whoHas(owner)}`, { cause, retry: "later" });
  }
}

/** A file of noise (zeros would take no room on some file systems) that is removed when the disk is full. */
function reserveFile(path: string): Reserve {
  return {
    free() {
      if (!existsSync(path)) return false;
      rmSync(path);
      return true;
    },
    restore() {
      if (existsSync(path)) return true;
      const file = openSync(path, "wx", 0o600);
      try {
        const noise = crypto.getRandomValues(new Uint8Array(65_536));
        for (let written = 0; written < RESERVE_BYTES; written += noise.length) writeSync(file, noise);
        fsyncSync(file);
      } catch {
        rmSync(path); // no room (yet): that is the answer, not an error
        return false;
      } finally {
        closeSync(file);
      }
      return true;
    },
  };
}
