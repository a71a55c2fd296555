/** A TCP proxy between a client and a server, on a loopback port, that can misbehave in all the ways that matter to a reboot. */
import { createConnection, createServer, type Server, type Socket } from "node:net";

/**
 * - `pass`     everything goes through;
 * - `freeze`   nothing moves either way, nothing closes; what was sent meanwhile is delivered late, on the next mode (connections made meanwhile too);
 * - `late`     requests reach the server, its answers are delivered late, on the next mode that passes;
 * - `swallow`  requests reach the server, its answers are thrown away;
 * - `deaf`     requests are thrown away (the server never sees them), nothing comes back;
 * - `refuse`   nothing listens: "connection refused"; open connections are cut;
 * - `close`    connections are accepted and cut at once, open ones too.
 */
export type ProxyMode = "pass" | "freeze" | "late" | "swallow" | "deaf" | "refuse" | "close";

export interface TcpProxy {
  readonly port: number;
  /** `http://127.0.0.1:port` (or https, as the target has it). */
  readonly url: string;
  readonly mode: ProxyMode;
  /** Connections that were accepted so far. */
  readonly accepted: number;
  /** Bytes from the client that reached, or would have reached, the server. */
  readonly upBytes: number;
  /** Resolves when the mode holds for old and new connections. */
  set(mode: ProxyMode): Promise<void>;
  /** The mode changes by itself as soon as a chunk of a request contains `text`; the chunk itself is treated by the new mode. */
  setWhen(text: string, mode: ProxyMode): void;
  stop(): Promise<void>;
}

interface Pair {
  readonly client: Socket;
  readonly server: Socket;
  readonly up: Lane;
  readonly down: Lane;
}

const LATE_END_MS = 1000;

/** One direction of a connection: what is held back while frozen goes out in order afterwards. */
class Lane {
  readonly #held: (Buffer | "end")[] = [];
  readonly #to: Socket;

  constructor(to: Socket) {
    this.#to = to;
  }

  hold(piece: Buffer | "end"): void {
    this.#held.push(piece);
  }

  send(piece: Buffer | "end"): void {
    if (this.#to.destroyed) return;
    if (piece === "end") this.#to.end();
    else this.#to.write(piece);
  }

  /** Late data goes out at once, a late end a while after it: etcd gives up a request whose client it sees leave before it is done. */
  thaw(): void {
    for (const piece of this.#held.splice(0))
      if (piece === "end") setTimeout(() => this.send(piece), LATE_END_MS);
      else this.send(piece);
  }
}

/** Starts a proxy in front of `target` (an http or https URL, or a port on loopback). */
export async function startProxy(target: string | number, initial: ProxyMode = "pass"): Promise<TcpProxy> {
  const to = typeof target === "number" ? new URL(`http://127.0.0.1:${target}`) : new URL(target);
  const pairs = new Set<Pair>();
  let mode: ProxyMode = initial;
  let trigger: { text: string; mode: ProxyMode } | undefined;
  let accepted = 0;
  let upBytes = 0;

  const cut = () => {
    for (const { client, server } of pairs) {
      client.destroy();
      server.destroy();
    }
    pairs.clear();
  };
  const up = (pair: Pair, piece: Buffer | "end") => {
    if (trigger !== undefined && piece !== "end" && piece.includes(trigger.text)) {
      const { mode: next } = trigger;
      trigger = undefined;
      enter(next);
    }
    if (piece !== "end") upBytes += piece.length;
    if (mode === "freeze") pair.up.hold(piece);
    else if (mode === "pass" || mode === "late" || mode === "swallow") pair.up.send(piece);
  };
  const down = (pair: Pair, piece: Buffer | "end") => {
    if (mode === "freeze" || mode === "late") pair.down.hold(piece);
    else if (mode === "pass") pair.down.send(piece);
  };
  const enter = (next: ProxyMode) => {
    mode = next;
    if (next === "close" || next === "refuse") cut();
    if (next !== "freeze")
      for (const pair of pairs) {
        if (next === "pass" || next === "late" || next === "swallow") pair.up.thaw();
        if (next === "pass") pair.down.thaw();
      }
  };
  const connect = (client: Socket) => {
    accepted++;
    client.on("error", () => undefined);
    if (mode === "close") return client.destroy();
    const server = createConnection({ host: to.hostname, port: Number(to.port) });
    server.on("error", () => client.destroy());
    const pair: Pair = { client, server, up: new Lane(server), down: new Lane(client) };
    pairs.add(pair);
    client.on("data", (piece: Buffer) => up(pair, piece));
    client.on("end", () => up(pair, "end"));
    server.on("data", (piece: Buffer) => down(pair, piece));
    server.on("end", () => down(pair, "end"));
    // The client is gone: while frozen the server must not learn of it, so that what was sent still arrives late.
    client.on("close", () => up(pair, "end"));
    const forget = () => {
      if (client.closed && server.closed) pairs.delete(pair);
    };
    client.on("close", forget);
    server.on("close", forget);
  };

  let listener: Server | undefined = await listen(0, connect);
  const port = (listener.address() as { port: number }).port;
  if (initial === "refuse") listener = await unlisten(listener);
  return {
    port,
    url: `${to.protocol}//127.0.0.1:${port}`,
    get mode() {
      return mode;
    },
    get accepted() {
      return accepted;
    },
    get upBytes() {
      return upBytes;
    },
    async set(next) {
      trigger = undefined;
      enter(next);
      if (next === "refuse") listener = await unlisten(listener);
      else listener ??= await listen(port, connect);
    },
    setWhen(text, next) {
      trigger = { text, mode: next };
    },
    async stop() {
      cut();
      listener = await unlisten(listener);
    },
  };
}

function listen(port: number, connect: (client: Socket) => void): Promise<Server> {
  return new Promise((resolve, reject) => {
    const server = createServer({ allowHalfOpen: true }, connect);
    server.once("error", reject);
    server.listen(port, "127.0.0.1", () => resolve(server));
  });
}

/** Stops listening; connections that are still ending do not hold it up. */
async function unlisten(server: Server | undefined): Promise<undefined> {
  if (server === undefined) return;
  server.close();
  while (server.listening) await Bun.sleep(1);
}
