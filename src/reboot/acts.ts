/** The act of every state: the talk with the store, the scripts and the host. Decides nothing; reports facts to the machine. */
import { isoTime } from "../kernel/clock.ts";
import { Fault, isFault } from "../kernel/errors.ts";
import { call, type Fenced, type Place, type TurnContext } from "../turn/context.ts";
import { EXEC_DEADLINE_MS, fence, type Snapshot, settle, snapshot, withdraw, YOUTH_TTL_SEC } from "../turn/fence.ts";
import { placeInWords } from "../turn/line.ts";
import { enrol, LeaseKeeper, LiveRecord, type Report } from "../turn/live.ts";
import { enter, LineWatch, leave, type LineRead, writeOwned } from "../turn/queue.ts";
import { endTurn, survey, turnOf } from "../turn/recover.ts";
import { setStop } from "../turn/stop.ts";
import { GhostHunt } from "./ghosts.ts";
import { lookAround, lookOnceMore } from "./gates.ts";
import type { FactOf, Look, State } from "./machine.ts";
import type { HealthVerdict, Launched, Ports, TurnRecord } from "./ports.ts";
import { Seen } from "./seen.ts";

/** How long a waiter relies on its watch before it reads the line again, ms (step 3). */
const RELIST_MS = 30_000;
/** How often a machine that should be going down looks whether it is, ms. */
const GOING_DOWN_MS = 1_000;

/** One time in the line, from the grant of its lease to its end. */
interface Contention {
  readonly keeper: LeaseKeeper;
  readonly watch: LineWatch;
  /** Longest wait before the next reading of the line, ms; 0 at first, so that nothing is missed. */
  waitMs: number;
  attempts: number;
}

interface Command {
  readonly launched: Launched;
  /** How it ended, once it has. */
  ended?: { readonly ok: boolean; readonly why: string };
}

type In<S extends State["at"]> = Extract<State, { at: S }>;
type ActTable = { readonly [S in State["at"]]: (state: In<S>) => Promise<FactOf[S]> };

export class Acts {
  readonly turn: TurnContext;
  readonly #ports: Ports;
  readonly #signal: AbortSignal;
  readonly #live: LiveRecord;
  readonly #seen: Seen;
  readonly #ghosts: GhostHunt;
  #contention: Contention | undefined;
  #command: Command | undefined;
  /** Last report of the health script, to be put back when a turn is withdrawn. */
  #report: Report = { healthy: false, stage: "starting", reason: "not known yet" };

  constructor(ports: Ports, signal: AbortSignal) {
    const { store, space, clock, self, settings } = ports;
    this.turn = { store, space, clock, self };
    this.#ports = ports;
    this.#signal = signal;
    this.#live = new LiveRecord(this.turn, settings.liveTtlSec);
    this.#seen = new Seen(ports.memory);
    this.#ghosts = new GhostHunt(this.turn, ports.log, settings.maxHoldMs);
  }

  /** The lease of the place in line is gone. */
  get placeLost(): boolean {
    return this.#contention?.keeper.dead.aborted ?? true;
  }

  carryOut(state: State): Promise<FactOf[State["at"]]> {
    return (this.#table[state.at] as (state: State) => Promise<FactOf[State["at"]]>)(state);
  }

  readonly #table: ActTable = {
    starting: () => this.#start(),
    refused: async () => ({}),
    halting: (state) => this.#halt(state.why),
    steady: () => this.#look(),
    joining: (state) => this.#join(state.reason),
    waiting: (state) => this.#wait(state),
    owning: async ({ place }) => ({ mine: await writeOwned(this.turn, place, this.#under()) }),
    checking: () => this.#check(),
    fencing: (state) => this.#fence(state.place),
    settling: ({ place, mod }) => settle(this.turn, place, mod),
    launching: (state) => this.#launch(state.fenced, state.sentAt),
    withdrawing: (state) => this.#withdraw(state),
    rebooting: (state) => this.#goDown(state.until),
    aftermath: (state) => this.#settleDown(state.held.place.turnId, state.until),
    recovering: (state) => this.#recover(state.held.place.turnId),
    finishing: (state) => this.#finish(state),
    leaving: (state) => this.#leave(state.lease),
  };

  /** The signal for what may go on only while the place in line lives. */
  #under(): AbortSignal {
    const dead = this.#contention?.keeper.dead;
    return dead ? AbortSignal.any([this.#signal, dead]) : this.#signal;
  }

  async #start(): Promise<FactOf["starting"]> {
    const { memory, self, settings, log } = this.#ports;
    this.#drop();
    this.#live.forget();
    let record = await memory.loadTurn();
    if (record?.state === "closed") record = undefined;
    // What an earlier process left in the line goes first; its lease may also still bring a late put.
    const leases = new Set<string>();
    const unfenced = record?.state === "open" && record.bootId === self.bootId ? record : undefined;
    if (unfenced) leases.add(unfenced.lease);
    let found = await survey(this.turn, this.#signal);
    for (const contender of found.leased) leases.add(contender.lease);
    for (const lease of leases) {
      log("info", "left_over", "leaving the line where an earlier run of this daemon stood", { lease_id: lease });
      await leave(this.turn, lease, this.#signal);
    }
    if (leases.size > 0) found = await survey(this.turn, this.#signal);
    await this.#seen.observe(found);
    await this.#seen.save();
    if (unfenced && found.turn === undefined) {
      await memory.saveTurn({ ...unfenced, state: "closed" });
      record = undefined;
    }
    // A turn is ended first, whatever the roster says: a verified node must not be kept in it.
    if (found.turn === undefined && record === undefined) await enrol(this.turn, this.#signal);
    const fenced = found.turn && withLease(turnOf(found.turn), record);
    const until = record?.launchedAt === undefined ? undefined : record.launchedAt + settings.rules.graceMs;
    const { namesake } = found;
    return {
      turn: fenced && { fenced, bootId: found.turn?.value?.boot_id ?? "" },
      record: record && { place: recordedPlace(record), bootId: record.bootId, until },
      namesake: namesake && `another machine named ${self.node} is in its turn (${namesake.key}); two machines must not share a node_name`,
      bootId: self.bootId,
    };
  }

  async #halt(why: string): Promise<FactOf["halting"]> {
    const { store, space, clock, self, log } = this.#ports;
    this.#drop();
    const stop = { who: `${self.node} (rota)`, why, now: clock.now(), everywhere: true };
    await setStop(store, space, call("turn.halt", this.#signal), stop);
    await this.#seen.accept(await survey(this.turn, this.#signal));
    log("error", "stopped", `everything is stopped until an operator has looked and says "rota reboot resume": ${why}`);
    return {};
  }

  async #look(): Promise<Look> {
    const { probes, self } = this.#ports;
    const found = await survey(this.turn, this.#signal);
    await this.#seen.observe(found);
    await this.#seen.save();
    const strayTurn = found.turn !== undefined || found.leased.length > 0;
    if (strayTurn) return { gates: [], required: false, reason: "", strayTurn };
    if (found.roster === undefined || found.roster.machine !== self.machine) await enrol(this.turn, this.#signal);
    return await lookAround(probes, 0, (phase, verdict) => this.#tell(phase, verdict), this.#signal);
  }

  /** Tells peers about a finished health script. */
  async #tell(stage: string, verdict: HealthVerdict): Promise<void> {
    const { healthy, reason } = verdict;
    this.#report = { healthy, stage, ...(reason !== undefined && { reason }) };
    await this.#live.report(this.#report, this.#signal);
  }

  async #join(reason: string): Promise<FactOf["joining"]> {
    const { store, clock, settings } = this.#ports;
    this.#drop();
    const ticket = { turnId: clock.uuid(), reason, queuedAt: isoTime(clock.now()) };
    // A new lease for every contention: one used before could still bring back an old key.
    const lease = await store.grant(call("turn.lease", this.#signal), settings.lockTtlSec);
    const keeper = new LeaseKeeper(this.turn, lease, settings.lockTtlSec, "turn.keep");
    try {
      for (;;) {
        try {
          const place = await enter(this.turn, ticket, lease, AbortSignal.any([this.#signal, keeper.dead]));
          this.#contention = { keeper, watch: new LineWatch(this.turn, place), waitMs: 0, attempts: 1 };
          return { place, why: "" };
        } catch (error) {
          if (!isFault(error, "store.unknown") || this.#signal.aborted || keeper.dead.aborted) throw error;
          await clock.sleep(settings.backoffMinMs / 5, this.#signal);
        }
      }
    } catch (error) {
      keeper.stop();
      // Without the lease a put that is still on its way cannot land. If this fails too, the lease runs out by itself.
      await leave(this.turn, lease).catch((second: unknown) => {
        if (!isFault(second, "store")) throw second;
      });
      if (isFault(error, "turn") || isFault(error, "store.no-lease")) return { place: undefined, why: error.message };
      throw error;
    }
  }

  async #wait(state: In<"waiting">): Promise<FactOf["waiting"]> {
    const { settings, clock, probes } = this.#ports;
    const contention = this.#held();
    const signal = this.#under();
    const interval = settings.rules.checkIntervalMs;
    const untilLook = Math.max(0, state.rechecked + interval - clock.monotonic());
    const longest = Math.min(contention.waitMs, untilLook, this.#ghosts.patienceMs);
    const read = await contention.watch.next(longest, signal);
    await this.#seen.observe(read);
    const { position } = read;
    const owns = position?.owns ?? false;
    contention.waitMs = owns ? 0 : RELIST_MS;
    const mine = read.line.find((contender) => contender.key === state.place.key);
    const due = position !== undefined && clock.monotonic() - state.rechecked >= interval;
    const look = due
      ? await lookAround(probes, contention.attempts, (phase, verdict) => this.#tell(phase, verdict), signal)
      : undefined;
    const shared = owns ? await this.#snapshot(state.place, signal) : undefined;
    if (!owns) await this.#ghosts.consider(read, () => this.#snapshot(state.place, signal), signal);
    return {
      ahead: position?.ahead,
      owns,
      permanent: mine?.permanent ?? false,
      shared: shared?.gates ?? [],
      look,
      words: inWords(read),
    };
  }

  #held(): Contention {
    if (this.#contention === undefined) throw new Fault("turn.lease-lost", "there is no place in line to go on with", { retry: "later" });
    return this.#contention;
  }

  async #snapshot(place: Place, signal: AbortSignal): Promise<Snapshot> {
    const snap = await snapshot(this.turn, place.key, this.#ports.settings.policy, signal);
    await this.#seen.observe(snap);
    return snap;
  }

  async #check(): Promise<Look> {
    const { probes } = this.#ports;
    const attempts = this.#contention?.attempts ?? 1;
    return await lookOnceMore(probes, attempts, (phase, verdict) => this.#tell(phase, verdict), this.#under());
  }

  async #fence(place: Place): Promise<FactOf["fencing"]> {
    const { store, clock, memory, probes, settings } = this.#ports;
    const signal = this.#under();
    const snap = await this.#snapshot(place, signal);
    const { me } = snap;
    if (me === undefined || me.create !== place.create || me.lease !== place.lease) return { kind: "gone" };
    if (snap.position?.owns !== true) return { kind: "changed" };
    const gates = [...(await probes.quick()), ...snap.gates];
    if (gates.some((gate) => !gate.open)) return { kind: "closed", gates };
    if (settings.rules.mode !== "run") return { kind: "ready" };
    const youth = await store.grant(call("turn.youth", signal), YOUTH_TTL_SEC);
    await this.#seen.save();
    await memory.saveTurn(await this.#newRecord(place, snap.storeId));
    signal.throwIfAborted();
    // From here on nothing cuts the call short but its own deadline: its answer decides.
    const sentAt = clock.boottime();
    try {
      const fenced = await fence(this.turn, place, { ...snap, me }, youth);
      if (fenced === undefined) return { kind: "changed" };
      this.#live.forget();
      return { kind: "fenced", fenced, sentAt };
    } catch (error) {
      if (isFault(error, "store.unknown")) return { kind: "unknown", mod: me.mod, why: error.message };
      if (isFault(error, "store.no-lease")) return { kind: "changed" };
      throw error;
    } finally {
      this.#live.forget();
    }
  }

  async #newRecord(place: Place, storeId: string): Promise<TurnRecord> {
    const { memory, self } = this.#ports;
    const failures = (await memory.loadTurn())?.failures ?? 0;
    const { turnId, key, lease, create, reason, queuedAt } = place;
    return { schema: 1, state: "open", turnId, key, lease, create, reason, queuedAt, bootId: self.bootId, storeId, failures };
  }

  async #launch(fenced: Fenced, sentAt: number): Promise<FactOf["launching"]> {
    const { clock, memory, probes, host, settings } = this.#ports;
    const record = await memory.loadTurn();
    const shut = (await probes.quick()).find((gate) => !gate.open);
    const launchedAt = clock.boottime();
    if (record?.turnId !== fenced.place.turnId) return { launched: false, why: "the turn record is not there any more", until: 0 };
    if (shut !== undefined) return { launched: false, why: shut.why, until: 0 };
    // The marker is on disk before the command can be: a crash in between counts as launched, which is slow but safe.
    await memory.saveTurn({ ...record, state: "launched", launchedAt });
    const age = clock.boottime() - sentAt;
    if (age > EXEC_DEADLINE_MS || this.#signal.aborted) {
      await memory.saveTurn(record);
      const why = age > EXEC_DEADLINE_MS ? `the fence was ${Math.round(age)} ms old, too old to reboot on` : "the daemon was stopped";
      return { launched: false, why, until: 0 };
    }
    const launched = host.launch(fenced.place.turnId, fenced.place.reason);
    this.#drop();
    const command: Command = { launched };
    this.#command = command;
    void launched.ended.then((ended) => {
      command.ended = ended;
    });
    return { launched: true, why: "", until: launchedAt + settings.rules.graceMs };
  }

  async #withdraw({ fenced, keep, failures }: In<"withdrawing">): Promise<FactOf["withdrawing"]> {
    const { memory } = this.#ports;
    const live = await this.#live.mark(this.#report);
    const left = await withdraw(this.turn, fenced, live, keep && !this.placeLost);
    this.#live.forget();
    const record = await memory.loadTurn();
    if (record !== undefined) await memory.saveTurn({ ...record, state: "closed", failures });
    if (this.#contention) this.#contention.waitMs = 0;
    return { left };
  }

  async #goDown(until: number): Promise<FactOf["rebooting"]> {
    const { clock } = this.#ports;
    const command = this.#command;
    const left = until - clock.boottime();
    if (command?.ended && !command.ended.ok) return { over: true, why: `the reboot command failed: ${command.ended.why}` };
    if (left <= 0 || command === undefined)
      return { over: true, why: "the machine did not go down within reboot_grace_sec after the reboot command" };
    await clock.sleep(Math.min(left, GOING_DOWN_MS), this.#signal);
    return { over: false, why: command.ended ? "the reboot command has ended; going down" : "the reboot command runs" };
  }

  async #settleDown(turnId: string, until: number): Promise<FactOf["aftermath"]> {
    const { clock, host, memory, probes } = this.#ports;
    const record = await memory.loadTurn();
    const failures = (record?.failures ?? 0) + 1;
    const no = (why: string) => ({ settled: false, why, failures });
    await host.endCommand(turnId);
    const down = await host.goingDown(this.#signal);
    if (down !== undefined) return no(`the system may still go down: ${down}`);
    if (clock.boottime() < until) return no("waiting until reboot_grace_sec is over");
    const verdict = await probes.health("post-reboot", { held: true, attempts: 0 }, this.#signal);
    this.#note("post-reboot", verdict);
    if (!verdict.healthy) return no(`not healthy: ${verdict.reason ?? ""}`);
    // Once more: the script took its time.
    const late = await host.goingDown(this.#signal);
    if (late !== undefined) return no(`the system may still go down: ${late}`);
    const held = (await survey(this.turn, this.#signal)).turn;
    if (held === undefined && record !== undefined) await memory.saveTurn({ ...record, state: "closed", failures });
    return { settled: true, why: "", failures };
  }

  #note(stage: string, { healthy, reason }: HealthVerdict): void {
    this.#report = { healthy, stage, ...(reason !== undefined && { reason }) };
  }

  async #recover(turnId: string): Promise<FactOf["recovering"]> {
    const { probes, log } = this.#ports;
    const verdict = await probes.health("post-reboot", { held: true, attempts: 0 }, this.#signal);
    this.#note("post-reboot", verdict);
    log(verdict.healthy ? "info" : "warn", "post_reboot_health", verdict.reason ?? "", { healthy: verdict.healthy, lock_id: turnId });
    return { healthy: verdict.healthy, why: verdict.reason ?? "" };
  }

  async #finish({ held }: In<"finishing">): Promise<FactOf["finishing"]> {
    const { memory, settings } = this.#ports;
    const { turnId, key } = held.place;
    const live = await this.#live.mark(this.#report);
    const ended = await endTurn(this.turn, { key, mod: held.mod }, { turnId, live, cooldownSec: settings.cooldownSec });
    this.#live.forget();
    if (ended === "ended") {
      const record = await memory.loadTurn();
      if (record !== undefined) await memory.saveTurn({ ...record, state: "closed", failures: 0 });
    }
    return { ended };
  }

  async #leave(lease: string): Promise<FactOf["leaving"]> {
    const { memory } = this.#ports;
    if (lease !== "0") await leave(this.turn, lease);
    this.#drop();
    // With the lease every fence of this contention is impossible, so nothing is open any more.
    const record = await memory.loadTurn();
    if (record?.state === "open" && record.lease === lease) await memory.saveTurn({ ...record, state: "closed" });
    return {};
  }

  /** Forgets the place in line; its lease is not kept alive any more. */
  #drop(): void {
    this.#contention?.watch.close();
    this.#contention?.keeper.stop();
    this.#contention = undefined;
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

function recordedPlace(record: TurnRecord): Place {
  const { turnId, reason, queuedAt, lease, key, create } = record;
  return { turnId, reason, queuedAt, lease, key, create };
}

/** A permanent key does not say which lease it had; the record on disk does, if it is of the same turn. */
function withLease(fenced: Fenced, record: TurnRecord | undefined): Fenced {
  if (record?.turnId !== fenced.place.turnId) return fenced;
  return { ...fenced, place: { ...fenced.place, lease: record.lease } };
}

