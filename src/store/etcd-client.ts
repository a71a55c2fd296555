/** One request to an etcd: which endpoint, with which token, until when, and what its failure means. */
import { type Clock, orAbort, withDeadline } from "../kernel/clock.ts";
import { Fault, isFault, sentence } from "../kernel/errors.ts";
import type { Log } from "../kernel/log.ts";
import { failureOf, isTokenTrouble, type Json, object } from "./etcd-wire.ts";
import { Refusal } from "./status.ts";
import type { Call } from "./store.ts";

export interface EtcdTls {
  /** PEM texts. Without a CA the system's are trusted. */
  readonly ca?: string;
  readonly cert?: string;
  readonly key?: string;
  readonly insecureSkipVerify?: boolean;
}

export interface EtcdOptions {
  /** `http://host:port`, `https://host:port`, `host:port` (https when there is `tls`), or `unix:///path` of a socket. At least one. */
  readonly endpoints: readonly string[];
  /** Called at the start and again when a connection fails, so that renewed certificates are picked up. */
  readonly tls?: () => EtcdTls;
  readonly auth?: { readonly username: string; readonly password: () => string | Promise<string> };
  /** Deadline of one call, ms. Default 5000. */
  readonly timeoutMs?: number;
}

/** Outside of one client: time and a place for notes. */
export interface EtcdPorts {
  readonly clock: Clock;
  readonly log: Log;
}

/** "read" and "repeatable" may be sent again elsewhere; a "write" only when it was certainly not sent. */
export type Manner = "read" | "repeatable" | "write";

const TIMEOUT_MS = 5000;
/** Least time for one try at a read before the next endpoint is asked. */
const LEAST_TRY_MS = 500;

/** Failures before the first byte of a request: no connection, no name, or a handshake that was not completed. */
const NOT_SENT =
  /^(ENOENT|ECONNREFUSED|ConnectionRefused|ENOTFOUND|EAI_\w+|EHOSTUNREACH|ENETUNREACH|FailedToOpenSocket|\w*CERT\w*|UNABLE_TO_\w+|ERR_TLS_\w+|HOSTNAME_MISMATCH)$/;

export class EtcdClient {
  readonly clock: Clock;
  readonly log: Log;
  readonly #endpoints: readonly string[];
  readonly #timeoutMs: number;
  readonly #auth: EtcdOptions["auth"];
  readonly #loadTls: (() => EtcdTls) | undefined;
  readonly #closed = new AbortController();
  #tls: EtcdTls | undefined;
  #preferred = 0;
  /** Something was answered since the last change of endpoint was logged: an outage is said once, not with every call. */
  #answered = true;
  #token: string | undefined;
  #authenticating: Promise<string> | undefined;

  constructor(options: EtcdOptions, ports: EtcdPorts) {
    if (options.endpoints.length === 0) throw new Fault("config.invalid", "no etcd endpoint was given");
    this.clock = ports.clock;
    this.log = ports.log;
    const scheme = options.tls === undefined ? "http" : "https";
    this.#endpoints = options.endpoints.map((endpoint) =>
      (/^(https?|unix):\/\//.test(endpoint) ? endpoint : `${scheme}://${endpoint}`).replace(/\/+$/, ""),
    );
    this.#timeoutMs = options.timeoutMs ?? TIMEOUT_MS;
    this.#auth = options.auth;
    this.#loadTls = options.tls;
    this.#tls = options.tls?.();
  }

  get timeoutMs(): number {
    return this.#timeoutMs;
  }

  /** Aborts with `close()`. */
  get closed(): AbortSignal {
    return this.#closed.signal;
  }

  /** The endpoint that answered last. */
  get endpoint(): string {
    return this.#endpoints[this.#preferred] as string;
  }

  /** Every call under way ends; later ones are refused with `store.away`. */
  close(): void {
    this.#closed.abort(new Fault("store.unknown", "the store's client was closed while a call was under way"));
  }

  /** The next call goes to another endpoint, unless somebody has moved on from `failed` already. */
  avoid(failed: string, error: unknown): void {
    if (failed !== this.endpoint) return;
    this.#preferred = (this.#preferred + 1) % this.#endpoints.length;
    this.#reloadTls();
    if (this.#endpoints.length > 1 && this.#answered)
      this.log("warn", "store_endpoint_changed", `${failed} failed: ${sentence(error)}`, { endpoint: this.endpoint });
    this.#answered = false;
  }

  /**
   * Asks for `path` and reads the answer with `read` (which throws on what cannot be an etcd's answer). Errors as promised in store.ts.
   */
  async ask<T>(call: Call, manner: Manner, path: string, body: Json, read: (answer: Json) => T): Promise<T> {
    if (this.closed.aborted) throw new Fault("store.away", "the store's client is closed");
    call.signal?.throwIfAborted();
    const text = JSON.stringify(body);
    const timeoutMs = call.timeoutMs ?? this.#timeoutMs;
    const end = this.clock.monotonic() + timeoutMs;
    const tries = manner === "write" ? this.#endpoints.length : Math.max(2, this.#endpoints.length);
    let doubt: unknown;
    let last: unknown;
    for (let n = 0; n < tries; n++) {
      const left = end - this.clock.monotonic();
      if (left <= 0) break;
      const endpoint = this.endpoint;
      // A write gets all the time there is: cutting it short would only make its outcome unknown sooner.
      const slice = manner === "write" ? left : Math.min(left, Math.max(LEAST_TRY_MS, left / (tries - n)));
      try {
        const single = manner !== "write" && this.#endpoints.length === 1;
        return await this.#attempt(call, manner, endpoint, path, text, read, single ? left : slice);
      } catch (error) {
        if (error instanceof Refusal) throw error;
        if (call.signal?.aborted) throw this.#aborted(call, manner, error);
        if (this.closed.aborted) throw this.#failed(call, manner, error, error);
        last = error;
        this.avoid(endpoint, error);
        if (!isFault(error, "store.away")) {
          doubt = error;
          if (manner === "write") break;
        }
      }
    }
    throw this.#failed(call, manner, doubt, last);
  }

  /** A request whose answer is read as a stream. Rejects as `ask` does for a read; the deadline covers the answer's head only. */
  async open(
    path: string,
    body: Json,
    signal: AbortSignal,
    headers: Readonly<Record<string, string>>,
  ): Promise<Opened> {
    const endpoint = this.endpoint;
    const late = () => new Fault("store.unknown", `${endpoint} did not answer in ${this.#timeoutMs} ms`);
    const opening = new AbortController();
    const stop = () => opening.abort(signal.reason);
    signal.addEventListener("abort", stop, { once: true });
    try {
      return await withDeadline(this.clock, this.#timeoutMs, late, opening.signal, async (limit) => {
        const token = await this.#tokenFor(endpoint, limit);
        const init = this.#request(JSON.stringify(body), token, signal, headers);
        const response = await orAbort(
          fetch(urlOf(endpoint, path), { ...init, ...socketOf(endpoint), keepalive: false }),
          limit,
        );
        if (response.status === 200 && response.body !== null) return { endpoint, body: response.body };
        throw failureOf(response.status, parse(await orAbort(response.text(), limit)));
      });
    } catch (error) {
      if (isTokenTrouble(error)) this.forgetToken();
      throw error;
    } finally {
      signal.removeEventListener("abort", stop);
    }
  }

  /** The next request asks for a new token first. */
  forgetToken(): void {
    this.#token = undefined;
  }

  async #attempt<T>(
    call: Call,
    manner: Manner,
    endpoint: string,
    path: string,
    body: string,
    read: (answer: Json) => T,
    ms: number,
  ): Promise<T> {
    const late = () => new Fault("store.unknown", `${endpoint} did not answer ${call.label} in ${Math.round(ms)} ms`);
    const either = call.signal === undefined ? this.closed : AbortSignal.any([call.signal, this.closed]);
    return await withDeadline(this.clock, ms, late, either, async (signal) => {
      const token = await this.#tokenFor(endpoint, signal);
      try {
        return await this.#post(manner, endpoint, path, body, token, read, signal);
      } catch (error) {
        if (this.#auth === undefined || !isTokenTrouble(error)) throw error;
        // The token ran out, or the members do not know it (any more). Nothing was done, so a new token and another try are safe.
        if (this.#token === token) this.forgetToken();
        return await this.#post(manner, endpoint, path, body, await this.#tokenFor(endpoint, signal), read, signal);
      }
    });
  }

  async #post<T>(
    manner: Manner,
    endpoint: string,
    path: string,
    body: string,
    token: string | undefined,
    read: (answer: Json) => T,
    signal: AbortSignal,
  ): Promise<T> {
    let response: Response;
    try {
      // A write never rides on an old connection: one that died unnoticed would turn a plain "not there" into an unknown outcome.
      const init = { ...this.#request(body, token, signal, {}), ...socketOf(endpoint), keepalive: manner !== "write" };
      response = await orAbort(fetch(urlOf(endpoint, path), init), signal);
    } catch (error) {
      throw unsent(endpoint, error);
    }
    let text: string;
    try {
      text = await orAbort(response.text(), signal);
    } catch (error) {
      throw doubtful(endpoint, error);
    }
    const answer = parse(text);
    if (response.status !== 200) throw failureOf(response.status, answer);
    this.#answered = true;
    const whole = object(answer);
    // The gateway wraps the answers of streaming calls (keep-alives) in "result" and their errors in "error".
    if (whole?.error !== undefined) throw failureOf(response.status, answer);
    try {
      return read(object(whole?.result) ?? whole ?? {});
    } catch (error) {
      throw doubtful(endpoint, error);
    }
  }

  #request(body: string, token: string | undefined, signal: AbortSignal, headers: Readonly<Record<string, string>>) {
    const { ca, cert, key, insecureSkipVerify } = this.#tls ?? {};
    const files = {
      ...(ca === undefined ? {} : { ca }),
      ...(cert === undefined ? {} : { cert }),
      ...(key === undefined ? {} : { key }),
    };
    return {
      method: "POST",
      body,
      signal,
      headers: {
        "content-type": "application/json",
        ...headers,
        ...(token === undefined || token === "" ? {} : { authorization: token }),
      },
      redirect: "manual" as const,
      // Bun cuts a quiet answer after five minutes unless told not to; every call here has its own deadline.
      timeout: false,
      ...(this.#tls === undefined ? {} : { tls: { ...files, rejectUnauthorized: insecureSkipVerify !== true } }),
    };
  }

  async #tokenFor(endpoint: string, signal: AbortSignal): Promise<string | undefined> {
    if (this.#auth === undefined) return undefined;
    if (this.#token !== undefined) return this.#token;
    this.#authenticating ??= this.#authenticate(endpoint).finally(() => {
      this.#authenticating = undefined;
    });
    return await orAbort(this.#authenticating, signal);
  }

  /** A token for the user; "" when the store knows no users (as etcd's own client goes on without one then). */
  async #authenticate(endpoint: string): Promise<string> {
    const { username, password } = this.#auth as NonNullable<EtcdOptions["auth"]>;
    const late = () => new Fault("store.away", `${endpoint} did not answer the log-in in ${this.#timeoutMs} ms`);
    const token = await withDeadline(this.clock, this.#timeoutMs, late, this.closed, async (signal) => {
      try {
        const body = JSON.stringify({ name: username, password: await password() });
        return await this.#post("write", endpoint, "/v3/auth/authenticate", body, undefined, tokenOf, signal);
      } catch (error) {
        if (error instanceof Refusal && /authentication is not enabled/.test(error.message)) return "";
        if (error instanceof Refusal) throw error;
        // Whatever happened to the log-in, the request that waits for it has not been sent.
        throw new Fault("store.away", `could not log in at ${endpoint}`, { cause: error, retry: "later" });
      }
    });
    this.#token = token;
    return token;
  }

  #aborted(call: Call, manner: Manner, error: unknown): unknown {
    if (manner === "read" || isFault(error, "store.away")) return call.signal?.reason;
    return new Fault("store.unknown", `${call.label} was given up while it was under way`, {
      cause: call.signal?.reason,
    });
  }

  #failed(call: Call, manner: Manner, doubt: unknown, last: unknown): Fault {
    const cause = doubt ?? last;
    if (manner !== "read" && doubt !== undefined)
      return new Fault("store.unknown", `the outcome of ${call.label} is not known`, { cause, retry: "later" });
    return new Fault("store.away", `no store answered ${call.label}`, { cause, retry: "later" });
  }

  #reloadTls(): void {
    try {
      this.#tls = this.#loadTls?.();
    } catch (error) {
      this.log("warn", "store_certificates_unreadable", sentence(error));
    }
  }
}

export interface Opened {
  readonly endpoint: string;
  readonly body: ReadableStream<Uint8Array>;
}

const UNIX = "unix://";

function urlOf(endpoint: string, path: string): string {
  return endpoint.startsWith(UNIX) ? `http://localhost${path}` : `${endpoint}${path}`;
}

function socketOf(endpoint: string): { unix?: string } {
  return endpoint.startsWith(UNIX) ? { unix: endpoint.slice(UNIX.length) } : {};
}

function tokenOf(answer: Json): string {
  if (typeof answer.token !== "string") throw new SyntaxError("the answer to the log-in has no token");
  return answer.token;
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined; // what it means that the answer is no JSON is judged where the status is known
  }
}

function unsent(endpoint: string, error: unknown): unknown {
  if (error instanceof Fault) return error;
  const code = error instanceof Error && "code" in error ? String(error.code) : "";
  if (NOT_SENT.test(code)) return new Fault("store.away", `cannot reach ${endpoint}`, { cause: error, retry: "later" });
  return doubtful(endpoint, error);
}

function doubtful(endpoint: string, error: unknown): unknown {
  if (error instanceof Fault) return error;
  return new Fault("store.unknown", `the answer of ${endpoint} was lost`, { cause: error, retry: "later" });
}
