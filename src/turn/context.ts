/** What every operation on turns needs: the store, the keys, the clock, and who is asking. */
import type { Clock } from "../kernel/clock.ts";
import type { Call, Int64, Store } from "../store/store.ts";
import type { Keyspace } from "./keys.ts";

/** This machine in this boot. */
export interface Self {
  readonly node: string;
  /** Hash of the machine id. */
  readonly machine: string;
  readonly bootId: string;
  readonly pid: number;
  /** How many of the group may be in their turn at once, as this node's config says. */
  readonly slots: number;
}

export interface TurnContext {
  readonly store: Store;
  readonly space: Keyspace;
  readonly clock: Clock;
  readonly self: Self;
}

/** A place in the line. The key's name comes from the lease, and every contention has a lease of its own. */
export interface Place {
  readonly turnId: string;
  readonly reason: string;
  readonly queuedAt: string;
  readonly lease: Int64;
  readonly key: string;
  readonly create: Int64;
}

/** A turn that is in the store without a lease: the right to be down. */
export interface Fenced {
  readonly place: Place;
  /** Mod-revision of the key since the fence. */
  readonly mod: Int64;
}

/** A call under `label`, ended by `signal`. */
export function call(label: string, signal?: AbortSignal): Call {
  return { label, ...(signal && { signal }) };
}
