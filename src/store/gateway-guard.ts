/** Whether somebody may do what a request asks: every key that it touches, looks at or could learn of has to be his. */
import type { EmbeddedEngine } from "./embedded.ts";
import type { DeleteRequest, OpRequest, PutRequest, RangeRequest, TxnRequest, WatchRequest } from "./embedded-types.ts";
import { refuse } from "./status.ts";
import type { Int64 } from "./store.ts";
import type { Principal } from "./users.ts";

/** Throws etcd's "permission denied". Both branches of a transaction count, whichever would run. */
export class Guard {
  readonly #who: Principal;
  readonly #engine: EmbeddedEngine;

  constructor(who: Principal, engine: EmbeddedEngine) {
    this.#who = who;
    this.#engine = engine;
  }

  range({ key, end }: RangeRequest | WatchRequest): void {
    this.#may("read", key, end);
  }

  put(request: PutRequest): void {
    this.#may("write", request.key, undefined);
    if (request.prev === true || request.ignoreValue === true) this.#may("read", request.key, undefined);
    // Whoever could hang keys on somebody else's lease could keep them past his own, or be told when it ends.
    if (request.lease !== "0") this.#owns(request.lease);
  }

  delete(request: DeleteRequest): void {
    this.#may("write", request.key, request.end);
    if (request.prev === true) this.#may("read", request.key, request.end);
  }

  txn(txn: TxnRequest): void {
    for (const compare of txn.compare) this.#may("read", compare.key, compare.end);
    for (const op of [...txn.success, ...txn.failure]) this.#op(op);
  }

  /** Renewing, ending or asking after a lease is for whom it was granted to, and for root. A lease that is not there is nobody's secret. */
  lease(id: Int64): void {
    this.#owns(id);
  }

  /** The leases that one may know of. */
  visible(id: Int64): boolean {
    return this.#who.root || this.#engine.leaseOwner(id) === this.#who.name;
  }

  /** What changes the store for everybody: compaction, maintenance, users. */
  root(): void {
    if (!this.#who.root) throw refuse("denied");
  }

  #op(op: OpRequest): void {
    if (op.kind === "range") this.range(op.range);
    else if (op.kind === "put") this.put(op.put);
    else if (op.kind === "delete") this.delete(op.delete);
    else this.txn(op.txn);
  }

  #owns(id: Int64): void {
    const owner = this.#engine.leaseOwner(id);
    if (owner !== undefined && owner !== this.#who.name && !this.#who.root) throw refuse("denied");
  }

  #may(access: "read" | "write", key: string, end: string | undefined): void {
    // An empty key is refused as such by the engine, in etcd's own words.
    if (key !== "" && !this.#who.may(access, key, end)) throw refuse("denied");
  }
}
