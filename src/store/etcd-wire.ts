/** etcd's JSON as its gRPC gateway writes and reads it: int64 as text with zeros left out, keys and values as base64, enums by name. */
import { Fault } from "../kernel/errors.ts";
import { base64ToText, textToBase64 } from "./bytes.ts";
import { CODE, Refusal } from "./status.ts";
import type { Compare, Comparison, Int64, KeyValue, Op, RangeResult, Txn, TxnResult, WatchEvent } from "./store.ts";

/** A JSON object of which nothing is known yet. */
export type Json = Readonly<Record<string, unknown>>;

/** `value` if it is a JSON object, else nothing. */
export function object(value: unknown): Json | undefined {
  return typeof value === "object" && value !== null && !Array.isArray(value) ? (value as Json) : undefined;
}

function objects(value: unknown): Json[] {
  return Array.isArray(value) ? value.map((item) => object(item) ?? {}) : [];
}

/** An int64 that the gateway leaves out when it is zero. Throws when it is anything but a whole number. */
export function int64(value: unknown): Int64 {
  if (value === undefined || value === null) return "0";
  const text = String(value);
  if (!/^-?\d+$/.test(text)) throw new SyntaxError(`not an int64: ${text.slice(0, 40)}`);
  return text;
}

function text(value: unknown): string {
  return typeof value === "string" ? base64ToText(value) : "";
}

/** The revision and the store's identity, which stand in every answer. Throws when they do not: then it is no etcd that answered. */
export function headerOf(answer: Json): { revision: Int64; storeId: Int64 } {
  const header = object(answer.header);
  if (header?.cluster_id === undefined) throw new SyntaxError("the answer has no header as an etcd's has");
  return { revision: int64(header.revision), storeId: int64(header.cluster_id) };
}

/** A key as etcd writes it; what it leaves out comes back as zeros and an empty value. */
export function keyValueOf(kv: Json): KeyValue {
  return {
    key: text(kv.key),
    value: text(kv.value),
    createRevision: int64(kv.create_revision),
    modRevision: int64(kv.mod_revision),
    version: int64(kv.version),
    lease: int64(kv.lease),
  };
}

/** A range request for one key or [key, rangeEnd). */
export function rangeRequest(key: string, rangeEnd: string | undefined): Json {
  return { key: textToBase64(key), ...end(rangeEnd) };
}

/** The answer to a range request. Throws when it is no etcd's answer. */
export function rangeResult(answer: Json): RangeResult {
  return { kvs: objects(answer.kvs).map(keyValueOf), ...headerOf(answer) };
}

function end(rangeEnd: string | undefined): Json {
  return rangeEnd === undefined ? {} : { range_end: textToBase64(rangeEnd) };
}

const RESULT: Readonly<Record<Comparison, string>> = { "=": "EQUAL", "!=": "NOT_EQUAL", ">": "GREATER", "<": "LESS" };
const FIELD = { create: "create_revision", mod: "mod_revision", version: "version", lease: "lease" } as const;

function compareRequest(compare: Compare): Json {
  const common = { key: textToBase64(compare.key), ...end(compare.rangeEnd), result: RESULT[compare.is] };
  if (compare.target === "value") return { ...common, target: "VALUE", value: textToBase64(compare.to) };
  return { ...common, target: compare.target.toUpperCase(), [FIELD[compare.target]]: compare.to };
}

function opRequest(op: Op): Json {
  if ("get" in op) return { request_range: rangeRequest(op.get, op.rangeEnd) };
  if ("delete" in op) return { request_delete_range: rangeRequest(op.delete, op.rangeEnd) };
  const lease = op.keepLease === true ? { ignore_lease: true } : op.lease === undefined ? {} : { lease: op.lease };
  return { request_put: { key: textToBase64(op.put), value: textToBase64(op.value), ...lease } };
}

/** A transaction as etcd wants it. */
export function txnRequest(txn: Txn): Json {
  return {
    compare: (txn.if ?? []).map(compareRequest),
    success: (txn.then ?? []).map(opRequest),
    failure: (txn.else ?? []).map(opRequest),
  };
}

/** The answer to a transaction. Throws when it is no etcd's answer; no `succeeded` means false. */
export function txnResult(answer: Json): TxnResult {
  const reads = objects(answer.responses).map((response) =>
    objects(object(response.response_range)?.kvs).map(keyValueOf),
  );
  return { succeeded: answer.succeeded === true, reads, ...headerOf(answer) };
}

/** The events of one answer of a watch, in order. */
export function watchEvents(result: Json): WatchEvent[] {
  return objects(result.events).map((event) => ({
    type: event.type === "DELETE" ? ("delete" as const) : ("put" as const),
    kv: keyValueOf(object(event.kv) ?? {}),
  }));
}

/**
 * What an answer that is not a success means: a Refusal when etcd said a definite no, else `store.unknown`. Unavailable ("leader changed",
 * "request timed out"), deadlines, cancellations and anything unreadable may hide a request that was carried out.
 */
export function failureOf(status: number, body: unknown): Fault {
  const answer = object(body) ?? {};
  const inner = object(answer.error);
  const message = inner?.message ?? answer.message ?? answer.error;
  const code = Number(inner?.grpc_code ?? answer.code);
  if (typeof message === "string" && isDefinite(code)) return new Refusal(message, code);
  // HTTP's own "content too large" is said by a server that stopped reading.
  if (status === 413) return new Refusal("etcdserver: request is too large", CODE.invalid);
  const said = typeof message === "string" ? message : `HTTP status ${status} without etcd's words`;
  return new Fault("store.unknown", said, { retry: "later" });
}

const DEFINITE: ReadonlySet<number> = new Set([
  CODE.invalid,
  CODE.notFound,
  CODE.denied,
  CODE.exhausted,
  CODE.precondition,
  CODE.outOfRange,
  CODE.unimplemented,
  CODE.unauthenticated,
]);

function isDefinite(code: number): boolean {
  return DEFINITE.has(code);
}

/** True for a no that a fresh token may turn into a yes; etcd checks the token before it does anything. */
export function isTokenTrouble(error: unknown): boolean {
  if (!(error instanceof Refusal)) return false;
  if (error.code === CODE.unauthenticated) return true;
  return /invalid auth token|auth store is old|user name is empty/.test(error.message);
}
