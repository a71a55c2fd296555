/** What the embedded engine is asked and what it answers: etcd's v3 messages with byte strings, revisions as numbers, leases as text. */
import type { Bytes } from "./bytes.ts";
import type { Int64 } from "./store.ts";

/** A key as it stands at some revision. Revisions of one machine's file stay far below 2^53; lease ids do not, so they are text. */
export interface Row {
  readonly key: Bytes;
  readonly value: Bytes;
  readonly created: number;
  readonly modified: number;
  readonly version: number;
  readonly lease: Int64;
}

export interface RangeRequest {
  readonly key: Bytes;
  readonly end?: Bytes | undefined;
  /** Most rows in the answer; 0 or nothing: all. */
  readonly limit?: number;
  /** Read as of this revision; 0 or nothing: now. */
  readonly revision?: number;
  readonly sortBy?: "key" | "version" | "created" | "modified" | "value";
  readonly sortOrder?: "none" | "ascend" | "descend";
  readonly keysOnly?: boolean;
  readonly countOnly?: boolean;
  readonly minModified?: number;
  readonly maxModified?: number;
  readonly minCreated?: number;
  readonly maxCreated?: number;
}

export interface RangeResponse {
  readonly kind: "range";
  readonly revision: number;
  readonly rows: readonly Row[];
  readonly more: boolean;
  /** Keys in the range, whatever the limit was. */
  readonly count: number;
}

export interface PutRequest {
  readonly key: Bytes;
  readonly value: Bytes;
  /** "0": no lease. */
  readonly lease: Int64;
  readonly ignoreLease?: boolean;
  readonly ignoreValue?: boolean;
  readonly prev?: boolean;
}

export interface PutResponse {
  readonly kind: "put";
  readonly revision: number;
  readonly prev?: Row | undefined;
}

export interface DeleteRequest {
  readonly key: Bytes;
  readonly end?: Bytes | undefined;
  readonly prev?: boolean;
}

export interface DeleteResponse {
  readonly kind: "delete";
  readonly revision: number;
  readonly deleted: number;
  readonly prevs: readonly Row[];
}

export type CompareTarget = "version" | "create" | "mod" | "value" | "lease";

export interface CompareRequest {
  readonly target: CompareTarget;
  readonly key: Bytes;
  readonly end?: Bytes | undefined;
  readonly is: "=" | "!=" | ">" | "<";
  /** int64 text, or bytes when the target is the value. */
  readonly to: string;
}

export type OpRequest =
  | { readonly kind: "range"; readonly range: RangeRequest }
  | { readonly kind: "put"; readonly put: PutRequest }
  | { readonly kind: "delete"; readonly delete: DeleteRequest }
  | { readonly kind: "txn"; readonly txn: TxnRequest };

export type OpResponse = RangeResponse | PutResponse | DeleteResponse | TxnResponse;

export interface TxnRequest {
  readonly compare: readonly CompareRequest[];
  readonly success: readonly OpRequest[];
  readonly failure: readonly OpRequest[];
}

export interface TxnResponse {
  readonly kind: "txn";
  readonly revision: number;
  readonly succeeded: boolean;
  readonly responses: readonly OpResponse[];
}

export interface EngineEvent {
  readonly type: "put" | "delete";
  /** For a delete only key and modified are set; the rest is empty. */
  readonly row: Row;
  readonly prev?: Row | undefined;
}

export interface WatchRequest {
  readonly key: Bytes;
  readonly end?: Bytes | undefined;
  /** 0: from the next revision on. */
  readonly from: number;
  readonly noPut?: boolean;
  readonly noDelete?: boolean;
  readonly prev?: boolean;
}

/** What a watch is told. After `compacted` and `closed` nothing more comes. */
export type WatchNews =
  | { readonly kind: "events"; readonly revision: number; readonly events: readonly EngineEvent[] }
  | { readonly kind: "compacted"; readonly compactRevision: number }
  | { readonly kind: "closed" };

export interface LeaseInfo {
  readonly id: Int64;
  /** Whole seconds left, rounded down as etcd does; -1 when there is no such lease. */
  readonly ttl: number;
  readonly granted: number;
  readonly keys: readonly Bytes[];
}
