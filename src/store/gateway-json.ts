/** etcd's messages as JSON, seen from the server: what grpc-gateway accepts (numbers or texts, names or numbers) and how it answers. */
import type { Bytes } from "./bytes.ts";
import type {
  CompareRequest,
  CompareTarget,
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
  TxnResponse,
  WatchRequest,
} from "./embedded-types.ts";
import { CODE, Refusal, refuse } from "./status.ts";
import type { Int64 } from "./store.ts";

export type Json = Readonly<Record<string, unknown>>;

function bad(message: string): Refusal {
  return new Refusal(message, CODE.invalid);
}

/** The fields of one message, read by their protobuf names (`range_end`, or as jsonpb also takes it, `rangeEnd`). */
export class Message {
  readonly #fields: Json;

  constructor(value: unknown) {
    if (value === undefined || value === null) this.#fields = {};
    else if (typeof value === "object" && !Array.isArray(value)) this.#fields = value as Json;
    else throw bad(`json: cannot unmarshal ${kindOf(value)} into Go value of type map[string]json.RawMessage`);
  }

  #raw(name: string): unknown {
    return this.#fields[name] ?? this.#fields[camel(name)] ?? undefined;
  }

  has(name: string): boolean {
    return this.#raw(name) !== undefined;
  }

  bytes(name: string): Bytes {
    const value = this.#raw(name);
    if (value === undefined) return "";
    if (typeof value !== "string") throw bad(`json: cannot unmarshal ${kindOf(value)} into Go value of type []uint8`);
    if (value.length % 4 !== 0 || !/^[A-Za-z0-9+/]*={0,2}$/.test(value))
      throw bad("illegal base64 data at input byte 0");
    return atob(value);
  }

  /** A text that may be empty. */
  text(name: string): string {
    const value = this.#raw(name) ?? "";
    if (typeof value !== "string") throw bad(`json: cannot unmarshal ${kindOf(value)} into Go value of type string`);
    return value;
  }

  int64(name: string): Int64 {
    const value = this.#raw(name) ?? 0;
    // A number beyond 2^53 has been rounded by JSON.parse: to go on with it would be to act on another lease.
    const text = typeof value === "string" || Number.isSafeInteger(value) ? String(value) : "";
    if (!/^-?\d{1,19}$/.test(text) || BigInt.asIntN(64, BigInt(text)) !== BigInt(text))
      throw bad(`json: cannot unmarshal ${kindOf(value)} ${String(value).slice(0, 40)} into Go value of type int64`);
    return BigInt(text).toString();
  }

  /** An int64 that is a revision, a count or a number of seconds: far below 2^53 here, whatever a client asks for. */
  number(name: string): number {
    return Math.min(Number(this.int64(name)), Number.MAX_SAFE_INTEGER);
  }

  flag(name: string): boolean {
    const value = this.#raw(name) ?? false;
    if (typeof value !== "boolean") throw bad(`json: cannot unmarshal ${kindOf(value)} into Go value of type bool`);
    return value;
  }

  /** One of `names`, by name or by its number; the first when it is not there. */
  choice<T extends string>(name: string, names: readonly [T, ...T[]], type: string): T {
    const value = this.#raw(name) ?? 0;
    const found = typeof value === "number" ? names[value] : names.find((each) => each === value);
    if (found === undefined) throw bad(`unknown value ${JSON.stringify(value)} for enum ${type}`);
    return found;
  }

  list(name: string): readonly unknown[] {
    const value = this.#raw(name) ?? [];
    if (!Array.isArray(value))
      throw bad(`json: cannot unmarshal ${kindOf(value)} into Go value of type []json.RawMessage`);
    return value;
  }

  message(name: string): Message {
    return new Message(this.#raw(name));
  }

  messages(name: string): Message[] {
    return this.list(name).map((each) => new Message(each));
  }
}

function camel(name: string): string {
  return name.replace(/_(\w)/g, (_, letter: string) => letter.toUpperCase());
}

function kindOf(value: unknown): string {
  return value === null ? "null" : Array.isArray(value) ? "array" : typeof value === "boolean" ? "bool" : typeof value;
}

// ---- requests ----

const ORDERS = ["NONE", "ASCEND", "DESCEND"] as const;
const TARGETS = ["KEY", "VERSION", "CREATE", "MOD", "VALUE"] as const;
const SORT = { KEY: "key", VERSION: "version", CREATE: "created", MOD: "modified", VALUE: "value" } as const;

/** A RangeRequest. All of these throw etcd's InvalidArgument for what does not fit the message's types. */
export function rangeOf(message: Message): RangeRequest {
  return {
    key: message.bytes("key"),
    end: message.bytes("range_end"),
    limit: message.number("limit"),
    revision: message.number("revision"),
    sortOrder: ({ NONE: "none", ASCEND: "ascend", DESCEND: "descend" } as const)[
      message.choice("sort_order", ORDERS, "etcdserverpb.RangeRequest_SortOrder")
    ],
    sortBy: SORT[message.choice("sort_target", TARGETS, "etcdserverpb.RangeRequest_SortTarget")],
    keysOnly: message.flag("keys_only"),
    countOnly: message.flag("count_only"),
    minModified: message.number("min_mod_revision"),
    maxModified: message.number("max_mod_revision"),
    minCreated: message.number("min_create_revision"),
    maxCreated: message.number("max_create_revision"),
  };
}

/** A PutRequest. */
export function putOf(message: Message): PutRequest {
  return {
    key: message.bytes("key"),
    value: message.bytes("value"),
    lease: message.int64("lease"),
    ignoreLease: message.flag("ignore_lease"),
    ignoreValue: message.flag("ignore_value"),
    prev: message.flag("prev_kv"),
  };
}

/** A DeleteRangeRequest. */
export function deleteOf(message: Message): DeleteRequest {
  return { key: message.bytes("key"), end: message.bytes("range_end"), prev: message.flag("prev_kv") };
}

const RESULTS = ["EQUAL", "GREATER", "LESS", "NOT_EQUAL"] as const;
const COMPARED = ["VERSION", "CREATE", "MOD", "VALUE", "LEASE"] as const;
const SIGN = { EQUAL: "=", GREATER: ">", LESS: "<", NOT_EQUAL: "!=" } as const;
const FIELD: Readonly<Record<(typeof COMPARED)[number], readonly [CompareTarget, string]>> = {
  VERSION: ["version", "version"],
  CREATE: ["create", "create_revision"],
  MOD: ["mod", "mod_revision"],
  VALUE: ["value", "value"],
  LEASE: ["lease", "lease"],
};

function compareOf(message: Message): CompareRequest {
  const [target, field] = FIELD[message.choice("target", COMPARED, "etcdserverpb.Compare_CompareTarget")];
  return {
    target,
    key: message.bytes("key"),
    end: message.bytes("range_end"),
    is: SIGN[message.choice("result", RESULTS, "etcdserverpb.Compare_CompareResult")],
    to: target === "value" ? message.bytes(field) : message.int64(field),
  };
}

function opOf(message: Message): OpRequest {
  if (message.has("request_range")) return { kind: "range", range: rangeOf(message.message("request_range")) };
  if (message.has("request_put")) return { kind: "put", put: putOf(message.message("request_put")) };
  if (message.has("request_delete_range"))
    return { kind: "delete", delete: deleteOf(message.message("request_delete_range")) };
  if (message.has("request_txn")) return { kind: "txn", txn: txnOf(message.message("request_txn")) };
  // What etcd says to an operation of no kind.
  throw refuse("keyNotFound");
}

/** A TxnRequest, nested ones included. */
export function txnOf(message: Message): TxnRequest {
  return {
    compare: message.messages("compare").map(compareOf),
    success: message.messages("success").map(opOf),
    failure: message.messages("failure").map(opOf),
  };
}

const FILTERS = ["NOPUT", "NODELETE"] as const;

/** A WatchCreateRequest. */
export function watchOf(message: Message): WatchRequest {
  const filters = message.list("filters").map((value) => {
    const one = new Message({ value });
    return one.choice("value", FILTERS, "etcdserverpb.WatchCreateRequest_FilterType");
  });
  return {
    key: message.bytes("key"),
    end: message.bytes("range_end"),
    from: message.number("start_revision"),
    noPut: filters.includes("NOPUT"),
    noDelete: filters.includes("NODELETE"),
    prev: message.flag("prev_kv"),
  };
}

// ---- answers: zeros are left out, int64 is text ----

/** Leaves out what protobuf's JSON leaves out: zeros, "0", "", false and empty lists. */
export function sparse(fields: Json): Json {
  return Object.fromEntries(
    Object.entries(fields)
      .map(([name, value]): [string, unknown] => [name, typeof value === "number" ? String(value) : value])
      .filter(([, value]) => value !== undefined && value !== "0" && value !== "" && value !== false)
      .filter(([, value]) => !Array.isArray(value) || value.length > 0),
  );
}

/** A mvccpb.KeyValue. */
export function rowJson(row: Row): Json {
  return sparse({
    key: btoa(row.key),
    create_revision: row.created,
    mod_revision: row.modified,
    version: row.version,
    value: btoa(row.value),
    lease: row.lease,
  });
}

/** A RangeResponse. */
export function rangeJson(answer: RangeResponse, header: Json): Json {
  return sparse({ header, kvs: answer.rows.map(rowJson), more: answer.more, count: answer.count });
}

/** A PutResponse. */
export function putJson(answer: PutResponse, header: Json): Json {
  return sparse({ header, prev_kv: answer.prev === undefined ? undefined : rowJson(answer.prev) });
}

/** A DeleteRangeResponse. */
export function deleteJson(answer: DeleteResponse, header: Json): Json {
  return sparse({ header, deleted: answer.deleted, prev_kvs: answer.prevs.map(rowJson) });
}

/** A TxnResponse. */
export function txnJson(answer: TxnResponse, header: Json): Json {
  return sparse({ header, succeeded: answer.succeeded, responses: answer.responses.map(opJson) });
}

/** Answers inside a transaction carry only a revision, those of nested transactions not even that. */
function opJson(answer: OpResponse): Json {
  const header = { revision: String(answer.revision) };
  switch (answer.kind) {
    case "range":
      return { response_range: rangeJson(answer, header) };
    case "put":
      return { response_put: putJson(answer, header) };
    case "delete":
      return { response_delete_range: deleteJson(answer, header) };
    case "txn":
      return { response_txn: txnJson(answer, {}) };
  }
}

/** A mvccpb.Event; a put's type is left out, being zero. */
export function eventJson(event: EngineEvent): Json {
  const prev = event.prev === undefined ? {} : { prev_kv: rowJson(event.prev) };
  return { ...(event.type === "delete" ? { type: "DELETE" } : {}), kv: rowJson(event.row), ...prev };
}
