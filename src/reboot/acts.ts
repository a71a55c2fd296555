/** The act of every state: the talk with the store, the scripts and the host. Decides nothing; reports facts to the machine. */
import { Fault } from "../kernel/errors.ts";
import { call, type Fenced, type Place, type Self, type TurnContext } from "../turn/context.ts";
import { settle } from "../turn/fence.ts";
import { enrol } from "../turn/live.ts";
import { leave, writeOwned } from "../turn/queue.ts";
import { layGhost, type Survey, survey, turnOf } from "../turn/recover.ts";
import { setStop } from "../turn/stop.ts";
import { Contending } from "./contend.ts";
import { lookAround } from "./gates.ts";
import { Holding } from "./hold.ts";
import type { FactOf, Look, State } from "./machine.ts";
import { NodeState } from "./node.ts";
import type { Ports, TurnRecord } from "./ports.ts";

type In<S extends State["at"]> = Extract<State, { at: S }>;
type ActTable = { readonly [S in State["at"]]: (state: In<S>) => Promise<FactOf[S]> };

export class Acts {
  readonly #node: NodeState;
  readonly #table: ActTable;

  constructor(ports: Ports, signal: AbortSignal) {
    const node = new NodeState(ports, signal);
    const contending = new Contending(node);
    const holding = new Holding(node);
    this.#node = node;
    this.#table = {
      starting: () => this.#start(),
      refused: async () => ({}),
      halting: (state) => this.#halt(state.why),
      steady: () => this.#look(),
      joining: (state) => contending.join(state.reason),
      waiting: (state) => contending.wait(state),
      owning: async ({ place }) => ({ mine: await writeOwned(node.turn, place, node.under()) }),
      checking: () => contending.check(),
      fencing: (state) => contending.fence(state.place),
      settling: ({ place, mod }) => settle(node.turn, place, mod),
      launching: (state) => holding.launch(state.fenced, state.sentAt),
      withdrawing: (state) => holding.withdraw(state),
      rebooting: (state) => holding.goDown(state.until),
      aftermath: (state) => holding.settleDown(state.held.place.turnId, state.until),
      recovering: (state) => holding.recover(state.held.place.turnId),
      finishing: (state) => holding.finish(state),
      leaving: (state) => contending.leave(state.lease),
    };
  }

  get turn(): TurnContext {
    return this.#node.turn;
  }

  /** The lease of the place in line is gone. */
  get placeLost(): boolean {
    return this.#node.placeLost;
  }

  carryOut(state: State): Promise<FactOf[State["at"]]> {
    return (this.#table[state.at] as (state: State) => Promise<FactOf[State["at"]]>)(state);
  }

  async #start(): Promise<FactOf["starting"]> {
    const { memory, self, settings, log, clock } = this.#node.ports;
    this.#node.drop();
    this.#node.live.forget();
    let record = await memory.loadTurn();
    if (record?.state === "closed") record = undefined;
    // What an earlier process left in the line goes first; its lease may also still bring a late put.
    const leases = new Set<string>();
    const unfenced = record?.state === "open" && record.bootId === self.bootId ? record : undefined;
    if (unfenced) leases.add(unfenced.lease);
    const known = record?.key;
    let found = await survey(this.#node.turn, this.#node.signal, known);
    for (const contender of found.leased) leases.add(contender.lease);
    for (const lease of leases) {
      log("info", "left_over", "leaving the line where an earlier run of this daemon stood", { lease_id: lease });
      await leave(this.#node.turn, lease, this.#node.signal);
    }
    if (leases.size > 0) found = await survey(this.#node.turn, this.#node.signal, known);
    await this.#node.seen.observe(found);
    await this.#node.seen.save();
    refuseClone(found, record, self);
    if (unfenced && found.turn === undefined) {
      await memory.saveTurn({ ...unfenced, state: "closed" });
      record = undefined;
    }
    // A turn is ended first, whatever the roster says: a verified node must not be kept in it.
    if (found.turn === undefined && record === undefined) await enrol(this.#node.turn, this.#node.signal);
    const fenced = found.turn && withLease(turnOf(found.turn), record);
    const until = record?.launchedAt === undefined ? undefined : record.launchedAt + settings.rules.graceMs;
    const { namesake } = found;
    return {
      turn: fenced && { fenced, bootId: found.turn?.value?.boot_id ?? "" },
      record: record && { place: recordedPlace(record), bootId: record.bootId, until },
      namesake:
        namesake &&
        `another machine named ${self.node} is in its turn (${namesake.key}); two machines must not share a node_name`,
      bootId: self.bootId,
      graceUntil: clock.boottime() + settings.rules.graceMs,
    };
  }

  async #halt(why: string): Promise<FactOf["halting"]> {
    const { store, space, clock, self, log } = this.#node.ports;
    this.#node.drop();
    const stop = { who: `${self.node} (rota)`, why, now: clock.now(), everywhere: true };
    await setStop(store, space, call("turn.halt", this.#node.signal), stop);
    await this.#node.seen.accept(await survey(this.#node.turn, this.#node.signal));
    log("error", "stopped", `everything is stopped until an operator has looked and says "rota reboot resume": ${why}`);
    return {};
  }

  async #look(): Promise<Look> {
    const { probes, self } = this.#node.ports;
    const found = await survey(this.#node.turn, this.#node.signal);
    await this.#node.seen.observe(found);
    await this.#node.seen.save();
    const strayTurn = found.turn !== undefined || found.leased.length > 0;
    if (strayTurn) return { gates: [], required: false, reason: "", strayTurn };
    if (found.roster === undefined || found.roster.machine !== self.machine)
      await enrol(this.#node.turn, this.#node.signal);
    const look = await lookAround(probes, 0, (phase, verdict) => this.#node.tell(phase, verdict), this.#node.signal);
    if (found.ghost !== undefined && this.#node.report.healthy)
      await layGhost(this.#node.turn, found.ghost, this.#node.signal);
    return look;
  }
}

/**
 * Two machines with one machine id (a cloned disk) would each take the other's turn for their own. A turn under another name that
 * turn.json does not know, or a living daemon under another name, means a clone; a machine that was renamed knows its turn.
 */
function refuseClone(found: Survey, record: TurnRecord | undefined, self: Self): void {
  const { turn, alive } = found;
  const stranger = turn?.value && turn.value.node !== self.node && turn.value.turn_id !== record?.turnId;
  const other = stranger
    ? turn.value?.node
    : alive && alive.node !== self.node && alive.bootId !== self.bootId
      ? alive.node
      : undefined;
  if (other !== undefined)
    throw new Fault(
      "roster.taken",
      `${other} has the same machine id as this machine; if one is a clone, give it an id of its own (rm /etc/machine-id; systemd-machine-id-setup), if this machine was renamed in its turn, release the turn of ${other}`,
    );
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
