/** The pause between the verified end of one reboot and the next fence of the group: a leased key per ended turn. */
import type { KeyValue, Op } from "../store/store.ts";
import { type Keyspace, readObject } from "./keys.ts";
import type { Gate } from "./policy.ts";

/** The cooldown gate from the keys that a snapshot found. While any of them lives, nobody of the group is fenced. */
export function cooldownGate(found: readonly KeyValue[]): Gate {
  const kv = found.at(-1);
  if (kv === undefined) return { name: "cooldown", open: true, why: "" };
  const record = readObject(kv.value);
  const node = typeof record?.["node"] === "string" ? record["node"] : "?";
  const since = typeof record?.["started_at"] === "string" ? record["started_at"] : "?";
  return {
    name: "cooldown",
    open: false,
    why: `${node} was verified at ${since}; waiting out min_reboot_interval_sec`,
  };
}

/** The put that starts the cooldown; `lease` must live as long as the cooldown. It belongs into the transaction that ends the turn. */
export function cooldownPut(
  space: Keyspace,
  lease: string,
  facts: { readonly turnId: string; readonly node: string; readonly startedAt: string; readonly durationSec: number },
): Op {
  const value = { node: facts.node, started_at: facts.startedAt, duration_sec: facts.durationSec };
  return { put: space.cooldown + facts.turnId, value: JSON.stringify(value), lease };
}
