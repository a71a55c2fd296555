/** `rota serve`: the embedded store for many nodes, closed to strangers unless somebody says otherwise, loudly. */
import { rmSync } from "node:fs";
import type { Clock } from "../kernel/clock.ts";
import { EXIT, Fault } from "../kernel/errors.ts";
import type { Log } from "../kernel/log.ts";
import { openStoreFile } from "./embedded-file.ts";
import { type Gateway, startGateway } from "./gateway.ts";
import { storeSocket } from "./open.ts";
import { type GivenTls, type ServeTls, serveTls } from "./serve-tls.ts";
import { userCalls } from "./serve-users.ts";
import { Users } from "./users.ts";

export interface ServeOptions extends GivenTls {
  /** host:port; an IPv6 address in brackets. Port 0: any free one. */
  readonly listen: string;
  readonly stateDir: string;
  /** No TLS and no users wanted on an address that others can reach. */
  readonly insecure: boolean;
  /** How the command is called here, for the sentences that name the next one. */
  readonly called: string;
}

export interface Served {
  readonly url: string;
  /** Set when we made the certificates ourselves. */
  readonly ca?: { readonly caFile: string; readonly fingerprint: string };
  /** Ends all connections and closes the file. */
  stop(): Promise<void>;
}

/**
 * Starts serving. Faults (exit code 2 when the call itself is wrong): `serve.listen`, `serve.users` (an address that others can reach wants at
 * least one user), `serve.tls`, `serve.address`, `store.taken`, `store.unreadable`.
 */
export function startServe(options: ServeOptions, ports: { readonly clock: Clock; readonly log: Log }): Served {
  const { hostname, port } = parseListen(options.listen);
  const open = !isLoopback(hostname);
  const { stateDir, insecure } = options;
  const { log } = ports;
  const file = openStoreFile({ stateDir, ...ports, program: options.called });
  const gateways: Gateway[] = [];
  const stop = async () => {
    for (const gateway of gateways) await gateway.stop();
    file.close();
  };
  try {
    const { engine } = file;
    const users = new Users({ tables: engine.tables, ...ports });
    if (open && !insecure && (!users.enabled || users.userNames().length === 0)) throw noUsers(options);
    // Whoever names any of these files wants TLS, wherever it listens: a client CA that is not asked would let everybody in.
    const files = [options.certFile, options.keyFile, options.clientCaFile];
    const wantsTls = (open && !insecure) || files.some((file) => file !== undefined);
    const tls = wantsTls ? serveTls(options, stateDir, hostname, ports.clock) : undefined;
    if (open && insecure) warn(log, users, tls, options.listen);
    const socket = storeSocket(stateDir);
    // We hold the lock on the file, so a socket that is there is a dead process'.
    rmSync(socket, { force: true });
    gateways.push(
      startGateway({ engine, users, ...ports, listen: { unix: socket }, trusted: true, extra: userCalls(users) }),
    );
    const main = startGateway({
      engine,
      users,
      ...ports,
      listen: { hostname, port },
      ...(tls === undefined ? {} : { tls: tls.tls }),
      closed: open && !insecure,
    });
    gateways.push(main);
    return { url: main.url, ...(tls?.made === undefined ? {} : { ca: tls.made }), stop };
  } catch (error) {
    for (const gateway of gateways) gateway.stop().catch(() => undefined); // the first error is the one to tell
    file.close();
    throw error;
  }
}

function noUsers({ listen, stateDir, called }: ServeOptions): Fault {
  const command = `${called} user add NAME --prefix PREFIX --state-dir ${stateDir}`;
  return new Fault(
    "serve.users",
    `${listen} can be reached from other machines, so the store wants at least one user: ${command} (or --insecure, if the network is yours alone)`,
    { exitCode: EXIT.config },
  );
}

function warn(log: Log, users: Users, tls: ServeTls | undefined, listen: string): void {
  const what = [
    tls === undefined ? "everybody on the way can read and change what is sent" : "",
    users.enabled ? "" : "whoever reaches it may do everything, release a turn and order reboots included",
  ];
  const text = what.filter((each) => each !== "").join("; ");
  if (text !== "") log("warn", "store_insecure", `INSECURE: ${listen} is open to other machines: ${text}`);
}

/** `host:port` apart. Throws `serve.listen`. */
export function parseListen(listen: string): { hostname: string; port: number } {
  const match = /^(?:\[([0-9a-fA-F:.]+)\]|([\w.-]+)):(\d{1,5})$/.exec(listen);
  const port = Number(match?.[3]);
  if (match === null || port > 65_535)
    throw new Fault("serve.listen", `cannot listen on ${JSON.stringify(listen)}: say host:port, as in 127.0.0.1:2379`, {
      exitCode: EXIT.usage,
    });
  return { hostname: match[1] ?? match[2] ?? "", port };
}

/** True for addresses that no other machine can reach. A name is judged by what it always means, not by what a resolver says today. */
export function isLoopback(hostname: string): boolean {
  return hostname === "localhost" || hostname === "::1" || /^127(\.\d{1,3}){3}$/.test(hostname);
}
