/** A node's store, whichever it is: the etcd of its configuration, or the one embedded in this machine. */
import { existsSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import type { Clock } from "../kernel/clock.ts";
import { Fault, isFault, sentence } from "../kernel/errors.ts";
import type { Log } from "../kernel/log.ts";
import { etcdOptions, type StoreValues } from "./settings.ts";
import type { Store } from "./store.ts";

export interface OpenOptions {
  readonly clock: Clock;
  readonly log: Log;
  /** A daemon opens the embedded store in its own process and lets commands in; a command asks the process that has it. */
  readonly daemon: boolean;
  /** The process' environment, for `etcd_auth.password_env`. */
  readonly env?: Readonly<Record<string, string | undefined>>;
  /** What opens it, for whoever finds it taken. */
  readonly program?: string;
}

export interface OpenedStore {
  readonly store: Store;
  /** No etcd is configured: this machine coordinates with nobody but itself. */
  readonly alone: boolean;
}

/** The socket in a state directory through which this machine's commands reach the embedded store. */
export function storeSocket(stateDir: string): string {
  return join(stateDir, "store.sock");
}

/**
 * Opens it; closing the store closes all. An etcd is not asked yet, so this does not fail while it is away. Faults: `config.*` for unreadable
 * certificates, `store.taken` and `store.unreadable` for the embedded store.
 */
export async function openNodeStore(values: StoreValues, options: OpenOptions): Promise<OpenedStore> {
  const { clock, log } = options;
  if (values.etcd_endpoints.length > 0) {
    const { openEtcd } = await import("./etcd.ts");
    const read = (path: string) => readFileSync(path, "utf8");
    return { store: openEtcd(etcdOptions(values, read, options.env), { clock, log }), alone: false };
  }
  const store = options.daemon ? await embedded(values.state_dir, options) : await neighbour(values.state_dir, options);
  return { store, alone: true };
}

/** The engine in this process, and a socket for the commands of this machine. */
async function embedded(stateDir: string, options: OpenOptions): Promise<Store> {
  const { clock, log } = options;
  const [{ openStoreFile }, { embeddedStore }] = await Promise.all([
    import("./embedded-file.ts"),
    import("./embedded-store.ts"),
  ]);
  const file = openStoreFile({ stateDir, clock, log, program: options.program ?? "rota" });
  const gateway = options.daemon ? await door(stateDir, file.engine, options) : undefined;
  return {
    ...embeddedStore(file.engine),
    async close() {
      await gateway?.stop();
      file.close();
    },
  };
}

async function door(
  stateDir: string,
  engine: import("./embedded.ts").EmbeddedEngine,
  { clock, log }: OpenOptions,
): Promise<{ stop(): Promise<void> } | undefined> {
  const [{ startGateway }, { Users }] = await Promise.all([import("./gateway.ts"), import("./users.ts")]);
  const path = storeSocket(stateDir);
  try {
    // We hold the lock on the file, so a socket that is there is a dead process'.
    rmSync(path, { force: true });
    const users = new Users({ tables: engine.tables, clock, log });
    return startGateway({ engine, users, clock, log, listen: { unix: path }, trusted: true });
  } catch (error) {
    if (!isFault(error, "serve.address")) throw error;
    log("warn", "store_socket_failed", `commands on this machine cannot ask this process: ${sentence(error)}`, {
      path,
    });
    return undefined;
  }
}

/** For a command: through the socket of the process that has the store, or the file itself when nobody has it. */
async function neighbour(stateDir: string, options: OpenOptions): Promise<Store> {
  const path = storeSocket(stateDir);
  if (existsSync(path)) {
    const { openEtcd } = await import("./etcd.ts");
    const store = openEtcd({ endpoints: [`unix://${path}`] }, options);
    try {
      await store.range({ label: "store.hello", timeoutMs: 2000 }, "\0");
      return store;
    } catch (error) {
      await store.close();
      if (!isFault(error, "store.away")) throw error;
    }
  }
  // A command looks at what is there; it makes nothing.
  if (!existsSync(join(stateDir, "store.db")))
    throw new Fault("store.absent", `there is no store in ${stateDir} yet; the daemon makes it when it first runs`);
  try {
    return await embedded(stateDir, options);
  } catch (error) {
    if (!isFault(error, "store.taken")) throw error;
    throw new Fault("store.taken", `${error.message}, and does not answer at ${path}`, {
      cause: error,
      retry: "later",
    });
  }
}
