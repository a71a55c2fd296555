/** Who belongs (roster, without a lease) and who is well (live records, with one). Silence is not health. */
import type { KeyValue } from "../store/store.ts";
import { type Keyspace, readObject } from "./keys.ts";

/** `nodes/<name>`: this machine belongs to the fleet until somebody says `forget`. */
export interface RosterEntry {
  readonly node: string;
  readonly machine: string;
  readonly group: string;
  readonly first_seen: string;
}

/** `cluster_health/<name>`: the last verdict. Leased while the daemon's health script completes; without a lease during a turn. */
export interface HealthRecord {
  readonly node: string;
  readonly machine: string;
  readonly healthy: boolean;
  /** Phase of the health script, or "turn". */
  readonly stage: string;
  readonly reason?: string;
  readonly reported_at: string;
  /** The turn that this machine is in; absent outside turns. */
  readonly turn?: string;
}

function textFields(value: Record<string, unknown> | undefined, fields: readonly string[]): boolean {
  return value !== undefined && fields.every((field) => typeof value[field] === "string" && value[field] !== "");
}

/** A roster entry from its text, or undefined when it is none. */
export function readRosterEntry(text: string): RosterEntry | undefined {
  const value = readObject(text);
  return textFields(value, ["node", "machine", "group"]) ? (value as unknown as RosterEntry) : undefined;
}

/** A live record from its text, or undefined when it is none. */
export function readHealthRecord(text: string): HealthRecord | undefined {
  const value = readObject(text);
  const good = textFields(value, ["node", "machine"]) && typeof value?.["healthy"] === "boolean";
  return good ? (value as unknown as HealthRecord) : undefined;
}

/** What is known of one node of the fleet at one revision. */
export interface NodeView {
  readonly node: string;
  readonly machine: string;
  readonly group: string;
  readonly health?: HealthRecord;
}

export interface Fleet {
  readonly nodes: readonly NodeView[];
  /** Keys whose value could not be read, or whose name and value disagree: ignored, but to be warned about. */
  readonly garbage: readonly string[];
}

/** Joins roster and live records. Nobody is in the fleet who is not in the roster; a record of another machine under the same name does not count. */
export function readFleet(space: Keyspace, roster: readonly KeyValue[], health: readonly KeyValue[]): Fleet {
  const garbage: string[] = [];
  const records = new Map<string, HealthRecord>();
  for (const kv of health) {
    const record = readHealthRecord(kv.value);
    if (record === undefined || space.health + record.node !== kv.key) garbage.push(kv.key);
    else records.set(record.node, record);
  }
  const nodes: NodeView[] = [];
  for (const kv of roster) {
    const entry = readRosterEntry(kv.value);
    if (entry === undefined || space.roster + entry.node !== kv.key) {
      garbage.push(kv.key);
      continue;
    }
    const record = records.get(entry.node);
    const own = record?.machine === entry.machine ? record : undefined;
    nodes.push({ node: entry.node, machine: entry.machine, group: entry.group, ...(own && { health: own }) });
  }
  return { nodes, garbage };
}
