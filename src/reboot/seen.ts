/** Remembers the newest revision of the store, and notices when the store has gone back in time (step 12 of the turn). */
import { Fault } from "../kernel/errors.ts";
import { compare64, type Int64 } from "../store/store.ts";
import type { Memory, SeenRecord } from "./ports.ts";

export class Seen {
  readonly #memory: Memory;
  #newest: SeenRecord | undefined;
  #saved: Int64 | undefined;
  #loaded = false;

  constructor(memory: Memory) {
    this.#memory = memory;
  }

  /** Takes note of an answer. Fault `store.restored` when it is older than one seen before, also before the last restart or from another store. */
  async observe(answer: {
    readonly storeId: string;
    readonly revision: Int64;
    readonly deduced?: true;
  }): Promise<void> {
    // Not an answer of the store, but what follows from an older one.
    if (answer.deduced) return;
    if (!this.#loaded) {
      this.#newest = await this.#memory.loadSeen();
      this.#saved = this.#newest?.revision;
      this.#loaded = true;
    }
    const { storeId, revision } = answer;
    const before = this.#newest;
    if (before !== undefined && compare64(revision, before.revision) < 0) {
      const other = before.storeId === storeId ? "" : ", and it calls itself another store";
      throw new Fault(
        "store.restored",
        `the store is at revision ${revision}, but this node has seen ${before.revision}${other}: it was restored from a backup, or etcd_endpoints name a different store`,
      );
    }
    this.#newest = { storeId, revision };
  }

  /** Writes the newest revision down, if it has moved. */
  async save(): Promise<void> {
    if (this.#newest === undefined || this.#newest.revision === this.#saved) return;
    await this.#memory.saveSeen(this.#newest);
    this.#saved = this.#newest.revision;
  }

  /** Accepts the store as it is from now on: after the stop that a restore calls for has been set. */
  async accept(answer: SeenRecord): Promise<void> {
    this.#newest = answer;
    this.#loaded = true;
    await this.#memory.saveSeen(answer);
    this.#saved = answer.revision;
  }
}
