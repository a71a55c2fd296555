/** The stop that operators set for everybody or for one group, and that Rota sets itself when the store went back in time. */
import { isoTime } from "../kernel/clock.ts";
import type { Call, KeyValue, Store } from "../store/store.ts";
import { EVERYBODY, type Keyspace, readObject } from "./keys.ts";
import type { Gate } from "./policy.ts";

export interface StopRecord {
  readonly who: string;
  readonly why: string;
  readonly since: string;
  readonly until?: string;
}

/** The stop gate from the stop keys that a snapshot found. An unreadable stop is a stop. */
export function stopGate(found: readonly KeyValue[]): Gate {
  return { name: "stop", open: found.length === 0, why: found.map(inWords).join("; ") };
}

function inWords(kv: KeyValue): string {
  const record = readObject(kv.value);
  const text = (field: string) => (typeof record?.[field] === "string" ? (record[field] as string) : "?");
  const until = typeof record?.["until"] === "string" ? ` until ${record["until"]}` : "";
  const which = kv.key === EVERYBODY ? "" : " (this group only)";
  return `stopped${which} by ${text("who")} since ${text("since")}${until}: ${text("why")}`;
}

/** The stops that are set now. */
export async function findStops(
  store: Store,
  space: Keyspace,
  call: Call,
): Promise<readonly { readonly why: string; readonly group: boolean }[]> {
  const { reads } = await store.txn(call, { then: space.stops.map((get) => ({ get })) });
  return reads.flat().map((kv) => ({ why: inWords(kv), group: kv.key !== EVERYBODY }));
}

/** Sets the stop for everybody (`everywhere`) or for this group, unless one is set already; `forSec` makes it end by itself. Resolves to whether it was set. */
export async function setStop(
  store: Store,
  space: Keyspace,
  call: Call,
  stop: {
    readonly who: string;
    readonly why: string;
    readonly now: number;
    readonly everywhere: boolean;
    readonly forSec?: number;
  },
): Promise<boolean> {
  const key = space.stops[stop.everywhere ? 0 : 1];
  const lease = stop.forSec === undefined ? undefined : await store.grant(call, stop.forSec);
  const record: StopRecord = {
    who: stop.who,
    why: stop.why,
    since: isoTime(stop.now),
    ...(stop.forSec !== undefined && { until: isoTime(stop.now + stop.forSec * 1000) }),
  };
  const set = await store.txn(call, {
    if: [{ target: "create", key, is: "=", to: "0" }],
    then: [{ put: key, value: JSON.stringify(record), ...(lease !== undefined && { lease }) }],
  });
  // One that was set already keeps its own end; the lease that was meant for this one would only lie about.
  if (!set.succeeded && lease !== undefined) await store.revoke(call, lease);
  return set.succeeded;
}

/** Removes the stop for everybody or for this group; resolves to whether there was one. */
export async function clearStop(store: Store, space: Keyspace, call: Call, everywhere: boolean): Promise<boolean> {
  const key = space.stops[everywhere ? 0 : 1];
  const cleared = await store.txn(call, {
    if: [{ target: "create", key, is: ">", to: "0" }],
    then: [{ delete: key }],
  });
  return cleared.succeeded;
}
