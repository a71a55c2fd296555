/** Real etcd members on loopback: one or several, with TLS, with users; started, killed, stopped and started again by pid. */
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { makePki, type Pki } from "./pki.ts";
import { freePort, until } from "./wait.ts";

export interface EtcdUser {
  readonly name: string;
  readonly password: string;
  /** May read and write the keys that begin with it; none: a user without any right. */
  readonly prefix?: string;
}

export interface EtcdSpec {
  /** How many members; default 1. */
  readonly members?: number;
  /** "mutual": clients need a certificate; "server": only the server shows one. */
  readonly tls?: "mutual" | "server";
  /** Turns etcd's authentication on, with a root user and these. */
  readonly auth?: { readonly rootPassword: string; readonly users: readonly EtcdUser[] };
  /**
   * A member on each of these addresses instead of loopback, in a network namespace: `within` are the words that start a program there.
   * The test itself reaches the members over unix sockets.
   */
  readonly lan?: { readonly addresses: readonly string[]; readonly within: readonly string[] };
  /** Where the folder with all its data is made; default: among the temporary ones. */
  readonly parent?: string;
  /** More words for the command line, e.g. `--auth-token-ttl=2`. */
  readonly args?: readonly string[];
}

export interface EtcdMember {
  readonly name: string;
  readonly endpoint: string;
  /** What `fetch` has to be given besides the endpoint for the test to get there. */
  readonly reach: Reach;
  /** Of the running process; undefined while it is down. */
  readonly pid: number | undefined;
  readonly logFile: string;
  /** SIGKILL, and waits for its end. */
  kill(): Promise<void>;
  /** SIGTERM, and waits for its end. */
  stop(): Promise<void>;
  /** Starts it again on the same data and ports; resolves when it answers. */
  start(options?: { readonly wait?: boolean }): Promise<void>;
  /** SIGSTOP and SIGCONT. */
  pause(): void;
  resume(): void;
  /** Forgets its data; only while it is down. */
  wipe(): void;
}

export interface EtcdCluster {
  readonly endpoints: readonly string[];
  readonly members: readonly EtcdMember[];
  readonly pki: Pki | undefined;
  readonly dir: string;
  /** One raw request to the JSON gateway of a member (default: any that answers), with the test's own certificate. */
  post(
    path: string,
    body: unknown,
    options?: { readonly member?: EtcdMember; readonly token?: string },
  ): Promise<unknown>;
  /** The member that leads now. */
  leader(): Promise<EtcdMember>;
  /** Ends the members that it started and removes their data. */
  stop(): Promise<void>;
}

type Reach = Init & { unix?: string };
type Init = { tls?: { ca: string; cert: string; key: string } };

interface Where {
  readonly host: string;
  readonly client: number;
  readonly peer: number;
}

/** Starts a cluster and waits until it has a leader. */
export async function startEtcd(spec: EtcdSpec = {}): Promise<EtcdCluster> {
  const dir = mkdtempSync(join(spec.parent ?? tmpdir(), "rota-etcd-"));
  const pki = spec.tls === undefined ? undefined : await makePki(join(dir, "pki"), spec.lan?.addresses);
  const init: Init = pki === undefined ? {} : { tls: { ca: pki.ca, cert: pki.client.cert, key: pki.client.key } };
  const places = spec.lan
    ? spec.lan.addresses.map((host) => ({ host, client: 2379, peer: 2380 }))
    : await Promise.all(Array.from({ length: spec.members ?? 1 }, onLoopback));
  const initial = places.map(({ host, peer }, i) => `m${i}=http://${host}:${peer}`).join(",");
  const members = places.map((place, i) => member(`m${i}`, place, initial, dir, spec, pki, init));
  const cluster: EtcdCluster = {
    endpoints: members.map((m) => m.endpoint),
    members,
    pki,
    dir,
    post: (path, body, options) =>
      post(options?.member ?? members.find((m) => m.pid !== undefined)!, path, body, options?.token),
    async leader() {
      return await until("a leader", async () => {
        for (const m of members.filter((each) => each.pid !== undefined)) {
          const status = (await post(m, "/v3/maintenance/status", {})) as {
            leader?: string;
            header?: { member_id?: string };
          };
          if (status.leader !== undefined && status.leader === status.header?.member_id) return m;
        }
        return undefined;
      });
    },
    async stop() {
      await Promise.all(members.map((m) => m.kill()));
      rmSync(dir, { recursive: true, force: true });
    },
  };
  try {
    await Promise.all(members.map((m) => m.start()));
    if (spec.auth !== undefined) await enableAuth(cluster, spec.auth);
  } catch (error) {
    await cluster.stop();
    throw error;
  }
  return cluster;
}

async function onLoopback(): Promise<Where> {
  return { host: "127.0.0.1", client: await freePort(), peer: await freePort() };
}

function member(
  name: string,
  { host, client, peer: peerPort }: Where,
  initial: string,
  dir: string,
  spec: EtcdSpec,
  pki: Pki | undefined,
  init: Init,
): EtcdMember {
  const scheme = pki === undefined ? "http" : "https";
  const endpoint = `${scheme}://${host}:${client}`;
  const peer = `http://${host}:${peerPort}`;
  const logFile = join(dir, `${name}.log`);
  const data = join(dir, name);
  const argv = [
    ...(spec.lan?.within ?? []),
    ...["etcd", "--name", name, "--data-dir", data, "--logger", "zap", "--log-level", "warn"],
    // etcd takes the socket's name from host and port, below the folder it is started in.
    ...["--listen-client-urls", spec.lan ? `${endpoint},unix${pki ? "s" : ""}://${name}:1` : endpoint],
    ...["--advertise-client-urls", endpoint],
    ...["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", initial],
    ...(pki === undefined ? [] : ["--cert-file", pki.server.certFile, "--key-file", pki.server.keyFile]),
    ...(spec.tls === "mutual" && pki !== undefined ? ["--client-cert-auth", "--trusted-ca-file", pki.caFile] : []),
    ...(spec.args ?? []),
  ];
  const reach: Reach = spec.lan ? { ...init, unix: join(dir, `${name}:1`) } : init;
  let running: Bun.Subprocess | undefined;
  const end = async (signal: NodeJS.Signals) => {
    const process = running;
    if (process === undefined) return;
    process.kill(signal);
    await process.exited;
    running = undefined;
  };
  const self: EtcdMember = {
    name,
    endpoint,
    reach,
    logFile,
    get pid() {
      return running?.pid;
    },
    kill: () => end("SIGKILL"),
    stop: () => end("SIGTERM"),
    async start(options = {}) {
      const log = openSync(logFile, "a");
      const env = { PATH: Bun.env.PATH ?? "" };
      const process = Bun.spawn(argv, { cwd: dir, stdin: "ignore", stdout: log, stderr: log, env });
      closeSync(log);
      running = process;
      if (options.wait === false) return;
      await until(
        `etcd ${name} to be healthy`,
        async () => {
          if (process.exitCode !== null) throw new Error(`etcd ended: ${readFileSync(logFile, "utf8").slice(-2000)}`);
          const response = await fetch(`${endpoint}/health`, { ...reach, signal: AbortSignal.timeout(2000) });
          return ((await response.json()) as { health?: string }).health === "true";
        },
        30_000,
      );
    },
    pause: () => running?.kill("SIGSTOP"),
    resume: () => running?.kill("SIGCONT"),
    wipe: () => rmSync(data, { recursive: true, force: true }),
  };
  return self;
}

async function post(to: EtcdMember, path: string, body: unknown, token?: string): Promise<unknown> {
  const headers = token === undefined ? {} : { headers: { authorization: token } };
  const signal = AbortSignal.timeout(5000);
  const response = await fetch(`${to.endpoint}${path}`, {
    method: "POST",
    body: JSON.stringify(body),
    ...to.reach,
    ...headers,
    signal,
  });
  return await response.json();
}

async function enableAuth(cluster: EtcdCluster, auth: NonNullable<EtcdSpec["auth"]>): Promise<void> {
  const ask = async (path: string, body: unknown) => {
    const answer = (await cluster.post(path, body)) as { error?: string };
    if (answer.error !== undefined) throw new Error(`${path}: ${answer.error}`);
  };
  await ask("/v3/auth/user/add", { name: "root", password: auth.rootPassword });
  await ask("/v3/auth/role/add", { name: "root" });
  await ask("/v3/auth/user/grant", { user: "root", role: "root" });
  for (const { name, password, prefix } of auth.users) {
    await ask("/v3/auth/user/add", { name, password });
    await ask("/v3/auth/role/add", { name });
    await ask("/v3/auth/user/grant", { user: name, role: name });
    if (prefix === undefined) continue;
    const last = prefix.charCodeAt(prefix.length - 1);
    const end = prefix.slice(0, -1) + String.fromCharCode(last + 1);
    const perm = { permType: "READWRITE", key: btoa(prefix), range_end: btoa(end) };
    await ask("/v3/auth/role/grant", { name, perm });
  }
  await ask("/v3/auth/enable", {});
}
