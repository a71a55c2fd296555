/** The Store on an etcd cluster, or on whatever speaks as one, over the JSON gateway that every etcd has: nothing but fetch. */
import { Fault } from "../kernel/errors.ts";
import { EtcdClient, type EtcdOptions, type EtcdPorts } from "./etcd-client.ts";
import { type WatchTuning, watchEtcd } from "./etcd-watch.ts";
import { int64, type Json, rangeRequest, rangeResult, txnRequest, txnResult } from "./etcd-wire.ts";
import { CODE, Refusal } from "./status.ts";
import type { Store, Txn } from "./store.ts";

/** etcd's default for --max-txn-ops; a bigger transaction would be refused there, after it was sent. */
const MOST_OPS = 128;

/** Opens a store; nothing is sent yet, so it never fails for a store that is away. Throws on options that make no sense. */
export function openEtcd(options: EtcdOptions & WatchTuning, ports: EtcdPorts): Store {
  const client = new EtcdClient(options, ports);
  return {
    range: (call, key, rangeEnd) => client.ask(call, "read", "/v3/kv/range", rangeRequest(key, rangeEnd), rangeResult),
    async txn(call, txn) {
      checkSize(txn);
      return await client.ask(call, writes(txn) ? "write" : "read", "/v3/kv/txn", txnRequest(txn), txnResult);
    },
    grant: (call, ttlSec) => client.ask(call, "write", "/v3/lease/grant", { TTL: ttlSec, ID: 0 }, leaseOf),
    keepAlive: (call, lease) =>
      client.ask(call, "repeatable", "/v3/lease/keepalive", { ID: lease }, (answer) => Number(ttlOf(answer))),
    async revoke(call, lease) {
      try {
        await client.ask(call, "repeatable", "/v3/lease/revoke", { ID: lease }, () => undefined);
      } catch (error) {
        // Gone already is what the caller wanted; it may also be our own first try whose answer was lost.
        if (!(error instanceof Refusal && error.kind === "store.no-lease")) throw error;
      }
    },
    watch: (call, watch) => watchEtcd(client, call, watch, options),
    async close() {
      client.close();
    },
  };
}

function leaseOf(answer: Json): string {
  const id = int64(answer.ID);
  if (id === "0") throw new SyntaxError("the answer to the grant has no lease");
  return id;
}

function ttlOf(answer: Json): string {
  if (answer.ID === undefined) throw new SyntaxError("the answer to the keep-alive has no lease");
  return int64(answer.TTL);
}

function writes(txn: Txn): boolean {
  return [...(txn.then ?? []), ...(txn.else ?? [])].some((op) => !("get" in op));
}

function checkSize(txn: Txn): void {
  const most = Math.max(txn.if?.length ?? 0, txn.then?.length ?? 0, txn.else?.length ?? 0);
  if (most <= MOST_OPS) return;
  const cause = new Refusal("etcdserver: too many operations in txn request", CODE.invalid);
  throw new Fault("store.refused", `a transaction has at most ${MOST_OPS} compares and operations, this one ${most}`, {
    cause,
  });
}
