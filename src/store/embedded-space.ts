/** Whether the embedded store may still grow: a quota as etcd's, and a disk that has run full. */
import type { Clock } from "../kernel/clock.ts";
import type { Tables } from "./embedded-tables.ts";

/** Disk space held back so that deletes still work on a full disk. */
export interface Reserve {
  /** Gives the space to the file system; false when it was given already. */
  free(): boolean;
  /** Takes it again; false when the disk has no room for it. */
  restore(): boolean;
}

const QUOTA_BYTES = 2 * 1024 ** 3;
/** Puts between two looks at the size; each look costs three PRAGMAs. */
const LOOK_EVERY = 64;
/** How often a full disk is looked at again, ms. */
const RETRY_MS = 5000;

export class Space {
  readonly #tables: Tables;
  readonly #clock: Clock;
  readonly #quota: number;
  readonly #reserve: Reserve | undefined;
  #puts = 0;
  #full = false;
  /** When the reserve was given back, on clock.monotonic(); puts would eat it, so they wait until it is back. */
  #diskFull: number | undefined;

  constructor(
    tables: Tables,
    options: { readonly clock: Clock; readonly quotaBytes?: number; readonly reserve?: Reserve },
  ) {
    this.#tables = tables;
    this.#clock = options.clock;
    this.#quota = options.quotaBytes ?? QUOTA_BYTES;
    this.#reserve = options.reserve;
  }

  get full(): boolean {
    return this.#full || this.#diskFull !== undefined;
  }

  /** Whether a put may go on. `shrink` frees what can be freed (compaction); it is tried once before the quota says no. */
  mayGrow(shrink: () => void): boolean {
    if (this.#diskFull !== undefined) {
      const now = this.#clock.monotonic();
      if (now - this.#diskFull < RETRY_MS) return false;
      this.#diskFull = this.#reserve?.restore() === false ? now : undefined;
      if (this.#diskFull !== undefined) return false;
    }
    if (this.#puts++ % LOOK_EVERY !== 0 && !this.#full) return true;
    this.#full = this.#over();
    if (this.#full) {
      shrink();
      this.#full = this.#over();
    }
    return !this.#full;
  }

  /** After SQLite found the disk full: gives the reserve back; true when trying again makes sense. */
  ranOut(): boolean {
    this.#diskFull = this.#clock.monotonic();
    return this.#reserve?.free() ?? false;
  }

  #over(): boolean {
    return this.#tables.size().used > this.#quota;
  }
}
