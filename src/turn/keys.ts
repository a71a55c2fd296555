/** Where everything about turns lies in the store, and what is written there. PURE. The layout is TURN.md's. */
import type { Int64, KeyValue } from "../store/store.ts";
import { prefixEnd } from "../store/store.ts";

/** The keys of one group (one `lock_key`), below the deployment's namespace. Names ending in `End` close a range. */
export interface Keyspace {
  readonly lockKey: string;
  /** P: the line. Direct children with a hexadecimal name are contenders. */
  readonly line: string;
  readonly lineEnd: string;
  readonly health: string;
  readonly healthEnd: string;
  readonly roster: string;
  readonly rosterEnd: string;
  /** Stop for everybody, and stop for this group. */
  readonly stops: readonly [string, string];
  readonly cooldown: string;
  readonly cooldownEnd: string;
  readonly ghosts: string;
  readonly ghostsEnd: string;
  readonly alive: string;
  readonly aliveEnd: string;
  contender(lease: Int64): string;
  fresh(turnId: string): string;
  ended(turnId: string): string;
}

/** The stop for everybody. */
export const EVERYBODY = "/stop";

/** Top-level names of the namespace that a lock_key may not lie in. */
const RESERVED = ["/cluster_health", "/nodes", "/turns", EVERYBODY];

/** Makes a lock_key absolute and checks it; the answer is the key, or what is wrong with it. */
export function normalLockKey(text: string): { readonly key: string } | { readonly problem: string } {
  const key = `/${text.trim().replace(/^\/+|\/+$/g, "")}`;
  if (key === "/") return { problem: "must name a key" };
  if (/\/\/|[^\x21-\x7e]/.test(key)) return { problem: "may hold printable ASCII without blanks, and no empty part" };
  const taken = RESERVED.find((name) => key === name || key.startsWith(`${name}/`));
  return taken ? { problem: `lies in ${taken}, which Rota uses for something else` } : { key };
}

/** The namespace as a prefix: "" or "/" + its parts. Follows the original: slashes at both ends do not count. */
export function namespacePrefix(namespace: string): string {
  const trimmed = namespace.trim().replace(/^\/+|\/+$/g, "");
  return trimmed === "" ? "" : `/${trimmed}`;
}

/** The keyspace of a lock_key that `normalLockKey` has accepted. */
export function keyspace(lockKey: string): Keyspace {
  // The lock_key is one path part here: with its slashes kept, group /a/cooldown would lie inside the cooldown range of group /a.
  const group = `/turns/${encodeURIComponent(lockKey.slice(1))}/`;
  const range = (prefix: string) => [prefix, prefixEnd(prefix)] as const;
  const [line, lineEnd] = range(`${lockKey}/`);
  const [health, healthEnd] = range("/cluster_health/");
  const [roster, rosterEnd] = range("/nodes/");
  const [cooldown, cooldownEnd] = range(`${group}cooldown/`);
  const [ghosts, ghostsEnd] = range(`${group}ghosts/`);
  const [alive, aliveEnd] = range(`${group}alive/`);
  return {
    lockKey,
    ...{
      line,
      lineEnd,
      health,
      healthEnd,
      roster,
      rosterEnd,
      cooldown,
      cooldownEnd,
      ghosts,
      ghostsEnd,
      alive,
      aliveEnd,
    },
    stops: [EVERYBODY, `${group}stop`],
    contender: (lease) => line + BigInt(lease).toString(16),
    fresh: (turnId) => `${group}fresh/${turnId}`,
    ended: (turnId) => `${group}ended/${turnId}`,
  };
}

export type Phase = "queued" | "owned" | "rebooting";

/** The value of a contender's key. `node`, `pid`, `acquired_at` are the seed's; the field names are the wire format. */
export interface TurnValue {
  readonly schema: 1;
  readonly node: string;
  readonly pid: number;
  readonly turn_id: string;
  /** Hash of the machine id: who I am, whatever my name. */
  readonly machine: string;
  /** The boot in which the turn was asked for; never rewritten, so another boot id means that the reboot has happened. */
  readonly boot_id: string;
  readonly slots: number;
  readonly phase: Phase;
  readonly reason: string;
  readonly queued_at: string;
  readonly acquired_at?: string;
  readonly fenced_at?: string;
}

const TEXT_FIELDS = ["node", "turn_id", "machine", "boot_id", "reason", "queued_at"] as const;
const PHASES: readonly string[] = ["queued", "owned", "rebooting"];

/** Reads a contender's value; undefined when it is not one of ours (foreign lock, garbage, a later schema). */
export function readTurnValue(text: string): TurnValue | undefined {
  const value = readObject(text);
  if (value === undefined || value["schema"] !== 1) return undefined;
  if (!TEXT_FIELDS.every((field) => typeof value[field] === "string")) return undefined;
  if (!PHASES.includes(value["phase"] as string)) return undefined;
  const slots = value["slots"];
  if (typeof slots !== "number" || !Number.isInteger(slots) || slots < 1) return undefined;
  return value as unknown as TurnValue;
}

/** JSON text as an object, or undefined: everything in the store may have been written by somebody else. */
export function readObject(text: string): Record<string, unknown> | undefined {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === "object" && value !== null && !Array.isArray(value)
      ? (value as Record<string, unknown>)
      : undefined;
  } catch {
    return undefined;
  }
}

/** One key in the line. */
export interface Contender {
  readonly key: string;
  readonly lease: Int64;
  readonly create: Int64;
  readonly mod: Int64;
  /** No lease: this turn ends only when somebody ends it. */
  readonly permanent: boolean;
  /** Absent for foreign contenders (`etcdctl lock`, Go clients). */
  readonly value?: TurnValue;
}

/** A contender from its key, or undefined when the key only lies below the line (another lock_key's, for example). */
export function readContender(space: Pick<Keyspace, "line">, kv: KeyValue): Contender | undefined {
  if (!/^[0-9a-f]+$/.test(kv.key.slice(space.line.length))) return undefined;
  const value = readTurnValue(kv.value);
  return {
    key: kv.key,
    lease: kv.lease,
    create: kv.createRevision,
    mod: kv.modRevision,
    permanent: kv.lease === "0",
    ...(value && { value }),
  };
}
