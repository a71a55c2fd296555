/** My own marks in the store: the live health record, the roster entry, and the sign that this daemon runs in this boot. */
import { isoTime } from "../kernel/clock.ts";
import { EXIT, Fault, isFault } from "../kernel/errors.ts";
import { add64, type Int64, type Store } from "../store/store.ts";
import { call, type TurnContext } from "./context.ts";
import type { LiveHealth } from "./fence.ts";
import { type Keyspace, keyspace, readObject } from "./keys.ts";
import { readLine } from "./line.ts";
import { type HealthRecord, type RosterEntry, readHealthRecord, readRosterEntry } from "./roster.ts";

/** A finished run of the health script, as far as others care. */
export interface Report {
  readonly healthy: boolean;
  readonly stage: string;
  readonly reason?: string;
}

/**
 * The live record `cluster_health/<name>`: written when the verdict changes, and kept alive only by completed scripts. Written by
 * comparing with the revision last seen, so that a report that arrives late cannot undo the "down" that a fence wrote.
 */
export class LiveRecord {
  readonly #ctx: TurnContext;
  readonly #ttlSec: number;
  #lease: Int64 | undefined;
  /** Mod-revision of my record as last seen; "0": not there; undefined: to be read. */
  #seen: Int64 | undefined;
  #said: string | undefined;

  /** `ttlSec`: how long silence may last before peers count this machine as down. */
  constructor(ctx: TurnContext, ttlSec: number) {
    this.#ctx = ctx;
    this.#ttlSec = ttlSec;
  }

  /** The record for a report, on a lease that is alive now: for the transactions that end or withdraw a turn. */
  async mark(report: Report, signal?: AbortSignal): Promise<LiveHealth> {
    const { store } = this.#ctx;
    const alive = this.#lease !== undefined && (await store.keepAlive(call("live.keep", signal), this.#lease)) > 0;
    const lease =
      alive && this.#lease !== undefined ? this.#lease : await store.grant(call("live.grant", signal), this.#ttlSec);
    this.#lease = lease;
    return { record: this.#record(report), lease };
  }

  /** Something else has written my record (a fence, the end of a turn): look again before the next report. */
  forget(): void {
    this.#seen = undefined;
    this.#said = undefined;
  }

  /** Tells peers how I am. Outside turns only. Faults: the store's, `roster.taken` when another machine uses my name. */
  async report(report: Report, signal?: AbortSignal): Promise<void> {
    const said = `${report.healthy} ${report.stage} ${report.reason ?? ""}`;
    const before = this.#lease;
    const live = await this.mark(report, signal);
    if (live.lease === before && said === this.#said) return;
    const { space, store, self } = this.#ctx;
    const key = space.health + self.node;
    for (;;) {
      this.#seen ??= await this.#read(key, signal);
      const to = this.#seen;
      // Until the answer is there, what stands in the store is not known.
      this.forget();
      const answer = await store.txn(call("live.report", signal), {
        if: [{ target: "mod", key, is: "=", to }],
        then: [{ put: key, value: JSON.stringify(live.record), lease: live.lease }],
      });
      if (!answer.succeeded) continue;
      this.#seen = answer.revision;
      this.#said = said;
      return;
    }
  }

  async #read(key: string, signal?: AbortSignal): Promise<Int64> {
    const { store, self } = this.#ctx;
    const kv = (await store.range(call("live.read", signal), key)).kvs[0];
    const record = kv && readHealthRecord(kv.value);
    if (record && record.machine !== self.machine) throw nameTaken(self.node, "live record");
    return kv?.modRevision ?? "0";
  }

  #record(report: Report): HealthRecord {
    const { self, clock } = this.#ctx;
    const { healthy, stage, reason } = report;
    const reported = isoTime(clock.now());
    return {
      node: self.node,
      machine: self.machine,
      healthy,
      stage,
      ...(reason !== undefined && { reason }),
      reported_at: reported,
    };
  }
}

/** What everybody is told when two machines use one name. */
export function nameTaken(node: string, where: string): Fault {
  return new Fault(
    "roster.taken",
    `another machine is already known as ${node} (${where}); give one of them another node_name, or, if that machine is gone, forget it: rota reboot forget ${node} --reason "..."`,
  );
}

/** Puts this machine on the roster unless it is there. Faults: the store's, `roster.taken`. */
export async function enrol(ctx: TurnContext, signal?: AbortSignal): Promise<void> {
  const { space, store, self, clock } = ctx;
  const key = space.roster + self.node;
  const fresh: RosterEntry = {
    node: self.node,
    machine: self.machine,
    group: space.lockKey,
    first_seen: isoTime(clock.now()),
  };
  let entry = fresh;
  for (let mod = "0"; ; ) {
    const answer = await store.txn(call("roster.enrol", signal), {
      if: [{ target: "mod", key, is: "=", to: mod }],
      then: [{ put: key, value: JSON.stringify(entry) }],
      else: [{ get: key }],
    });
    if (answer.succeeded) return;
    // It is there, or has changed: judge what is there now, and write only over that.
    const kv = answer.reads[0]?.[0];
    const found = kv && readRosterEntry(kv.value);
    if (found && found.machine !== self.machine) throw nameTaken(self.node, "roster");
    if (found?.group === space.lockKey) return;
    // Unreadable, or the same machine moved to another group: the roster follows, and keeps the date.
    entry = found ? { ...fresh, first_seen: found.first_seen } : fresh;
    mod = kv?.modRevision ?? "0";
  }
}

/** Keeps one lease alive until told to stop; `dead` aborts as soon as it is gone, or has not been confirmed for a whole TTL. */
export class LeaseKeeper {
  readonly lease: Int64;
  readonly #dead = new AbortController();
  readonly #stop = new AbortController();

  constructor(ctx: TurnContext, lease: Int64, ttlSec: number, label: string) {
    this.lease = lease;
    void this.#keep(ctx, ttlSec, label);
  }

  /** Aborted when the lease is lost. */
  get dead(): AbortSignal {
    return this.#dead.signal;
  }

  stop(): void {
    this.#stop.abort();
  }

  async #keep(ctx: TurnContext, ttlSec: number, label: string): Promise<void> {
    const { store, clock } = ctx;
    const signal = this.#stop.signal;
    let good = clock.boottime();
    let failed = false;
    try {
      while (!signal.aborted) {
        // After a failure sooner: with thirds, two lost answers in a row would cost the place in line.
        await clock.sleep((ttlSec * 1000) / (failed ? 12 : 3), signal);
        const sent = clock.boottime();
        try {
          if ((await store.keepAlive(call(label, signal), this.lease)) === 0) break;
          good = sent;
          failed = false;
        } catch (error) {
          if (!isFault(error, "store")) throw error;
          failed = true;
        }
        if (clock.boottime() - good > ttlSec * 1000) break;
      }
    } catch (error) {
      if (!signal.aborted) this.#dead.abort(error);
      return;
    }
    if (!signal.aborted)
      this.#dead.abort(
        new Fault("turn.lease-lost", "the lease of this node's place in line is gone", { retry: "later" }),
      );
  }
}

/** Holds up the sign that this daemon runs in this boot, until `signal` aborts. Faults of the store are told to `trouble` and tried again. */
export async function showAlive(
  ctx: TurnContext,
  ttlSec: number,
  signal: AbortSignal,
  trouble: (error: unknown) => void,
): Promise<void> {
  const { store, clock, space, self } = ctx;
  const key = space.alive + self.machine;
  const value = JSON.stringify({ node: self.node, boot_id: self.bootId, pid: self.pid, since: isoTime(clock.now()) });
  while (!signal.aborted) {
    try {
      const lease = await store.grant(call("alive.grant", signal), ttlSec);
      await store.txn(call("alive.put", signal), { then: [{ put: key, value, lease }] });
      const keeper = new LeaseKeeper(ctx, lease, ttlSec, "alive.keep");
      await new Promise<void>((resolve) => {
        for (const end of [keeper.dead, signal]) end.addEventListener("abort", () => resolve(), { once: true });
        if (signal.aborted) resolve();
      });
      keeper.stop();
      if (signal.aborted) return await store.revoke({ label: "alive.end", timeoutMs: 2_000 }, lease);
    } catch (error) {
      if (signal.aborted) return;
      trouble(error);
      await clock.sleep((ttlSec * 1000) / 3, signal).catch(() => undefined);
    }
  }
}

/** Takes a node off the roster, with its live record. Faults: `turn.refused` while it is in line or its daemon is alive, `roster.unknown`. */
export async function forget(store: Store, space: Keyspace, node: string, signal?: AbortSignal): Promise<void> {
  const key = space.roster + node;
  const health = space.health + node;
  const known = (await store.range(call("roster.forget", signal), key)).kvs[0];
  const entry = readRosterEntry(known?.value ?? "");
  // Its line and its sign of life are those of its own group, whichever group's configuration the operator has at hand.
  const home = entry === undefined || entry.group === space.lockKey ? space : keyspace(entry.group);
  const seen = await store.txn(call("roster.forget", signal), {
    then: [
      { get: key },
      { get: health },
      { get: home.line, rangeEnd: home.lineEnd },
      { get: home.alive, rangeEnd: home.aliveEnd },
    ],
  });
  const [roster, record] = [seen.reads[0]?.[0], seen.reads[1]?.[0]];
  if (roster === undefined && record === undefined)
    throw new Fault("roster.unknown", `nobody on the roster is called ${node}`);
  const changed = () =>
    new Fault("turn.changed", "the line or the roster has changed meanwhile; try again", { retry: "later" });
  if (roster?.modRevision !== known?.modRevision) throw changed();
  const refuse = (why: string) =>
    new Fault("turn.refused", `${node} is not forgotten: ${why}`, { exitCode: EXIT.health });
  if (readLine(home, seen.reads[2] ?? []).some((contender) => contender.value?.node === node))
    throw refuse("it is in line or in its turn; end that first with `release`");
  const machine = entry?.machine;
  const alive = seen.reads[3]?.find((kv) => kv.key === home.alive + machine);
  // A machine that was renamed lives on under its new name, and must not keep the old one on the roster for ever.
  const name = alive && (readObject(alive.value)?.["node"] ?? node);
  if (name === node) throw refuse("its daemon is alive; stop it first");
  const answer = await store.txn(call("roster.forget", signal), {
    if: [
      { target: "mod", key, is: "=", to: roster?.modRevision ?? "0" },
      { target: "mod", key: home.line, rangeEnd: home.lineEnd, is: "<", to: add64(seen.revision, 1) },
    ],
    then: [{ delete: key }, { delete: health }, ...(machine === undefined ? [] : [{ delete: home.ghosts + machine }])],
  });
  if (!answer.succeeded) throw changed();
}
