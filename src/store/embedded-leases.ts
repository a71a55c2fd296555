/** The embedded store's leases: who is due when, on the clock it was given. TTLs are on disk, deadlines are not (as in etcd). */
import type { Clock } from "../kernel/clock.ts";
import type { Int64 } from "./store.ts";

interface Lease {
  readonly ttl: number;
  readonly owner: string;
  /** On clock.monotonic(), ms. */
  deadline: number;
}

/** Longest TTL that etcd grants, seconds (lease.MaxLeaseTTL). */
export const MAX_TTL_SEC = 9_000_000_000;

/** After a start every lease gets its full TTL again: nobody could renew it while the store was away. */
export class Leases {
  readonly #clock: Clock;
  readonly #all = new Map<Int64, Lease>();
  /** No lease is due before this; it may be too early, never too late. */
  #next = Number.POSITIVE_INFINITY;
  #timer: { at: number; stop: AbortController } | undefined;
  readonly #due: () => void;

  /** `due` is called soon after some lease may have run out; it asks `overdue()`. */
  constructor(clock: Clock, known: readonly { id: Int64; ttl: number; owner: string }[], due: () => void) {
    this.#clock = clock;
    this.#due = due;
    for (const { id, ttl, owner } of known) this.add(id, ttl, owner);
  }

  has(id: Int64): boolean {
    return this.#all.has(id);
  }

  add(id: Int64, ttl: number, owner: string): void {
    const deadline = this.#clock.monotonic() + ttl * 1000;
    this.#all.set(id, { ttl, owner, deadline });
    this.#next = Math.min(this.#next, deadline);
    this.#arm();
  }

  remove(id: Int64): void {
    this.#all.delete(id);
  }

  /** Gives a lease its full TTL again; resolves to that TTL in seconds, 0 when there is no such lease. */
  renew(id: Int64): number {
    const lease = this.#all.get(id);
    if (lease === undefined) return 0;
    lease.deadline = this.#clock.monotonic() + lease.ttl * 1000;
    return lease.ttl;
  }

  /** Makes an overdue lease due again in `ms`: it could not be ended just now. */
  postpone(id: Int64, ms: number): void {
    const lease = this.#all.get(id);
    if (lease === undefined) return;
    lease.deadline = this.#clock.monotonic() + ms;
    this.#next = Math.min(this.#next, lease.deadline);
    this.#arm();
  }

  /** Seconds left (may be a fraction) and seconds granted. */
  remaining(id: Int64): { left: number; granted: number } | undefined {
    const lease = this.#all.get(id);
    if (lease === undefined) return undefined;
    return { left: (lease.deadline - this.#clock.monotonic()) / 1000, granted: lease.ttl };
  }

  /** Whom a lease was granted to; undefined when there is no such lease. */
  owner(id: Int64): string | undefined {
    return this.#all.get(id)?.owner;
  }

  ids(): Int64[] {
    return [...this.#all.keys()];
  }

  /** Leases whose time is over, the longest overdue first. Cheap when none is. */
  overdue(): Int64[] {
    const now = this.#clock.monotonic();
    if (now < this.#next) return [];
    const over: [Int64, Lease][] = [];
    let next = Number.POSITIVE_INFINITY;
    for (const [id, lease] of this.#all) {
      if (lease.deadline <= now) over.push([id, lease]);
      else next = Math.min(next, lease.deadline);
    }
    this.#next = next;
    this.#arm();
    return over.sort((a, b) => a[1].deadline - b[1].deadline || (a[0] < b[0] ? -1 : 1)).map(([id]) => id);
  }

  /** No more timers. */
  close(): void {
    this.#timer?.stop.abort();
    this.#timer = undefined;
    this.#next = Number.POSITIVE_INFINITY;
    this.#all.clear();
  }

  /** One sleeper, for the earliest deadline; a lease that becomes due even earlier wakes it. */
  #arm(): void {
    if (this.#timer !== undefined && this.#timer.at <= this.#next) return;
    this.#timer?.stop.abort();
    this.#timer = undefined;
    if (this.#next === Number.POSITIVE_INFINITY) return;
    const timer = { at: this.#next, stop: new AbortController() };
    this.#timer = timer;
    // A millisecond more than needed: timers may fire a fraction early, and then nothing would be due yet.
    const wait = Math.max(0, this.#next - this.#clock.monotonic()) + 1;
    this.#clock.sleep(wait, timer.stop.signal).then(
      () => {
        if (this.#timer !== timer) return;
        this.#timer = undefined;
        this.#due();
        this.#arm();
      },
      () => undefined, // aborted: an earlier deadline has its own sleeper, or the store was closed
    );
  }
}
