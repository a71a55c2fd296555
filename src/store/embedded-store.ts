/** The embedded engine as a Store, inside one process: no sockets, no timers, only microtasks, so that a simulator can own the order. */
import { Fault } from "../kernel/errors.ts";
import { fromBytes, toBytes } from "./bytes.ts";
import type { EmbeddedEngine } from "./embedded.ts";
import type { CompareRequest, EngineEvent, OpRequest, OpResponse, Row, WatchNews } from "./embedded-types.ts";
import { Queue } from "./queue.ts";
import { Refusal } from "./status.ts";
import type {
  Call,
  Compare,
  Int64,
  KeyValue,
  Op,
  Store,
  Txn,
  TxnResult,
  WatchEvent,
  WatchItem,
  WatchOptions,
} from "./store.ts";

/**
 * A Store on `engine`. Faults are the engine's; after `engine.close()` calls reject with `store.away` and watches end by throwing it.
 * `close` closes the engine too when `owned` (default no).
 */
export function embeddedStore(engine: EmbeddedEngine, options: { readonly owned?: boolean } = {}): Store {
  const ask = async <T>(call: Call, work: () => T): Promise<T> => {
    call.signal?.throwIfAborted();
    try {
      return work();
    } catch (error) {
      throw error instanceof Fault && error.kind === "store.closed" ? away(error) : error;
    }
  };
  return {
    range: (call, key, rangeEnd) =>
      ask(call, () => {
        const answer = engine.range({ key: toBytes(key), end: endOf(rangeEnd) });
        return { kvs: answer.rows.map(keyValue), revision: String(answer.revision), storeId: engine.clusterId };
      }),
    txn: (call, txn) => ask(call, () => carryOut(engine, txn)),
    grant: (call, ttlSec) => ask(call, () => engine.grant(ttlSec).id),
    keepAlive: (call, lease) => ask(call, () => engine.keepAlive(lease)),
    revoke: (call, lease) =>
      ask(call, () => {
        try {
          engine.revoke(lease);
        } catch (error) {
          // Gone already is what the caller wanted.
          if (!(error instanceof Refusal && error.kind === "store.no-lease")) throw error;
        }
      }),
    watch: (call, watch) => follow(engine, call, watch),
    close: async () => {
      if (options.owned === true) engine.close();
    },
  };
}

function away(cause: unknown): Fault {
  return new Fault("store.away", "the store is closed", { cause, retry: "later" });
}

function endOf(rangeEnd: string | undefined): string | undefined {
  return rangeEnd === undefined ? undefined : toBytes(rangeEnd);
}

function carryOut(engine: EmbeddedEngine, txn: Txn): TxnResult {
  const answer = engine.txn({
    compare: (txn.if ?? []).map(compareOf),
    success: (txn.then ?? []).map(opOf),
    failure: (txn.else ?? []).map(opOf),
  });
  return {
    succeeded: answer.succeeded,
    revision: String(answer.revision),
    storeId: engine.clusterId,
    reads: answer.responses.map(readOf),
  };
}

function readOf(response: OpResponse): readonly KeyValue[] {
  return response.kind === "range" ? response.rows.map(keyValue) : [];
}

function compareOf(compare: Compare): CompareRequest {
  const { target, is } = compare;
  const to = target === "value" ? toBytes(compare.to) : compare.to;
  return { target, key: toBytes(compare.key), end: endOf(compare.rangeEnd), is, to };
}

function opOf(op: Op): OpRequest {
  if ("get" in op) return { kind: "range", range: { key: toBytes(op.get), end: endOf(op.rangeEnd) } };
  if ("delete" in op) return { kind: "delete", delete: { key: toBytes(op.delete), end: endOf(op.rangeEnd) } };
  const put = { key: toBytes(op.put), value: toBytes(op.value), lease: op.lease ?? "0" };
  return { kind: "put", put: { ...put, ignoreLease: op.keepLease === true } };
}

/** A row as the rest of Rota sees it. */
export function keyValue(row: Row): KeyValue {
  return {
    key: fromBytes(row.key),
    value: fromBytes(row.value),
    createRevision: String(row.created),
    modRevision: String(row.modified),
    version: String(row.version),
    lease: row.lease,
  };
}

function eventOf(event: EngineEvent): WatchEvent {
  return { type: event.type, kv: keyValue(event.row) };
}

async function* follow(
  engine: EmbeddedEngine,
  call: Call,
  options: WatchOptions,
): AsyncGenerator<WatchItem, void, undefined> {
  if (call.signal?.aborted) return;
  const queue = new Queue<WatchItem>();
  const tell = (news: WatchNews): void => {
    if (news.kind === "closed") return queue.end(away(undefined));
    if (news.kind === "events")
      return queue.push({ kind: "events", revision: String(news.revision), events: news.events.map(eventOf) });
    queue.push({ kind: "lost", why: `the store has compacted revisions below ${news.compactRevision}` });
    queue.end();
  };
  const stop = () => queue.stop();
  const from = number(options.from);
  if (from > engine.revision + 1) {
    // Somebody has read a revision that this store never had.
    yield { kind: "lost", why: `the store is at revision ${engine.revision}, behind ${options.from}` };
    return;
  }
  // Events of the past are told inside watch(), so "open" goes first.
  queue.push({ kind: "open", revision: String(engine.revision) });
  const cancel = engine.watch(
    { key: toBytes(options.key), end: endOf(options.rangeEnd), from, noPut: options.deletesOnly === true },
    tell,
  );
  call.signal?.addEventListener("abort", stop, { once: true });
  try {
    yield* queue.drain();
  } finally {
    call.signal?.removeEventListener("abort", stop);
    cancel();
  }
}

/** A revision as a number; beyond 2^53 there is nothing in this store, and never will be. */
function number(revision: Int64): number {
  return Math.min(Number(revision), Number.MAX_SAFE_INTEGER);
}
