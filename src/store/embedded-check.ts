/** What etcd refuses before it looks at any key: the rules of its API layer (etcdserver/api/v3rpc/key.go of 3.4), as pure functions. */
import { type Bytes, within } from "./bytes.ts";
import type { OpRequest, PutRequest, TxnRequest } from "./embedded-types.ts";
import { refuse } from "./status.ts";

/** etcd's default for --max-txn-ops: compares and operations of a transaction, each list by itself. */
export const MAX_TXN_OPS = 128;

/** etcd's default for --max-request-bytes. Keys and values are what counts here; etcd also counts a few bytes around them. */
export const MAX_REQUEST_BYTES = 1.5 * 1024 * 1024;

/** Throws the refusal that etcd would give for this operation; `room` is what is left of the limit for nested transactions. */
export function checkOp(op: OpRequest, room = MAX_TXN_OPS): void {
  switch (op.kind) {
    case "range":
      return checkKey(op.range.key);
    case "delete":
      return checkKey(op.delete.key);
    case "put":
      return checkPut(op.put);
    case "txn":
      return checkTxn(op.txn, room);
  }
}

/** The same for a whole transaction, without the look for duplicate keys. */
export function checkTxn(txn: TxnRequest, room = MAX_TXN_OPS): void {
  const most = Math.max(txn.compare.length, txn.success.length, txn.failure.length);
  if (most > room) throw refuse("tooManyOps");
  for (const compare of txn.compare) checkKey(compare.key);
  for (const op of txn.success) checkOp(op, room - most);
  for (const op of txn.failure) checkOp(op, room - most);
}

function checkKey(key: Bytes): void {
  if (key === "") throw refuse("emptyKey");
}

function checkPut(put: PutRequest): void {
  checkKey(put.key);
  if (put.ignoreValue === true && put.value !== "") throw refuse("valueProvided");
  if (put.ignoreLease === true && put.lease !== "0") throw refuse("leaseProvided");
}

/** Refuses operations that are too much for one request, whichever branch would run. */
export function checkSize(ops: readonly OpRequest[], before = 0): number {
  let size = before;
  for (const op of ops) {
    if (op.kind === "put") size += op.put.key.length + op.put.value.length;
    else if (op.kind === "txn") size = checkSize(op.txn.failure, checkSize(op.txn.success, size));
  }
  if (size > MAX_REQUEST_BYTES) throw refuse("tooLarge");
  return size;
}

/** True when something in the branches puts, which a store out of space must refuse. */
export function putsSomething(ops: readonly OpRequest[]): boolean {
  return ops.some(
    (op) =>
      op.kind === "put" || (op.kind === "txn" && (putsSomething(op.txn.success) || putsSomething(op.txn.failure))),
  );
}

interface Touched {
  readonly puts: Set<Bytes>;
  readonly deletes: { key: Bytes; end: Bytes | undefined }[];
}

/** Refuses a branch that writes one key twice (etcd's checkIntervals): the order of two writes in one revision has no meaning. */
export function checkDuplicates(ops: readonly OpRequest[]): Touched {
  const puts = new Set<Bytes>();
  const deletes: Touched["deletes"] = [];
  for (const op of ops) if (op.kind === "delete") deletes.push({ key: op.delete.key, end: op.delete.end });
  const add = (key: Bytes, allowed?: ReadonlySet<Bytes>): void => {
    if (puts.has(key) && !allowed?.has(key)) throw refuse("duplicateKey");
    if (deletes.some((range) => within(key, range.key, range.end))) throw refuse("duplicateKey");
    puts.add(key);
  };
  for (const op of ops) {
    if (op.kind !== "txn") continue;
    const yes = checkDuplicates(op.txn.success);
    const no = checkDuplicates(op.txn.failure);
    for (const key of yes.puts) add(key);
    // Only one of the two branches runs, so they may put the same key.
    for (const key of no.puts) add(key, yes.puts);
    deletes.push(...yes.deletes, ...no.deletes);
  }
  for (const op of ops) if (op.kind === "put") add(op.put.key);
  return { puts, deletes };
}
