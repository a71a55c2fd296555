/** Everything that was ever written to etcd, in its own order, and what it says about turns: who was in one, from when to when, how it ended. */
import type { EtcdCluster, EtcdMember } from "../world/etcd.ts";

/** One put or delete. Changes of one transaction have one revision. */
export interface Change {
  readonly revision: bigint;
  readonly key: string;
  /** Absent: deleted. */
  readonly value?: string;
  /** "0": none, so it stays until somebody ends it. */
  readonly lease: string;
}

/** The time of one machine in its turn: from the write that took the lease off its key to the one that ended that. */
export interface Turn {
  readonly node: string;
  readonly turnId: string;
  readonly bootId: string;
  readonly from: bigint;
  /** Absent: it still is. */
  readonly to?: bigint;
  /**
   * "healthy": given up in the transaction that says that the machine's script for after a reboot has passed; "withdrawn": the key has a
   * lease again; "deleted": anything else.
   */
  readonly end?: "healthy" | "withdrawn" | "deleted";
}

/** What a machine says of itself under `cluster_health/`. */
interface Health {
  readonly healthy: boolean;
  readonly stage: string;
  readonly turn?: string;
}

/** The turns in a history. `line` is the folder of the contenders' keys, `namespace` where everything lies. */
export function turnsIn(changes: readonly Change[], line: string, namespace: string): Turn[] {
  const turns: { -readonly [K in keyof Turn]: Turn[K] }[] = [];
  const open = new Map<string, (typeof turns)[number]>();
  for (const change of changes) {
    if (!change.key.startsWith(line)) continue;
    const turn = open.get(change.key);
    if (turn === undefined) {
      if (change.value === undefined || change.lease !== "0") continue;
      const value = JSON.parse(change.value) as { node: string; turn_id: string; boot_id: string };
      const begun = { node: value.node, turnId: value.turn_id, bootId: value.boot_id, from: change.revision };
      turns.push(begun);
      open.set(change.key, begun);
    } else if (change.value === undefined || change.lease !== "0") {
      turn.to = change.revision;
      turn.end = endOf(turn.node, change, changes, namespace);
      open.delete(change.key);
    }
  }
  return turns;
}

/** How a turn ended, by what else its last transaction wrote. */
function endOf(node: string, last: Change, changes: readonly Change[], namespace: string): NonNullable<Turn["end"]> {
  if (last.value !== undefined) return "withdrawn";
  const key = `${namespace}/cluster_health/${node}`;
  const put = changes.find((change) => change.revision === last.revision && change.key === key)?.value;
  const health = put === undefined ? undefined : (JSON.parse(put) as Health);
  const good = health?.healthy === true && health.stage === "post-reboot" && health.turn === undefined;
  return good ? "healthy" : "deleted";
}

/** Pairs of turns that were open at one moment; one at a time means none. */
export function overlaps(turns: readonly Turn[]): [Turn, Turn][] {
  const found: [Turn, Turn][] = [];
  for (const [index, a] of turns.entries())
    for (const b of turns.slice(index + 1))
      if (a.from < (b.to ?? Number.POSITIVE_INFINITY) && b.from < (a.to ?? Number.POSITIVE_INFINITY))
        found.push([a, b]);
  return found;
}

/** etcd's history while it is being made, from its first revision on. */
export class History {
  readonly changes: Change[] = [];
  readonly #cancel = new AbortController();
  readonly #followed: Promise<void>;
  #broken: unknown;

  /** Begins to follow. Should it come to know less than everything, whoever looks is told so. */
  constructor(cluster: EtcdCluster) {
    this.#followed = this.#follow(cluster).catch((error: unknown) => {
      this.#broken = error;
    });
  }

  /** The keys as they stand now, with value and lease. */
  get now(): ReadonlyMap<string, Change> {
    this.#check();
    const keys = new Map<string, Change>();
    for (const change of this.changes) {
      if (change.value === undefined) keys.delete(change.key);
      else keys.set(change.key, change);
    }
    return keys;
  }

  /** Changes from this revision on. */
  since(revision: bigint): Change[] {
    this.#check();
    return this.changes.filter((change) => change.revision >= revision);
  }

  async stop(): Promise<void> {
    this.#cancel.abort();
    await this.#followed;
  }

  #check(): void {
    if (this.#broken !== undefined)
      throw new Error("etcd's history could not be followed to its end", { cause: this.#broken });
  }

  /** From member to member, where the last one ended, so that etcd may come and go. */
  async #follow({ members }: EtcdCluster): Promise<void> {
    const { signal } = this.#cancel;
    for (let tries = 0; !signal.aborted; tries++) {
      const member = members[tries % members.length];
      if (member === undefined) throw new Error("an etcd without members");
      try {
        await this.#read(member);
      } catch (error) {
        if (error instanceof SyntaxError || error instanceof Refused) throw error;
        // It was cut off, or is not there now.
      }
      await Bun.sleep(50);
    }
  }

  async #read({ endpoint, reach }: EtcdMember): Promise<void> {
    const last = this.changes.at(-1)?.revision ?? 0n;
    const everything = { key: btoa("\0"), range_end: btoa("\0"), start_revision: String(last + 1n) };
    const response = await fetch(`${endpoint}/v3/watch`, {
      ...reach,
      method: "POST",
      body: JSON.stringify({ create_request: everything }),
      signal: this.#cancel.signal,
    });
    let text = "";
    const decoder = new TextDecoder();
    for await (const piece of response.body ?? []) {
      const lines = (text + decoder.decode(piece, { stream: true })).split("\n");
      text = lines.pop() ?? "";
      for (const line of lines) if (line !== "") this.changes.push(...readChanges(line));
    }
  }
}

/** etcd will not tell: compacted, or not meant for us. */
class Refused extends Error {}

/** One message of the watch. */
function readChanges(line: string): Change[] {
  const { result, error } = JSON.parse(line) as {
    readonly error?: unknown;
    readonly result?: { readonly canceled?: boolean; readonly events?: readonly WireEvent[] };
  };
  if (error !== undefined || result === undefined || result.canceled) throw new Refused(line);
  return (result.events ?? []).map(({ type, kv }) => ({
    revision: BigInt(kv.mod_revision),
    key: decode(kv.key),
    ...(type !== "DELETE" && { value: decode(kv.value ?? "") }),
    lease: kv.lease ?? "0",
  }));
}

interface WireEvent {
  readonly type?: "PUT" | "DELETE";
  readonly kv: {
    readonly key: string;
    readonly value?: string;
    readonly mod_revision: string;
    readonly lease?: string;
  };
}

function decode(base64: string): string {
  return Buffer.from(base64, "base64").toString("utf8");
}
