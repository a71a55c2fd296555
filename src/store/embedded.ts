/** The embedded store's engine: etcd's key-value model on SQLite, synchronous, with all time taken from the Clock it is given. */
import type { Database } from "bun:sqlite";
import type { Clock } from "../kernel/clock.ts";
import { Fault, sentence } from "../kernel/errors.ts";
import type { Log } from "../kernel/log.ts";
import { Apply, type Chosen } from "./embedded-apply.ts";
import { checkDuplicates, checkOp, checkSize, checkTxn, putsSomething } from "./embedded-check.ts";
import { Leases, MAX_TTL_SEC } from "./embedded-leases.ts";
import { type Reserve, Space } from "./embedded-space.ts";
import { Tables } from "./embedded-tables.ts";
import type {
  DeleteRequest,
  DeleteResponse,
  LeaseInfo,
  OpRequest,
  OpResponse,
  PutRequest,
  PutResponse,
  RangeRequest,
  RangeResponse,
  TxnRequest,
  TxnResponse,
  WatchNews,
  WatchRequest,
} from "./embedded-types.ts";
import { WatchHub } from "./embedded-watch.ts";
import { refuse } from "./status.ts";
import type { Int64 } from "./store.ts";

export interface EngineOptions {
  /** Closed by whoever opened it, after `close()`. A restart is a new engine on the same database. */
  readonly db: Database;
  readonly clock: Clock;
  readonly log: Log;
  /** Revisions that stay readable; older ones are compacted away by and by. Default 10 000. */
  readonly keepRevisions?: number;
  /** Above this many bytes in use the store refuses puts. Default 2 GiB, as etcd. */
  readonly quotaBytes?: number;
  /** Disk space for deletes on a full disk. */
  readonly reserve?: Reserve;
}

const KEEP_REVISIONS = 10_000;

export class EmbeddedEngine {
  /** Identity of this store and of the process' part in it, as etcd's cluster_id and member_id; random, made once, kept on disk. */
  readonly clusterId: Int64;
  readonly memberId: Int64;
  readonly tables: Tables;
  readonly #clock: Clock;
  readonly #log: Log;
  readonly #leases: Leases;
  readonly #hub = new WatchHub();
  readonly #space: Space;
  readonly #keep: number;
  #revision: number;
  #compacted: number;
  #broken: Fault | undefined;

  constructor(options: EngineOptions) {
    this.#clock = options.clock;
    this.#log = options.log;
    this.#keep = options.keepRevisions ?? KEEP_REVISIONS;
    this.tables = new Tables(options.db);
    this.#compacted = Number(this.tables.fact("compacted") ?? 0);
    // etcd's first revision is 1; the newest write may itself have been compacted away.
    this.#revision = Math.max(1, this.#compacted, this.tables.newestRevision());
    this.clusterId = this.#identity("cluster_id");
    this.memberId = this.#identity("member_id");
    this.#space = new Space(this.tables, options);
    this.#leases = new Leases(options.clock, this.tables.leases(), () => this.#expire());
  }

  /** The revision of the newest write. */
  get revision(): number {
    return this.#revision;
  }

  /** Reads below this revision are refused; 0 when nothing was compacted yet. */
  get compactedRevision(): number {
    return this.#compacted;
  }

  /** False once the database has failed, and after `close()`. */
  get works(): boolean {
    return this.#broken === undefined;
  }

  /** How many watches are open. */
  get watchCount(): number {
    return this.#hub.size;
  }

  /** Reads a range. Throws Refusals as etcd does (empty key, future or compacted revision). */
  range(request: RangeRequest): RangeResponse {
    this.#ready();
    checkOp({ kind: "range", range: request });
    return this.#apply().range(request);
  }

  /** Writes one key in a revision of its own. */
  put(request: PutRequest): PutResponse {
    return this.#single({ kind: "put", put: request }) as PutResponse;
  }

  /** Deletes a range; the revision grows only when something was there. */
  deleteRange(request: DeleteRequest): DeleteResponse {
    return this.#single({ kind: "delete", delete: request }) as DeleteResponse;
  }

  /** Carries out a transaction; all its writes get one revision. Throws Refusals; then nothing was changed. */
  txn(txn: TxnRequest): TxnResponse {
    this.#ready();
    checkTxn(txn);
    checkSize(txn.failure, checkSize(txn.success));
    checkDuplicates(txn.success);
    checkDuplicates(txn.failure);
    if (putsSomething(txn.success) || putsSomething(txn.failure)) this.#claim();
    const apply = this.#apply();
    const chosen = apply.choose(txn);
    const responses = this.#carryOut(apply, chosen);
    return { kind: "txn", revision: this.#revision, succeeded: chosen.succeeded, responses };
  }

  /** Forgets what only reads below `revision` need. Throws when that is in the future or done already. */
  compact(revision: number): void {
    this.#ready();
    if (revision <= this.#compacted) throw refuse("compacted");
    if (revision > this.#revision) throw refuse("futureRevision");
    this.#write(() => this.tables.compact(revision), false);
    this.#compacted = revision;
  }

  /** A lease of `ttlSec` (at least 1); without an id (or "0") a random one. Ids are int64 text; `owner` is a user's name or "". */
  grant(ttlSec: number, id: Int64 = "0", owner = ""): { id: Int64; ttl: number } {
    this.#ready();
    if (ttlSec > MAX_TTL_SEC) throw refuse("leaseTtlTooLarge");
    this.#claim();
    if (this.#leases.has(id)) throw refuse("leaseExists");
    let chosen = id;
    while (chosen === "0" || (id === "0" && this.#leases.has(chosen))) chosen = this.#randomId();
    const ttl = Math.max(1, Math.floor(ttlSec));
    this.#write(() => this.tables.addLease(chosen, ttl, owner), true);
    this.#leases.add(chosen, ttl, owner);
    return { id: chosen, ttl };
  }

  /** Renews a lease; its TTL in seconds, 0 when it is gone. */
  keepAlive(id: Int64): number {
    this.#ready();
    return this.#leases.renew(id);
  }

  /** Ends a lease and deletes its keys in one revision. Throws when there is no such lease. */
  revoke(id: Int64): void {
    this.#ready();
    if (!this.#leases.has(id)) throw refuse("leaseNotFound");
    this.#end(id);
  }

  /** What is known of a lease; `ttl` -1 when there is none. */
  leaseInfo(id: Int64, withKeys = false): LeaseInfo {
    this.#ready();
    const time = this.#leases.remaining(id);
    if (time === undefined) return { id, ttl: -1, granted: 0, keys: [] };
    const keys = withKeys ? this.tables.keysOfLease(id) : [];
    return { id, ttl: Math.floor(time.left), granted: time.granted, keys };
  }

  /** Whom a lease was granted to; undefined when there is no such lease. */
  leaseOwner(id: Int64): string | undefined {
    this.#ready();
    return this.#leases.owner(id);
  }

  /** Ids of all leases. */
  leases(): Int64[] {
    this.#ready();
    return this.#leases.ids();
  }

  /**
   * Begins a watch. What is past already is told before this returns, later news inside the commit that makes it: `tell` must only take
   * note. Returns what ends the watch.
   */
  watch(request: WatchRequest, tell: (news: WatchNews) => void): () => void {
    this.#ready();
    return this.#hub.add(request, tell, this.tables, { revision: this.#revision, compacted: this.#compacted });
  }

  /** Bytes of the database and whether it refuses puts for want of space. */
  status(): { total: number; used: number; full: boolean } {
    this.#ready();
    return { ...this.tables.size(), full: this.#space.full };
  }

  /** Ends all watches and timers. Nothing is lost: every answered write is in the database already. */
  close(): void {
    if (this.#broken?.kind === "store.closed") return;
    this.#broken = new Fault("store.closed", "the store was closed", { retry: "later" });
    this.#leases.close();
    this.#hub.close();
    this.tables.close();
  }

  #single(op: OpRequest): OpResponse {
    this.#ready();
    checkOp(op);
    checkSize([op]);
    if (op.kind === "put") {
      this.#claim();
      // etcd looks for the lease first here, and last inside a transaction.
      if (op.put.lease !== "0" && !this.#leases.has(op.put.lease)) throw refuse("leaseNotFound");
    }
    const [response] = this.#carryOut(this.#apply(), { succeeded: true, ops: [op], nested: [] });
    return response as OpResponse;
  }

  /** Puts and new leases ask first; deletes never do, so that a verified node can still end its turn on a full store. */
  #claim(): void {
    const shrink = () => {
      if (this.#compacted < this.#revision) this.compact(this.#revision);
    };
    if (!this.#space.mayGrow(shrink)) throw refuse("noSpace");
  }

  #apply(): Apply {
    return new Apply(this.tables, this.#leases, { revision: this.#revision, compacted: this.#compacted });
  }

  #carryOut(apply: Apply, chosen: Chosen): OpResponse[] {
    apply.check(chosen);
    if (onlyReads(chosen)) return apply.run(chosen);
    const grows = putsSomething(chosen.ops);
    const responses = this.#write(() => {
      apply.events.length = 0;
      return apply.run(chosen);
    }, grows);
    this.#committed(apply);
    return responses;
  }

  /** After the commit, never before: a revision that was not written must not be seen. */
  #committed(apply: Apply): void {
    if (apply.events.length === 0) return;
    this.#revision = apply.revision;
    this.#hub.publish(this.#revision, apply.events);
    // In steps, so that the work is spread over many writes and costs each of them little.
    if (this.#revision - this.#compacted < this.#keep + Math.max(1, Math.ceil(this.#keep / 10))) return;
    try {
      this.compact(this.#revision - this.#keep);
    } catch (error) {
      // The write is on disk: for its caller this must not look like a no, nor like a doubt. The next write tries again.
      this.#log("error", "store_compaction_failed", sentence(error));
    }
  }

  /**
   * One database transaction. A full disk is a refusal; what only deletes (`grows` false) is tried once more with the reserve. Any other
   * database error leaves the outcome in doubt, so the engine takes no more work.
   */
  #write<T>(work: () => T, grows: boolean): T {
    try {
      try {
        return this.tables.atomically(work);
      } catch (error) {
        if (!isDiskFull(error) || grows || !this.#space.ranOut()) throw error;
        this.#log("error", "store_disk_full", "the disk is full: only deletes are taken until there is room again");
        return this.tables.atomically(work);
      }
    } catch (error) {
      if (error instanceof Fault) throw error;
      if (isDiskFull(error)) throw refuse("noSpace");
      this.#broken = new Fault("store.away", "the store's database failed; restart it", { cause: error });
      this.#log("error", "store_database_failed", sentence(error));
      throw new Fault("store.unknown", "the store's database failed during a write", { cause: error });
    }
  }

  /** Before every request: no lease that has run out may be seen alive, whatever timers do. */
  #ready(): void {
    if (this.#broken !== undefined) throw this.#broken;
    this.#expire();
  }

  #expire(): void {
    if (this.#broken !== undefined) return;
    for (const id of this.#leases.overdue()) {
      try {
        this.#end(id);
      } catch (error) {
        this.#log("error", "store_lease_stays", `a lease that ran out could not be ended: ${sentence(error)}`, { id });
        this.#leases.postpone(id, 1000);
      }
    }
  }

  #end(id: Int64): void {
    const apply = this.#apply();
    this.#write(() => {
      apply.events.length = 0;
      apply.dropLeased(id);
      this.tables.removeLease(id);
    }, false);
    this.#leases.remove(id);
    this.#committed(apply);
  }

  #identity(name: string): Int64 {
    const known = this.tables.fact(name);
    if (known !== undefined) return known;
    const made = this.#randomId();
    this.tables.setFact(name, made);
    return made;
  }

  /** A positive int64, as etcd's own ids are. */
  #randomId(): Int64 {
    const word = () => BigInt(Math.floor(this.#clock.random() * 2 ** 32));
    return (((word() << 32n) | word()) & 0x7fff_ffff_ffff_ffffn || 1n).toString();
  }
}

function onlyReads(chosen: Chosen): boolean {
  return chosen.ops.every((op) => op.kind === "range" || op.kind === "txn") && chosen.nested.every(onlyReads);
}

/** SQLITE_FULL: the disk or the allowed size is used up; SQLite has rolled the transaction back. */
function isDiskFull(error: unknown): boolean {
  return error instanceof Error && "code" in error && error.code === "SQLITE_FULL";
}
