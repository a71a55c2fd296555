/** The gateway's /v3/watch: one stream of JSON lines for the watches that its request asks for, never cut for being quiet. */
import type { Clock } from "../kernel/clock.ts";
import { sentence } from "../kernel/errors.ts";
import type { Log } from "../kernel/log.ts";
import type { EmbeddedEngine } from "./embedded.ts";
import { Guard } from "./gateway-guard.ts";
import { eventJson, type Json, Message, sparse, watchOf } from "./gateway-json.ts";
import { CODE, Refusal } from "./status.ts";
import type { Principal } from "./users.ts";

/** A line end is sent after this long: it means nothing, but it finds out whether the other end is still there. */
const PULSE_MS = 120_000;
/** A reader that is so far behind is cut off; it resumes from its last revision. */
const MOST_QUEUED_BYTES = 8 * 1024 * 1024;
/** Watches of one stream, and the longest request that may ask for them. */
const MOST_WATCHES = 1000;
const MOST_REQUEST_BYTES = 64 * 1024;

export interface WatchPorts {
  readonly engine: EmbeddedEngine;
  readonly clock: Clock;
  readonly log: Log;
  /** Asked for every watch that is created, so that a token that ran out since is noticed; throws refusals. */
  readonly who: () => Principal;
  readonly header: (revision?: number) => Json;
}

/** The stream for one request. Its requests are read from `body` as they come; their end does not end the watches. */
export class WatchStream {
  readonly #ports: WatchPorts;
  readonly #watches = new Map<string, () => void>();
  readonly #over = new AbortController();
  #controller: ReadableStreamDefaultController<Uint8Array> | undefined;
  #next = 0;
  #closed: () => void = () => undefined;

  constructor(ports: WatchPorts) {
    this.#ports = ports;
  }

  /** Calls back once, when the stream is over. */
  onClose(listener: () => void): void {
    this.#closed = listener;
  }

  /** The answer's body. */
  open(body: ReadableStream<Uint8Array> | null): ReadableStream<Uint8Array> {
    return new ReadableStream<Uint8Array>(
      {
        start: (controller) => {
          this.#controller = controller;
          this.#background(this.#listen(body));
          this.#background(this.#pulse());
        },
        cancel: () => this.close(),
      },
      new ByteLengthQueuingStrategy({ highWaterMark: MOST_QUEUED_BYTES }),
    );
  }

  /** Ends all its watches and the stream. */
  close(): void {
    if (this.#over.signal.aborted) return;
    this.#over.abort();
    this.#closed();
    for (const stop of this.#watches.values()) stop();
    this.#watches.clear();
    try {
      this.#controller?.close();
    } catch {
      // The reader has cancelled it already; that is how most watches end.
    }
  }

  #background(work: Promise<void>): void {
    work.catch((error: unknown) => {
      if (this.#over.signal.aborted) return;
      if (error instanceof Refusal) this.#send({ error: { grpc_code: error.code, message: error.message } });
      else this.#ports.log("debug", "store_watch_stream_failed", sentence(error));
      this.close();
    });
  }

  async #pulse(): Promise<void> {
    for (;;) {
      await this.#ports.clock.sleep(PULSE_MS, this.#over.signal);
      this.#write("\n");
    }
  }

  /** JSON objects one after the other, as grpc-gateway takes them. */
  async #listen(body: ReadableStream<Uint8Array> | null): Promise<void> {
    if (body === null) return;
    const decoder = new TextDecoder();
    let rest = "";
    for await (const piece of body) {
      if (this.#over.signal.aborted) return;
      rest += decoder.decode(piece, { stream: true });
      const { objects, left } = split(rest);
      for (const object of objects) this.#request(object);
      if (left.length > MOST_REQUEST_BYTES) throw new Refusal("etcdserver: request is too large", CODE.invalid);
      rest = left;
    }
    if (rest.trim() !== "") throw new Refusal("unexpected EOF", CODE.invalid);
  }

  #request(text: string): void {
    let value: unknown;
    try {
      value = JSON.parse(text);
    } catch (error) {
      throw new Refusal(sentence(error), CODE.invalid);
    }
    const message = new Message(value);
    if (message.has("create_request")) this.#create(message.message("create_request"));
    else if (message.has("cancel_request")) this.#cancel(message.message("cancel_request").int64("watch_id"));
    else if (message.has("progress_request")) this.#result({ watch_id: "-1" });
  }

  #create(message: Message): void {
    const { engine, who } = this.#ports;
    const request = watchOf(message);
    // An empty key means the first one that there is, as in etcd.
    const watch = request.key === "" ? { ...request, key: "\0" } : request;
    if (this.#watches.size >= MOST_WATCHES) throw new Refusal("etcdserver: too many watches", CODE.exhausted);
    if (watch.end !== "" && watch.end !== undefined && watch.end !== "\0" && watch.end <= watch.key)
      return this.#refused("mvcc: watcher range is empty");
    try {
      new Guard(who(), engine).range(watch);
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      return this.#refused(`rpc error: code = ${GRPC_NAME[error.code] ?? "Unknown"} desc = ${error.message}`);
    }
    const asked = message.int64("watch_id");
    const id = asked === "0" ? String(this.#next++) : asked;
    if (this.#watches.has(id)) return this.#refused("mvcc: duplicate watch ID provided on the WatchStream");
    this.#result({ watch_id: id, created: true });
    this.#watches.set(id, () => undefined);
    const stop = engine.watch(watch, (news) => {
      if (news.kind === "closed") return this.close();
      if (news.kind === "events")
        return this.#send({
          result: sparse({
            header: this.#ports.header(news.revision),
            watch_id: id,
            events: news.events.map(eventJson),
          }),
        });
      const { revision: _, ...header } = this.#ports.header();
      this.#send({ result: sparse({ header, watch_id: id, canceled: true, compact_revision: news.compactRevision }) });
      this.#watches.delete(id);
    });
    if (this.#watches.has(id)) this.#watches.set(id, stop);
  }

  #cancel(id: string): void {
    const stop = this.#watches.get(id);
    if (stop === undefined) return;
    stop();
    this.#watches.delete(id);
    this.#result({ watch_id: id, canceled: true });
  }

  #refused(reason: string): void {
    this.#result({ watch_id: "-1", created: true, canceled: true, cancel_reason: reason });
  }

  #result(fields: Json): void {
    this.#send({ result: sparse({ header: this.#ports.header(), ...fields }) });
  }

  #send(line: Json): void {
    this.#write(`${JSON.stringify(line)}\n`);
  }

  #write(text: string): void {
    if (this.#over.signal.aborted || this.#controller === undefined) return;
    if ((this.#controller.desiredSize ?? 0) <= 0 && text !== "\n") {
      this.#ports.log("warn", "store_watch_too_slow", "a watch was cut off because its reader is too far behind");
      this.close();
      return;
    }
    this.#controller.enqueue(Buffer.from(text, "utf8"));
  }
}

const GRPC_NAME: Readonly<Record<number, string>> = {
  [CODE.invalid]: "InvalidArgument",
  [CODE.denied]: "PermissionDenied",
  [CODE.unauthenticated]: "Unauthenticated",
};

/** Cuts a text of JSON objects into them; what is not whole yet is left. */
export function split(text: string): { objects: string[]; left: string } {
  const objects: string[] = [];
  let depth = 0;
  let from = 0;
  let quoted = false;
  for (let i = 0; i < text.length; i++) {
    const c = text[i];
    if (quoted) {
      if (c === "\\") i++;
      else if (c === '"') quoted = false;
    } else if (c === '"') quoted = true;
    else if (c === "{") {
      if (depth++ === 0) from = i;
    } else if (c === "}" && --depth === 0) {
      objects.push(text.slice(from, i + 1));
      from = i + 1;
    }
    if (depth < 0) throw new Refusal("invalid character '}' looking for beginning of value", CODE.invalid);
  }
  const left = text.slice(from);
  if (depth === 0 && left.trim() !== "")
    throw new Refusal(`invalid character '${left.trim()[0]}' looking for beginning of value`, CODE.invalid);
  return { objects, left };
}
