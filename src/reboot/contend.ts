/** The acts of a contender, from getting in line to the fence, and leaving. */
import { isoTime } from "../kernel/clock.ts";
import { Fault, isFault } from "../kernel/errors.ts";
import { call, type Place } from "../turn/context.ts";
import { fence, type Snapshot, snapshot, YOUTH_TTL_SEC } from "../turn/fence.ts";
import { placeInWords } from "../turn/line.ts";
import { LeaseKeeper } from "../turn/live.ts";
import { enter, type LineRead, LineWatch, leave } from "../turn/queue.ts";
import { lookAround, lookOnceMore } from "./gates.ts";
import { GhostHunt } from "./ghosts.ts";
import type { FactOf, Look, State } from "./machine.ts";
import type { Contention, NodeState } from "./node.ts";
import type { TurnRecord } from "./ports.ts";

/** How long a waiter relies on its watch before it reads the line again, ms (step 3). */
const RELIST_MS = 30_000;

export class Contending {
  readonly #node: NodeState;
  readonly #ghosts: GhostHunt;

  constructor(node: NodeState) {
    this.#node = node;
    const { log, settings } = node.ports;
    this.#ghosts = new GhostHunt(node.turn, log, settings.maxHoldMs);
  }

  async join(reason: string): Promise<FactOf["joining"]> {
    const { store, clock, settings } = this.#node.ports;
    this.#node.drop();
    const ticket = { turnId: clock.uuid(), reason, queuedAt: isoTime(clock.now()) };
    // A new lease for every contention: one used before could still bring back an old key.
    const lease = await store.grant(call("turn.lease", this.#node.signal), settings.lockTtlSec);
    const keeper = new LeaseKeeper(this.#node.turn, lease, settings.lockTtlSec, "turn.keep");
    try {
      for (;;) {
        try {
          const place = await enter(this.#node.turn, ticket, lease, AbortSignal.any([this.#node.signal, keeper.dead]));
          this.#node.contention = { keeper, watch: new LineWatch(this.#node.turn, place), waitMs: 0, attempts: 1 };
          return { place, why: "" };
        } catch (error) {
          if (!isFault(error, "store.unknown") || this.#node.signal.aborted || keeper.dead.aborted) throw error;
          await clock.sleep(settings.backoffMinMs / 5, this.#node.signal);
        }
      }
    } catch (error) {
      keeper.stop();
      // Without the lease a put that is still on its way cannot land. If this fails too, the lease runs out by itself.
      await leave(this.#node.turn, lease).catch((second: unknown) => {
        if (!isFault(second, "store")) throw second;
      });
      if (isFault(error, "turn") || isFault(error, "store.no-lease")) return { place: undefined, why: error.message };
      throw error;
    }
  }

  async wait(state: Extract<State, { at: "waiting" }>): Promise<FactOf["waiting"]> {
    const { settings, clock, probes } = this.#node.ports;
    const contention = this.#held();
    const signal = this.#node.under();
    const interval = settings.rules.checkIntervalMs;
    const untilLook = Math.max(0, state.rechecked + interval - clock.monotonic());
    const longest = Math.min(contention.waitMs, untilLook, this.#ghosts.patienceMs);
    const read = await contention.watch.next(longest, signal);
    await this.#node.seen.observe(read);
    const { position } = read;
    const owns = position?.owns ?? false;
    contention.waitMs = owns ? 0 : RELIST_MS;
    const { machine } = this.#node.ports.self;
    const due = position !== undefined && clock.monotonic() - state.rechecked >= interval;
    const look = due
      ? await lookAround(probes, contention.attempts, (phase, verdict) => this.#node.tell(phase, verdict), signal)
      : undefined;
    const shared = owns ? await this.#snapshot(state.place, signal) : undefined;
    if (!owns) await this.#ghosts.consider(read, () => this.#snapshot(state.place, signal), signal);
    return {
      ahead: position?.ahead,
      owns,
      // Mine by machine, not by key: a restored store can bring an old turn of this machine back, and then it would wait behind itself.
      permanent: read.line.some((contender) => contender.permanent && contender.value?.machine === machine),
      shared: shared?.gates ?? [],
      look,
      words: inWords(read),
    };
  }

  #held(): Contention {
    if (this.#node.contention === undefined)
      throw new Fault("turn.lease-lost", "there is no place in line to go on with", { retry: "later" });
    return this.#node.contention;
  }

  async #snapshot(place: Place, signal: AbortSignal): Promise<Snapshot> {
    const snap = await snapshot(this.#node.turn, place.key, this.#node.ports.settings.policy, signal);
    await this.#node.seen.observe(snap);
    return snap;
  }

  async check(): Promise<Look> {
    const { probes } = this.#node.ports;
    const attempts = this.#node.contention?.attempts ?? 1;
    return await lookOnceMore(
      probes,
      attempts,
      (phase, verdict) => this.#node.tell(phase, verdict),
      this.#node.under(),
    );
  }

  async fence(place: Place): Promise<FactOf["fencing"]> {
    const { store, clock, memory, probes, settings } = this.#node.ports;
    const signal = this.#node.under();
    const snap = await this.#snapshot(place, signal);
    const { me } = snap;
    if (me === undefined || me.create !== place.create || me.lease !== place.lease) return { kind: "gone" };
    if (snap.position?.owns !== true) return { kind: "changed" };
    const gates = [...(await probes.quick()), ...snap.gates];
    if (gates.some((gate) => !gate.open)) return { kind: "closed", gates };
    if (settings.rules.mode !== "run") return { kind: "ready" };
    await this.#node.seen.save();
    await memory.saveTurn(await this.#newRecord(place, snap.storeId));
    // The deadline of the command counts from here: however slow the disk was and the grant is, the command starts while the youth lives.
    const sentAt = clock.boottime();
    const youth = await store.grant(call("turn.youth", signal), YOUTH_TTL_SEC);
    signal.throwIfAborted();
    // From here on nothing cuts the call short but its own deadline: its answer decides.
    try {
      const fenced = await fence(this.#node.turn, place, { ...snap, me }, youth);
      if (fenced === undefined) return { kind: "changed" };
      this.#node.live.forget();
      return { kind: "fenced", fenced, sentAt };
    } catch (error) {
      if (isFault(error, "store.unknown")) return { kind: "unknown", mod: me.mod, why: error.message };
      if (isFault(error, "store.no-lease")) return { kind: "changed" };
      throw error;
    } finally {
      this.#node.live.forget();
    }
  }

  async #newRecord(place: Place, storeId: string): Promise<TurnRecord> {
    const { memory, self } = this.#node.ports;
    const failures = (await memory.loadTurn())?.failures ?? 0;
    const { turnId, key, lease, create, reason, queuedAt } = place;
    return {
      schema: 1,
      state: "open",
      turnId,
      key,
      lease,
      create,
      reason,
      queuedAt,
      bootId: self.bootId,
      storeId,
      failures,
    };
  }

  async leave(lease: string): Promise<FactOf["leaving"]> {
    const { memory } = this.#node.ports;
    if (lease !== "0") await leave(this.#node.turn, lease);
    this.#node.drop();
    // With the lease every fence of this contention is impossible, so nothing is open any more.
    const record = await memory.loadTurn();
    if (record?.state === "open" && record.lease === lease) await memory.saveTurn({ ...record, state: "closed" });
    return {};
  }
}

/** "third in line, behind node-2 (rebooting) and node-4". */
function inWords(read: LineRead): string {
  const { position } = read;
  if (position === undefined) return "not in line";
  const names = position.before.map((contender) => {
    const value = contender.value;
    return value ? `${value.node}${value.phase === "rebooting" ? " (in its turn)" : ""}` : "a foreign lock";
  });
  const shown = names.length > 3 ? [...names.slice(0, 3), `${names.length - 3} more`] : names;
  return names.length === 0 ? placeInWords(0) : `${placeInWords(position.ahead)}, behind ${shown.join(", ")}`;
}
