/** A watch that outlives its connections: resumes after the last revision it told of, elsewhere if need be, and says so when it cannot. */
import { Fault, sentence } from "../kernel/errors.ts";
import { textToBase64 } from "./bytes.ts";
import type { EtcdClient, Opened } from "./etcd-client.ts";
import {
  failureOf,
  headerOf,
  int64,
  isTokenTrouble,
  type Json,
  object,
  rangeRequest,
  watchEvents,
} from "./etcd-wire.ts";
import { CODE, Refusal } from "./status.ts";
import { add64, type Call, compare64, type Int64, type WatchItem, type WatchOptions } from "./store.ts";

/**
 * A connection that was quiet for this long is made anew: the only way to notice, over this gateway, a peer that is gone without a word, a
 * member that nobody tells anything any more, and a store that was put back to an older state.
 */
const QUIET_MS = 60_000;
const BACKOFF_MS = { first: 100, most: 5000 };
/** A connection that lived this long was a good one: the next backoff begins at the beginning. */
const GOOD_MS = 10_000;

export interface WatchTuning {
  /** Overrides QUIET_MS, for tests. */
  readonly quietMs?: number;
}

/** What is remembered from one connection to the next. */
interface Position {
  next: Int64;
  opened: boolean;
  storeId: Int64 | undefined;
}

/** Signals the end of a connection that is nobody's fault. */
const QUIET = Symbol("quiet");

/** A watch as store.ts promises it. Ends with the signal or the client; throws only `store.refused`. */
export async function* watchEtcd(
  client: EtcdClient,
  call: Call,
  options: WatchOptions,
  tuning: WatchTuning = {},
): AsyncGenerator<WatchItem, void, undefined> {
  const at: Position = { next: options.from, opened: false, storeId: undefined };
  const signal = call.signal === undefined ? client.closed : AbortSignal.any([call.signal, client.closed]);
  let failures = 0;
  while (!signal.aborted) {
    const connection = new AbortController();
    const stop = () => connection.abort(signal.reason);
    signal.addEventListener("abort", stop, { once: true });
    const endpoint = client.endpoint;
    const began = client.clock.monotonic();
    try {
      for await (const item of connect(client, call, options, at, connection, tuning.quietMs ?? QUIET_MS)) {
        yield item;
        if (item.kind === "lost") return;
      }
      // The stream ended as a stream may; a server that always does so at once must not be asked in a busy loop.
      throw new Fault("store.away", `${endpoint} ended the watch`);
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof Refusal && !isTokenTrouble(error) && error.code !== CODE.exhausted) throw error;
      if (client.clock.monotonic() - began >= GOOD_MS) failures = 0;
      if (error !== QUIET) {
        failures++;
        client.avoid(endpoint, error);
        client.log("debug", "store_watch_interrupted", sentence(error), { label: call.label, endpoint, next: at.next });
      }
    } finally {
      signal.removeEventListener("abort", stop);
      connection.abort();
    }
    if (failures > 0) await pause(client, failures, signal);
  }
}

async function pause(client: EtcdClient, failures: number, signal: AbortSignal): Promise<void> {
  const longest = Math.min(BACKOFF_MS.most, BACKOFF_MS.first * 2 ** Math.min(failures - 1, 10));
  // Jitter over the upper half, so that a fleet does not come back in step.
  const ms = longest * (0.5 + client.clock.random() / 2);
  await client.clock.sleep(ms, signal).catch((error: unknown) => {
    if (!signal.aborted) throw error;
  });
}

/** One connection, from its request to its end. */
async function* connect(
  client: EtcdClient,
  call: Call,
  options: WatchOptions,
  at: Position,
  connection: AbortController,
  quietMs: number,
): AsyncGenerator<WatchItem, void, undefined> {
  const create = {
    key: textToBase64(options.key),
    ...(options.rangeEnd === undefined ? {} : { range_end: textToBase64(options.rangeEnd) }),
    start_revision: at.next,
    ...(options.deletesOnly === true ? { filters: ["NOPUT"] } : {}),
  };
  // A member without a leader hears of nothing new: with this header it says so and ends the stream (as etcd's WithRequireLeader).
  const headers = { "grpc-metadata-hasleader": "true" };
  const stream = await client.open("/v3/watch", { create_request: create }, connection.signal, headers);
  for await (const line of lines(client, stream, connection, quietMs)) {
    for await (const item of understand(client, call, options, at, line)) {
      yield item;
      if (item.kind === "lost") return;
    }
  }
}

/** What one line of the stream means; moves the position. */
async function* understand(
  client: EtcdClient,
  call: Call,
  options: WatchOptions,
  at: Position,
  line: Json,
): AsyncGenerator<WatchItem, void, undefined> {
  if (line.error !== undefined) throw failureOf(200, line);
  const result = object(line.result) ?? {};
  if (result.canceled === true) {
    if (result.compact_revision !== undefined)
      return yield { kind: "lost", why: `the store has compacted revisions below ${int64(result.compact_revision)}` };
    throw cancelled(result, client);
  }
  const { revision, storeId } = headerOf(result);
  if (at.storeId !== undefined && at.storeId !== storeId)
    return yield { kind: "lost", why: "another store answers now" };
  at.storeId = storeId;
  if (result.created === true) {
    if (compare64(add64(revision, 1), at.next) < 0 && (await wentBack(client, call, options, at.next)))
      return yield { kind: "lost", why: `the store is at revision ${revision}, behind ${at.next}` };
    if (!at.opened) yield { kind: "open", revision };
    at.opened = true;
  }
  const events = watchEvents(result);
  const last = events.at(-1);
  if (last === undefined) return;
  at.next = add64(last.kv.modRevision, 1);
  yield { kind: "events", revision, events };
}

function cancelled(result: Json, client: EtcdClient): Fault {
  const reason = typeof result.cancel_reason === "string" ? result.cancel_reason : "no reason given";
  if (/invalid auth token|auth store is old|user name is empty/.test(reason)) {
    client.forgetToken();
    return new Fault("store.away", reason);
  }
  if (/permission denied/.test(reason)) return new Refusal(reason, CODE.denied);
  if (/range is empty/.test(reason)) return new Refusal(reason, CODE.invalid);
  return new Fault("store.away", `the watch was cancelled: ${reason}`);
}

/**
 * A member may lag behind the others, so its own revision proves nothing; a linearizable read does. Only when the store as a whole is behind
 * what was seen earlier, it went back.
 */
async function wentBack(client: EtcdClient, call: Call, options: WatchOptions, next: Int64): Promise<boolean> {
  const body = { ...rangeRequest(options.key, undefined), count_only: true };
  const { revision } = await client.ask(
    { ...call, label: `${call.label}.check` },
    "read",
    "/v3/kv/range",
    body,
    headerOf,
  );
  return compare64(add64(revision, 1), next) < 0;
}

/** The JSON objects of a stream, one a line, however the bytes were cut. Throws QUIET when none came for `quietMs`. */
async function* lines(
  client: EtcdClient,
  stream: Opened,
  connection: AbortController,
  quietMs: number,
): AsyncGenerator<Json, void, undefined> {
  const reader = stream.body.getReader();
  // The jitter keeps a fleet that started together from reconnecting together.
  const patience = quietMs * (0.8 + 0.4 * client.clock.random());
  const watchdog = new Watchdog(client, patience, client.timeoutMs, () => connection.abort(QUIET));
  let rest: Uint8Array[] = [];
  const aborted = new Promise<never>((_, reject) => {
    connection.signal.addEventListener("abort", () => reject(connection.signal.reason), { once: true });
  });
  aborted.catch(() => undefined); // it is raced below; nobody else needs to hear of it
  try {
    for (;;) {
      const { value, done } = await Promise.race([reader.read(), aborted]);
      if (done) return;
      let from = 0;
      for (let end = value.indexOf(10); end >= 0; end = value.indexOf(10, from)) {
        rest.push(value.subarray(from, end));
        from = end + 1;
        const text = Buffer.concat(rest).toString("utf8");
        rest = [];
        if (text.trim() === "") continue;
        watchdog.heard();
        yield lineOf(text, stream.endpoint);
      }
      if (from < value.length) rest.push(value.subarray(from));
    }
  } catch (error) {
    if (connection.signal.reason === QUIET) throw watchdog.answered ? QUIET : silent(stream.endpoint);
    throw error;
  } finally {
    watchdog.stop();
    // The connection is aborted by the caller; cancelling again may fail on a stream that has failed, which says nothing new.
    reader.cancel().catch(() => undefined);
  }
}

function silent(endpoint: string): Fault {
  return new Fault("store.away", `${endpoint} accepted the watch but never confirmed it`);
}

function lineOf(text: string, endpoint: string): Json {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw new Fault("store.away", `${endpoint} sent a line that is no JSON`, { cause });
  }
  return object(value) ?? {};
}

/** Calls `bark` when nothing was heard: first for `firstMs`, later for `patienceMs`. One sleeper, however much is heard. */
class Watchdog {
  readonly #stop = new AbortController();
  readonly #client: EtcdClient;
  readonly #patience: number;
  #due: number;
  answered = false;

  constructor(client: EtcdClient, patienceMs: number, firstMs: number, bark: () => void) {
    this.#client = client;
    this.#patience = patienceMs;
    this.#due = client.clock.monotonic() + Math.min(firstMs, patienceMs);
    this.#watch(bark).catch((error: unknown) => {
      if (!this.#stop.signal.aborted) client.log("error", "store_watchdog_failed", sentence(error));
    });
  }

  heard(): void {
    this.answered = true;
    this.#due = this.#client.clock.monotonic() + this.#patience;
  }

  stop(): void {
    this.#stop.abort(new Fault("store.away", "the watch ended"));
  }

  async #watch(bark: () => void): Promise<void> {
    for (;;) {
      const left = this.#due - this.#client.clock.monotonic();
      if (left <= 0) return bark();
      await this.#client.clock.sleep(left, this.#stop.signal);
    }
  }
}
