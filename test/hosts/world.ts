/** A fleet of real machines on a network of their own, with a real etcd of three members, and everything that proves what happened in it. */
import { mkdirSync, mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { type EtcdCluster, type EtcdSpec, startEtcd } from "../world/etcd.ts";
import { Guard } from "./guard.ts";
import { History } from "./history.ts";
import { Host } from "./host.ts";
import { Lan } from "./lan.ts";
import { debianRoot } from "./root.ts";
import { CLEAN_ENV } from "./run.ts";

export interface WorldSpec {
  /** Names, of at most 8 characters. */
  readonly hosts: readonly string[];
  /** Debian packages besides those that every host has. */
  readonly packages?: readonly string[];
  /** Lays what all hosts have in common over their Debian. */
  readonly lay?: (tree: string) => Promise<void>;
  /** Makes one of them what it is, before its first boot. */
  readonly prepare?: (host: Host, etcd: EtcdCluster) => void | Promise<void>;
  readonly etcd?: Omit<EtcdSpec, "lan" | "members" | "parent">;
}

const ETCD_NUMBERS = [1, 2, 3];
const FIRST_HOST_NUMBER = 11;

export class World {
  readonly hosts: readonly Host[];
  readonly etcd: EtcdCluster;
  readonly history: History;
  readonly lan: Lan;
  readonly #guard: Guard;

  private constructor(guard: Guard, lan: Lan, etcd: EtcdCluster, hosts: readonly Host[]) {
    this.#guard = guard;
    this.lan = lan;
    this.etcd = etcd;
    this.hosts = hosts;
    this.history = new History(etcd);
  }

  /** Makes all of it; the hosts are off. Whatever happens, nothing of it outlives this process. */
  static async make(spec: WorldSpec): Promise<World> {
    demand();
    const root = await debianRoot(spec.packages);
    const guard = new Guard();
    try {
      return await World.#build(guard, root, spec);
    } catch (error) {
      await guard.settle().catch((second: unknown) => console.error(String(second)));
      throw error;
    }
  }

  static async #build(guard: Guard, root: string, spec: WorldSpec): Promise<World> {
    const dir = mkdtempSync(`${tmpdir()}/rota-hosts-`);
    await guard.owes({ what: "tree", path: dir });
    const name = `rota-${dir.slice(-6)}`;
    const lan = await Lan.make(guard, name, ETCD_NUMBERS);
    const addresses = ETCD_NUMBERS.map((number) => lan.address(number));
    const etcd = await startEtcd({ ...spec.etcd, parent: dir, lan: { addresses, within: lan.within } });
    for (const { pid } of etcd.members) if (pid !== undefined) await guard.owesProcess(pid);
    const above = `${dir}/above`;
    mkdirSync(above);
    await spec.lay?.(above);
    const hosts: Host[] = [];
    for (const [index, host] of spec.hosts.entries()) {
      const own = { name: host, number: FIRST_HOST_NUMBER + index, machine: `${name}-${host}` };
      const made = await Host.make(guard, lan, { ...own, layers: [above, root], dir: `${dir}/${host}` });
      await spec.prepare?.(made, etcd);
      hosts.push(made);
    }
    return new World(guard, lan, etcd, hosts);
  }

  host(name: string): Host {
    const found = this.hosts.find((host) => host.name === name);
    if (found === undefined) throw new Error(`no host is called ${name}`);
    return found;
  }

  /** The store's revision now. */
  async revision(): Promise<bigint> {
    const answer = (await this.etcd.post("/v3/kv/range", { key: btoa("\0"), count_only: true })) as {
      readonly header: { readonly revision: string };
    };
    return BigInt(answer.header.revision);
  }

  /** The nodes whose keys below `line` have no lease, as of now: asked of etcd itself, not of what was followed. */
  async inTurn(line: string): Promise<string[]> {
    const end = line.slice(0, -1) + String.fromCharCode(line.charCodeAt(line.length - 1) + 1);
    const answer = (await this.etcd.post("/v3/kv/range", { key: btoa(line), range_end: btoa(end) })) as {
      readonly kvs?: readonly { readonly value: string; readonly lease?: string }[];
    };
    return (answer.kvs ?? [])
      .filter((kv) => (kv.lease ?? "0") === "0")
      .map((kv) => (JSON.parse(Buffer.from(kv.value, "base64").toString()) as { node: string }).node);
  }

  /** Switches everything off and takes it all away. Rejects when something is left. */
  async close(): Promise<void> {
    await this.history.stop();
    await Promise.allSettled(this.hosts.map((host) => host.cutPower()));
    await this.etcd.stop();
    await this.#guard.settle();
  }
}

/** What cannot be had is a failure with a sentence. */
function demand(): void {
  if (process.getuid?.() !== 0)
    throw new Error("real hosts need root (namespaces, mounts, systemd-nspawn): run `make test-hosts`");
  const programs = ["debootstrap", "systemd-nspawn", "ip", "mount", "nsenter", "unshare", "flock", "etcd"];
  const missing = programs.filter((program) => Bun.which(program, CLEAN_ENV) === null);
  if (missing.length > 0)
    throw new Error(`real hosts need ${missing.join(", ")}: \`make test-hosts\` installs what they come from`);
}
