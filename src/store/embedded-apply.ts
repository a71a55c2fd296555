/** Carries out the operations of one transaction on the tables, as etcd's apply.go does; the caller wraps it in BEGIN and COMMIT. */
import type { Bytes } from "./bytes.ts";
import type { Leases } from "./embedded-leases.ts";
import { STRIDE, type Tables } from "./embedded-tables.ts";
import type {
  CompareRequest,
  DeleteRequest,
  DeleteResponse,
  EngineEvent,
  OpRequest,
  OpResponse,
  PutRequest,
  PutResponse,
  RangeRequest,
  RangeResponse,
  Row,
  TxnRequest,
} from "./embedded-types.ts";
import { refuse } from "./status.ts";
import type { Int64 } from "./store.ts";

/** A transaction whose compares have been judged: which branch runs, for nested ones too, before anything is written. */
export interface Chosen {
  readonly succeeded: boolean;
  readonly ops: readonly OpRequest[];
  /** The choices of nested transactions, in the order in which they stand in `ops`. */
  readonly nested: readonly Chosen[];
}

/** One transaction under way at `revision` (the one it gets if it writes). */
export class Apply {
  readonly events: EngineEvent[] = [];
  readonly #tables: Tables;
  readonly #leases: Leases;
  readonly #before: number;
  readonly #compacted: number;

  constructor(tables: Tables, leases: Leases, state: { revision: number; compacted: number }) {
    this.#tables = tables;
    this.#leases = leases;
    this.#before = state.revision;
    this.#compacted = state.compacted;
  }

  /** The store's revision as this transaction sees it: one more as soon as it has written. */
  get revision(): number {
    return this.events.length === 0 ? this.#before : this.#before + 1;
  }

  /** Judges the compares on the state before the transaction. */
  choose(txn: TxnRequest): Chosen {
    const succeeded = txn.compare.every((compare) => this.#holds(compare));
    const ops = succeeded ? txn.success : txn.failure;
    const nested = ops.flatMap((op) => (op.kind === "txn" ? [this.choose(op.txn)] : []));
    return { succeeded, ops, nested };
  }

  /** Refuses what could not be carried out, before the first write: all puts first, then all reads (etcd's checkRequests). */
  check(chosen: Chosen): void {
    for (const { put } of opsOf(chosen, "put")) this.#checkPut(put);
    for (const { range } of opsOf(chosen, "range")) this.#checkRevision(range.revision ?? 0);
  }

  #checkPut(put: PutRequest): void {
    const ignores = put.ignoreLease === true || put.ignoreValue === true;
    if (ignores && this.#tables.get(put.key) === undefined) throw refuse("keyNotFound");
    if (put.lease !== "0" && !this.#leases.has(put.lease)) throw refuse("leaseNotFound");
  }

  /** Carries out the operations of the chosen branches, in order. */
  run(chosen: Chosen): OpResponse[] {
    const nested = chosen.nested.values();
    return chosen.ops.map((op) => (op.kind === "txn" ? this.#nested(nested.next().value as Chosen) : this.#single(op)));
  }

  #nested(chosen: Chosen): OpResponse {
    const responses = this.run(chosen);
    return { kind: "txn", revision: this.revision, succeeded: chosen.succeeded, responses };
  }

  #single(op: Exclude<OpRequest, { kind: "txn" }>): OpResponse {
    if (op.kind === "range") return this.range(op.range);
    return op.kind === "put" ? this.#put(op.put) : this.#delete(op.delete);
  }

  /** Reads; sees what this transaction has written already. */
  range(request: RangeRequest): RangeResponse {
    const revision = request.revision ?? 0;
    this.#checkRevision(revision);
    const limit = request.limit ?? 0;
    const filtered = ["minModified", "maxModified", "minCreated", "maxCreated"].some(
      (name) => (request[name as "minModified"] ?? 0) > 0,
    );
    const sorted = (request.sortBy ?? "key") !== "key" || (request.sortOrder ?? "none") !== "none";
    const historic = revision > 0 && revision < this.revision;
    const bare = request.keysOnly === true;
    const plain = !filtered && !sorted && !historic;
    if (request.countOnly === true && !historic) {
      const count = this.#tables.count(request.key, request.end);
      return { kind: "range", revision: this.revision, rows: [], more: false, count };
    }
    // One row more than asked for shows whether there are more.
    let rows: Row[] = historic
      ? this.#tables.rangeAsOf(request.key, request.end, revision)
      : this.#tables.range(request.key, request.end, plain && limit > 0 ? limit + 1 : -1, bare && !sorted);
    const cut = plain && limit > 0 && rows.length > limit;
    const count = cut ? this.#tables.count(request.key, request.end) : rows.length;
    if (request.countOnly === true) return { kind: "range", revision: this.revision, rows: [], more: false, count };
    if (filtered) rows = rows.filter((row) => passes(row, request));
    if (sorted) rows = sort(rows, request);
    const more = limit > 0 && rows.length > limit;
    if (more) rows = rows.slice(0, limit);
    // Values may have been needed to sort by them.
    if (bare && (historic || sorted)) rows = rows.map((row) => ({ ...row, value: "" }));
    return { kind: "range", revision: this.revision, rows, more, count };
  }

  /** Deletes every key of a lease that ends. */
  dropLeased(lease: Int64): void {
    for (const key of this.#tables.keysOfLease(lease)) this.#drop(key, this.#tables.get(key));
  }

  #checkRevision(revision: number): void {
    if (revision > this.#before) throw refuse("futureRevision");
    if (revision > 0 && revision < this.#compacted) throw refuse("compacted");
  }

  #put(put: PutRequest): PutResponse {
    const old = this.#tables.get(put.key);
    const revision = this.#before + 1;
    const row: Row = {
      key: put.key,
      value: put.ignoreValue === true ? (old?.value ?? "") : put.value,
      created: old?.created ?? revision,
      modified: revision,
      version: (old?.version ?? 0) + 1,
      lease: put.ignoreLease === true ? (old?.lease ?? "0") : put.lease,
    };
    this.#tables.put(row, this.#place());
    this.events.push({ type: "put", row, prev: old });
    return { kind: "put", revision, prev: put.prev === true ? old : undefined };
  }

  #delete(request: DeleteRequest): DeleteResponse {
    const rows = this.#tables.range(request.key, request.end);
    for (const row of rows) this.#drop(row.key, row);
    return {
      kind: "delete",
      revision: this.revision,
      deleted: rows.length,
      prevs: request.prev === true ? rows : [],
    };
  }

  #drop(key: Bytes, prev: Row | undefined): void {
    const revision = this.#before + 1;
    this.#tables.drop(key, revision, this.#place());
    const row: Row = { key, value: "", created: 0, modified: revision, version: 0, lease: "0" };
    this.events.push({ type: "delete", row, prev });
  }

  #place(): number {
    if (this.events.length >= STRIDE) throw refuse("tooLarge");
    return this.events.length;
  }

  #holds(compare: CompareRequest): boolean {
    const rows = this.#tables.range(compare.key, compare.end);
    // etcd's rule: a missing key has revision, version and lease 0, but no value, so no compare of a value holds.
    if (rows.length === 0) return compare.target !== "value" && judge(compare.is, ordered("0", compare.to));
    return rows.every((row) => {
      const order =
        compare.target === "value" ? bytewise(row.value, compare.to) : ordered(numberOf(row, compare), compare.to);
      return judge(compare.is, order);
    });
  }
}

/** The operations of one kind that will run, nested ones in their place. */
function opsOf<K extends OpRequest["kind"]>(chosen: Chosen, kind: K): Extract<OpRequest, { kind: K }>[] {
  const nested = chosen.nested.values();
  return chosen.ops.flatMap((op) => {
    if (op.kind === "txn") return opsOf(nested.next().value as Chosen, kind);
    return op.kind === kind ? [op as Extract<OpRequest, { kind: K }>] : [];
  });
}

function numberOf(row: Row, compare: CompareRequest): string {
  switch (compare.target) {
    case "create":
      return String(row.created);
    case "mod":
      return String(row.modified);
    case "version":
      return String(row.version);
    default:
      return row.lease;
  }
}

function bytewise(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}

/** Order of two int64 texts, negative ones too. */
function ordered(a: Int64, b: Int64): number {
  if (a === b) return 0;
  return BigInt(a) < BigInt(b) ? -1 : BigInt(a) > BigInt(b) ? 1 : 0;
}

function judge(is: CompareRequest["is"], order: number): boolean {
  switch (is) {
    case "=":
      return order === 0;
    case "!=":
      return order !== 0;
    case ">":
      return order > 0;
    case "<":
      return order < 0;
  }
}

function passes(row: Row, request: RangeRequest): boolean {
  const above = (value: number, least: number | undefined) => (least ?? 0) === 0 || value >= (least ?? 0);
  const below = (value: number, most: number | undefined) => (most ?? 0) === 0 || value <= (most ?? 0);
  return (
    above(row.modified, request.minModified) &&
    below(row.modified, request.maxModified) &&
    above(row.created, request.minCreated) &&
    below(row.created, request.maxCreated)
  );
}

function sort(rows: readonly Row[], request: RangeRequest): Row[] {
  const by = request.sortBy ?? "key";
  const sign = request.sortOrder === "descend" ? -1 : 1;
  const order = (a: Row, b: Row): number => (by === "key" || by === "value" ? bytewise(a[by], b[by]) : a[by] - b[by]);
  return [...rows].sort((a, b) => sign * order(a, b));
}
