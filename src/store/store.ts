/** The store as the rest of Rota sees it: etcd's key-value model, its transactions, leases and watches, and nothing else. */

/** An int64 as decimal text, exactly as etcd's JSON gateway writes it. Never a JavaScript number. */
export type Int64 = string;

export interface KeyValue {
  readonly key: string;
  /** UTF-8; bytes that are not valid UTF-8 come back as U+FFFD, so a foreign value can be seen but not rewritten. */
  readonly value: string;
  readonly createRevision: Int64;
  readonly modRevision: Int64;
  readonly version: Int64;
  /** "0" means no lease: the key outlives every process. */
  readonly lease: Int64;
}

export type Comparison = "=" | "!=" | ">" | "<";

/**
 * One condition of a transaction. With `rangeEnd` it must hold for every key in [key, rangeEnd). Where no key is, revisions, version and lease
 * compare as zeros (so `create = 0` and `mod < n` hold), and no value compare holds.
 */
export type Compare =
  | {
      readonly target: "create" | "mod" | "version" | "lease";
      readonly key: string;
      readonly rangeEnd?: string;
      readonly is: Comparison;
      readonly to: Int64;
    }
  | {
      readonly target: "value";
      readonly key: string;
      readonly rangeEnd?: string;
      readonly is: Comparison;
      readonly to: string;
    };

export type Op =
  | {
      readonly put: string;
      readonly value: string;
      /** Attach to this lease; none means no lease at all. */
      readonly lease?: Int64;
      /** Keep the lease that the key has; the key must exist. */
      readonly keepLease?: boolean;
    }
  | { readonly delete: string; readonly rangeEnd?: string }
  | { readonly get: string; readonly rangeEnd?: string };

export interface Txn {
  readonly if?: readonly Compare[];
  readonly then?: readonly Op[];
  readonly else?: readonly Op[];
}

export interface TxnResult {
  readonly succeeded: boolean;
  /** The store's revision after the transaction. */
  readonly revision: Int64;
  /** Identity of the store (etcd's cluster_id): another one means another store, or one restored from a backup. */
  readonly storeId: Int64;
  /** One entry for each op that was carried out, in order: what a get read (sorted by key), [] for puts and deletes. */
  readonly reads: readonly (readonly KeyValue[])[];
}

export interface RangeResult {
  readonly kvs: readonly KeyValue[];
  readonly revision: Int64;
  readonly storeId: Int64;
}

export interface WatchEvent {
  readonly type: "put" | "delete";
  /** For a delete only `key` and `modRevision` mean anything. */
  readonly kv: KeyValue;
}

/** What a watch yields: its beginning (once), batches of events, and the end of what it can promise. */
export type WatchItem =
  | { readonly kind: "open"; readonly revision: Int64 }
  | { readonly kind: "events"; readonly revision: Int64; readonly events: readonly WatchEvent[] }
  /** Events were lost (compaction, or the store went back in time): read again, then watch from there. The watch is over. */
  | { readonly kind: "lost"; readonly why: string };

export interface WatchOptions {
  readonly key: string;
  readonly rangeEnd?: string;
  /** First revision to be told about: the revision of the read, plus one. */
  readonly from: Int64;
  /** Only deletions are of interest. */
  readonly deletesOnly?: boolean;
}

/** How long one call may take and what it is called in logs and metrics. */
export interface Call {
  readonly label: string;
  readonly signal?: AbortSignal;
  /** Overrides the store's own deadline, ms. */
  readonly timeoutMs?: number;
}

/**
 * Errors of every method are Faults:
 * - `store.unknown`  the request may or may not have been carried out, now or later (writes only);
 * - `store.away`     it was certainly not carried out and nobody answered (reads: nobody answered in time); try later;
 * - `store.refused`  the store answered with a definite no (bad request, permission, …); the message has its words;
 *   `store.refused.full` when it has no space left: then it still takes deletes;
 * - `store.no-lease` the lease named in a put is not there; nothing was changed.
 * An abort of `call.signal` rejects with the signal's reason for reads, and with `store.unknown` (cause: the reason) for writes under way.
 */
export interface Store {
  /** Linearizable read of one key or of [key, rangeEnd). */
  range(call: Call, key: string, rangeEnd?: string): Promise<RangeResult>;
  /** One atomic transaction, linearizable also when it only reads. */
  txn(call: Call, txn: Txn): Promise<TxnResult>;
  /** A new lease; resolves to its id. `ttlSec` is a whole number ≥ 1. */
  grant(call: Call, ttlSec: number): Promise<Int64>;
  /** Renews a lease; resolves to its TTL in seconds, 0 when the lease is gone for good. */
  keepAlive(call: Call, lease: Int64): Promise<number>;
  /** Ends a lease and deletes its keys. A lease that is already gone is a success. */
  revoke(call: Call, lease: Int64): Promise<void>;
  /**
   * Yields until `call.signal` aborts (then it just ends). Reconnects by itself from where it was, also to other endpoints, and is never
   * cut for being quiet. Throws only `store.refused` (no permission, bad key).
   */
  watch(call: Call, options: WatchOptions): AsyncIterable<WatchItem>;
  close(): Promise<void>;
}

/** Compares two non-negative int64 texts: below 0, 0, or above 0. */
export function compare64(a: Int64, b: Int64): number {
  return a.length === b.length ? (a < b ? -1 : a > b ? 1 : 0) : a.length - b.length;
}

/** `a + n` as int64 text. */
export function add64(a: Int64, n: number): Int64 {
  return (BigInt(a) + BigInt(n)).toString();
}

/** The end of the range of all keys that begin with `prefix` (etcd's prefix rule), for prefixes whose last character is ASCII. */
export function prefixEnd(prefix: string): string {
  const last = prefix.charCodeAt(prefix.length - 1);
  return prefix.slice(0, -1) + String.fromCharCode(last + 1);
}

/** The same store with `prefix` put before every key and taken off every answer; all that one deployment does lies under it. */
export function namespaced(store: Store, prefix: string): Store {
  if (prefix === "") return store;
  const strip = (kv: KeyValue): KeyValue => ({ ...kv, key: kv.key.slice(prefix.length) });
  const end = (rangeEnd: string | undefined) => (rangeEnd === undefined ? {} : { rangeEnd: prefix + rangeEnd });
  const compare = (c: Compare): Compare => ({ ...c, key: prefix + c.key, ...end(c.rangeEnd) });
  const op = (o: Op): Op =>
    "put" in o
      ? { ...o, put: prefix + o.put }
      : "delete" in o
        ? { delete: prefix + o.delete, ...end(o.rangeEnd) }
        : { get: prefix + o.get, ...end(o.rangeEnd) };
  return {
    async range(call, key, rangeEnd) {
      const r = await store.range(call, prefix + key, rangeEnd === undefined ? undefined : prefix + rangeEnd);
      return { ...r, kvs: r.kvs.map(strip) };
    },
    async txn(call, txn) {
      const r = await store.txn(call, {
        if: (txn.if ?? []).map(compare),
        then: (txn.then ?? []).map(op),
        else: (txn.else ?? []).map(op),
      });
      return { ...r, reads: r.reads.map((kvs) => kvs.map(strip)) };
    },
    grant: (call, ttlSec) => store.grant(call, ttlSec),
    keepAlive: (call, lease) => store.keepAlive(call, lease),
    revoke: (call, lease) => store.revoke(call, lease),
    async *watch(call, options) {
      for await (const item of store.watch(call, { ...options, key: prefix + options.key, ...end(options.rangeEnd) }))
        yield item.kind === "events" ? { ...item, events: item.events.map((e) => ({ ...e, kv: strip(e.kv) })) } : item;
    },
    close: () => store.close(),
  };
}
