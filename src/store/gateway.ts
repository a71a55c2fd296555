/** The embedded store for many: an HTTP server that speaks etcd's JSON gateway, so that one client serves both. */
import type { Clock } from "../kernel/clock.ts";
import { Fault, sentence } from "../kernel/errors.ts";
import type { Level, Log } from "../kernel/log.ts";
import type { EmbeddedEngine } from "./embedded.ts";
import { AUTH_CALLS } from "./gateway-auth.ts";
import { Guard } from "./gateway-guard.ts";
import {
  deleteJson,
  deleteOf,
  type Json,
  Message,
  putJson,
  putOf,
  rangeJson,
  rangeOf,
  sparse,
  txnJson,
  txnOf,
} from "./gateway-json.ts";
import { WatchStream } from "./gateway-watch.ts";
import { CODE, httpStatus, Refusal, refuse } from "./status.ts";
import { ANYBODY, type Principal, type Users } from "./users.ts";

export interface GatewayOptions {
  readonly engine: EmbeddedEngine;
  readonly users: Users;
  readonly clock: Clock;
  readonly log: Log;
  /** A TCP address (port 0: any free one), or the path of a unix socket, whose file rights are all the protection it has. */
  readonly listen: { readonly hostname: string; readonly port: number } | { readonly unix: string };
  /** PEM texts. With a client CA only clients with its certificate get in. */
  readonly tls?: { readonly cert: string; readonly key: string; readonly clientCa?: string };
  /** Nobody gets in while authentication is off: a root user who turned it off would open the store to the network. */
  readonly closed?: boolean;
  /** What comes in here is the operator's own: no token is asked for, everything is allowed. */
  readonly trusted?: boolean;
  /** More calls by path (below /), for what etcd does not know; only for trusted listeners. */
  readonly extra?: Readonly<Record<string, (message: Message) => Promise<Json>>>;
}

export interface Gateway {
  /** Where it listens: `http://…`, `https://…` or `unix://…`. */
  readonly url: string;
  /** Ends all connections; the engine stays. */
  stop(): Promise<void>;
}

/** The version of the dialect: what etcd's own clients would take it for. */
const VERSION = "3.4.0";
/** base64 makes four bytes of three; the engine has the last word on what is too large. */
const MOST_BODY_BYTES = 4 * 1024 * 1024;
/** A name and a password, from anybody who can connect. */
const MOST_LOGIN_BYTES = 16 * 1024;
/** A connection that is idle for so long, s, is closed; watches are exempt. */
const IDLE_SEC = 120;

interface Asked {
  readonly message: Message;
  readonly who: Principal;
  readonly guard: Guard;
}

/** Starts listening. Throws `serve.address` when the address cannot be had. */
export function startGateway(options: GatewayOptions): Gateway {
  const { engine, users, log, listen, tls } = options;
  const streams = new Set<WatchStream>();
  const routes = new Map(Object.entries(handlers(options)));
  const extras = new Map(Object.entries(options.extra ?? {}));
  const forget = users.onChange(() => {
    // Rights have changed: whoever still may watch comes back by himself within a moment.
    if (options.trusted !== true) for (const stream of streams) stream.close();
  });
  const header = headerOf(engine);
  const respond = async (request: Request, server: Bun.Server<undefined>): Promise<Response> => {
    // What it asks for as a host is part of the URL, and may be anything.
    const path = URL.parse(request.url)?.pathname;
    if (path === undefined) return text(400, "Bad Request\n");
    if (path === "/health" || path === "/version") return plain(path, request, engine);
    const name = /^\/v3(?:beta)?\/(.+)$/.exec(path)?.[1];
    const handler = routes.get(name ?? "");
    const extra = extras.get(path.slice(1));
    if (name !== "watch" && name !== "auth/authenticate" && handler === undefined && extra === undefined)
      return text(404, "Not Found\n");
    if (request.method !== "POST") return text(405, "Method Not Allowed\n");
    const token = request.headers.get("authorization") ?? undefined;
    const who = () => {
      if (options.closed === true && !users.enabled) throw refuse("noUser");
      return options.trusted === true ? ANYBODY : users.principal(token);
    };
    if (name === "watch") {
      // etcd says no inside the stream. Here a stranger gets none: it would be kept open for him without end.
      who();
      server.timeout(request, 0);
      const stream = new WatchStream({ engine, clock: options.clock, log, who, header });
      streams.add(stream);
      stream.onClose(() => streams.delete(stream));
      return new Response(stream.open(request.body), { headers: JSON_HEADERS });
    }
    if (name === "auth/authenticate") {
      const from = server.requestIP(request)?.address ?? "local";
      return json(200, { header: header(), token: await logIn(request, from, users) });
    }
    // Before the body: what strangers send is not kept.
    const principal = who();
    const message = await messageOf(request, MOST_BODY_BYTES);
    if (extra !== undefined) return json(200, await extra(message));
    return json(200, await (handler as Handler)({ message, who: principal, guard: new Guard(principal, engine) }));
  };
  const server = serve(listen, {
    maxRequestBodySize: MOST_BODY_BYTES,
    idleTimeout: IDLE_SEC,
    ...(tls === undefined ? {} : { tls: tlsOf(tls) }),
    fetch: async (request, self) => {
      try {
        return await respond(request, self);
      } catch (error) {
        // Nobody waits for the answer to a request that was given up.
        return failed(error, request.signal.aborted ? "debug" : "error", log);
      }
    },
  });
  return {
    url: "unix" in listen ? `unix://${listen.unix}` : server.url.origin,
    async stop() {
      forget();
      for (const stream of streams) stream.close();
      await server.stop(true);
    },
  };
}

type Handler = (asked: Asked) => Json | Promise<Json>;
type Serve = Pick<Bun.Serve.Options<undefined>, "maxRequestBodySize"> & {
  idleTimeout: number;
  tls?: Bun.TLSOptions;
  fetch: (request: Request, server: Bun.Server<undefined>) => Promise<Response>;
};

function serve(listen: GatewayOptions["listen"], options: Serve): Bun.Server<undefined> {
  try {
    // A unix socket has no idle time to speak of: the peer is on this machine.
    if ("unix" in listen) {
      const { idleTimeout: _, ...rest } = options;
      return forOwnerOnly(() => Bun.serve({ ...rest, unix: listen.unix }));
    }
    return Bun.serve({ ...options, hostname: listen.hostname, port: listen.port });
  } catch (cause) {
    const where = "unix" in listen ? listen.unix : `${listen.hostname}:${listen.port}`;
    throw new Fault("serve.address", `cannot listen on ${where}`, { cause });
  }
}

/** Whatever umask this process was started with: whoever may write to the socket may do everything. */
function forOwnerOnly<T>(make: () => T): T {
  const before = process.umask(0o177);
  try {
    return make();
  } finally {
    process.umask(before);
  }
}

function tlsOf(tls: NonNullable<GatewayOptions["tls"]>): Bun.TLSOptions {
  const { cert, key, clientCa } = tls;
  if (clientCa === undefined) return { cert, key };
  return { cert, key, ca: clientCa, requestCert: true, rejectUnauthorized: true };
}

async function logIn(request: Request, from: string, users: Users): Promise<string> {
  const message = await messageOf(request, MOST_LOGIN_BYTES);
  return await users.authenticate(message.text("name"), message.text("password"), from);
}

/** The header that every answer has; there is one member and it has always led. */
function headerOf(engine: EmbeddedEngine): (revision?: number) => Json {
  return (revision = engine.revision) => ({
    cluster_id: engine.clusterId,
    member_id: engine.memberId,
    revision: String(revision),
    raft_term: "1",
  });
}

/** By path below /v3/. */
function handlers(options: GatewayOptions): Readonly<Record<string, Handler>> {
  const { engine, users } = options;
  const header = headerOf(engine);
  const auth = Object.fromEntries(
    Object.entries(AUTH_CALLS).map(([name, call]): [string, Handler] => [
      `auth/${name}`,
      async ({ message, who }) => sparse({ header: header(), ...(await call({ message, users, who, from: "" })) }),
    ]),
  );
  return { ...auth, ...keyHandlers(engine, header), ...leaseHandlers(engine, header), ...careHandlers(engine, header) };
}

type Header = (revision?: number) => Json;

function keyHandlers(engine: EmbeddedEngine, header: Header): Record<string, Handler> {
  return {
    "kv/range"({ message, guard }) {
      const request = rangeOf(message);
      guard.range(request);
      const answer = engine.range(request);
      return rangeJson(answer, header(answer.revision));
    },
    "kv/put"({ message, guard }) {
      const request = putOf(message);
      guard.put(request);
      const answer = engine.put(request);
      return putJson(answer, header(answer.revision));
    },
    "kv/deleterange"({ message, guard }) {
      const request = deleteOf(message);
      guard.delete(request);
      const answer = engine.deleteRange(request);
      return deleteJson(answer, header(answer.revision));
    },
    "kv/txn"({ message, guard }) {
      const request = txnOf(message);
      guard.txn(request);
      const answer = engine.txn(request);
      return txnJson(answer, header(answer.revision));
    },
    "kv/compaction"({ message, guard }) {
      guard.root();
      engine.compact(message.number("revision"));
      return { header: header() };
    },
  };
}

function leaseHandlers(engine: EmbeddedEngine, header: Header): Record<string, Handler> {
  const grant: Handler = ({ message, who }) => {
    const { id, ttl } = engine.grant(message.number("TTL"), message.int64("ID"), who.name);
    return sparse({ header: header(), ID: id, TTL: ttl });
  };
  const revoke: Handler = ({ message, guard }) => {
    const id = message.int64("ID");
    guard.lease(id);
    engine.revoke(id);
    return { header: header() };
  };
  const keepalive: Handler = ({ message, guard }) => {
    const id = message.int64("ID");
    guard.lease(id);
    return { result: sparse({ header: header(), ID: id, TTL: engine.keepAlive(id) }) };
  };
  const timetolive: Handler = ({ message, guard }) => {
    const id = message.int64("ID");
    guard.lease(id);
    const info = engine.leaseInfo(id, message.flag("keys"));
    return sparse({
      header: header(),
      ID: id,
      TTL: info.ttl,
      grantedTTL: info.granted,
      keys: info.keys.map((key) => btoa(key)),
    });
  };
  const leases: Handler = ({ guard }) => {
    const ids = engine.leases().filter((id) => guard.visible(id));
    return sparse({ header: header(), leases: ids.map((ID) => ({ ID })) });
  };
  const both = Object.entries({ revoke, timetolive, leases }).map(
    ([name, call]) => [`kv/lease/${name}`, call] as const,
  );
  return {
    ...Object.fromEntries(both),
    "lease/grant": grant,
    "lease/revoke": revoke,
    "lease/keepalive": keepalive,
    "lease/timetolive": timetolive,
    "lease/leases": leases,
  };
}

/** What monitoring and etcd's own tools ask. */
function careHandlers(engine: EmbeddedEngine, header: Header): Record<string, Handler> {
  return {
    "maintenance/status"() {
      const { total, used, full } = engine.status();
      const revision = String(engine.revision);
      return sparse({
        header: header(),
        version: VERSION,
        dbSize: total,
        leader: engine.memberId,
        raftIndex: revision,
        raftTerm: "1",
        raftAppliedIndex: revision,
        dbSizeInUse: used,
        errors: full ? [`memberID:${engine.memberId} alarm:NOSPACE `] : [],
      });
    },
    "maintenance/alarm"({ guard }) {
      guard.root();
      const { full } = engine.status();
      return sparse({ header: header(), alarms: full ? [{ memberID: engine.memberId, alarm: "NOSPACE" }] : [] });
    },
    "cluster/member/list": () => ({ header: header(), members: [{ ID: engine.memberId, name: "rota" }] }),
  };
}

const JSON_HEADERS = { "content-type": "application/json" };

function json(status: number, body: Json): Response {
  return new Response(JSON.stringify(body), { status, headers: JSON_HEADERS });
}

function text(status: number, body: string): Response {
  return new Response(body, { status, headers: { "content-type": "text/plain; charset=utf-8" } });
}

function plain(path: string, request: Request, engine: EmbeddedEngine): Response {
  if (request.method !== "GET" && request.method !== "HEAD") return text(405, "Method Not Allowed\n");
  if (path === "/version") return json(200, { etcdserver: VERSION, etcdcluster: VERSION });
  return engine.works ? json(200, { health: "true" }) : json(503, { health: "false" });
}

/** The body as a message; it is not read beyond `most` bytes, however it comes. */
async function messageOf(request: Request, most: number): Promise<Message> {
  const pieces: Uint8Array[] = [];
  let size = 0;
  for await (const piece of request.body ?? []) {
    size += piece.length;
    if (size > most) throw refuse("tooLarge");
    pieces.push(piece);
  }
  return new Message(parsed(Buffer.concat(pieces).toString("utf8")));
}

function parsed(body: string): unknown {
  if (body === "") return {};
  try {
    return JSON.parse(body);
  } catch (error) {
    throw new Refusal(sentence(error), CODE.invalid);
  }
}

/** etcd's shape of an error. What is no refusal is no definite no, and must not look like one. */
function failed(error: unknown, level: Level, log: Log): Response {
  if (error instanceof Refusal) {
    const { message, code } = error;
    return json(httpStatus(code), { error: message, message, code });
  }
  log(level, "store_request_failed", sentence(error));
  const message = `etcdserver: ${sentence(error)}`;
  return json(httpStatus(CODE.unavailable), { error: message, message, code: CODE.unavailable });
}
