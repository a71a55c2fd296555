/** The eight invariants of the turn (TURN.md), judged on the true state of the simulated world, not on what daemons believe. */
import { embeddedStore } from "../../src/store/embedded-store.ts";
import type { Store, Txn } from "../../src/store/store.ts";
import { readTurnValue } from "../../src/turn/keys.ts";
import { readLine } from "../../src/turn/line.ts";
import type { SimMachine } from "./host.ts";
import type { World } from "./world.ts";

interface Permanent {
  readonly key: string;
  readonly machine: string;
  readonly group: number;
}

/** Who sends a transaction: a machine, or the operator. */
export type Actor = SimMachine | "operator";

/** Could this machine still be down, or be about to go down, because of its turn? */
export function atRisk(m: SimMachine): boolean {
  return m.command !== undefined || m.going || (!m.up && m.downByTurn) || m.unverified;
}

export class Oracle {
  readonly #world: World;
  readonly #permanent = new Map<string, Permanent>();
  /** True end of the cooldown of each group, ms. */
  readonly #cooldownUntil: number[];
  #fences = 0;
  #restoredAt = -1;

  constructor(world: World) {
    this.#world = world;
    this.#cooldownUntil = world.spaces.map(() => 0);
  }

  get fences(): number {
    return this.#fences;
  }

  holds(m: SimMachine): boolean {
    for (const turn of this.#permanent.values()) if (turn.machine === m.hash) return true;
    return false;
  }

  /** The store has gone back: what is permanent now is what the backup says. */
  restored(): void {
    const world = this.#world;
    this.#restoredAt = world.scheduler.now;
    this.#permanent.clear();
    this.#cooldownUntil.fill(0);
    for (const [group, space] of world.spaces.entries())
      for (const contender of readLine(space, world.read(space.line, space.lineEnd)))
        if (contender.permanent && contender.value)
          this.#permanent.set(contender.key, { key: contender.key, machine: contender.value.machine, group });
  }

  /** Called when a transaction has succeeded; `before` reads the store as it was before it. */
  applied(actor: Actor, label: string, txn: Txn, before: Before): void {
    for (const op of txn.then ?? []) {
      if ("get" in op) continue;
      const key = "put" in op ? op.put : op.delete;
      const group = this.#world.spaces.findIndex((space) => key.startsWith(space.line));
      if (group < 0) continue;
      if ("put" in op) this.#put(actor, op, group, before);
      else this.#delete(actor, label, key, before);
    }
  }

  #put(
    actor: Actor,
    op: { put: string; value: string; lease?: string; keepLease?: boolean },
    group: number,
    before: Before,
  ): void {
    const value = readTurnValue(op.value);
    if (actor === "operator" || value === undefined) return;
    const was = before.line(group).find((contender) => contender.key === op.put);
    const leased = op.lease !== undefined || (op.keepLease === true && was?.permanent === false);
    if (leased) {
      if (was === undefined && actor.unverified && actor.up)
        this.#fail(5, `${actor.name} is in line again before it was verified`);
      this.#permanent.delete(op.put);
      return;
    }
    if (value.phase !== "rebooting")
      return this.#fail(5, `${actor.name} made its key permanent in phase ${value.phase}`);
    this.#fenced(actor, op.put, group, before);
  }

  #fenced(actor: SimMachine, key: string, group: number, before: Before): void {
    this.#fences++;
    const world = this.#world;
    world.tell(`store: ${actor.name} is FENCED`);
    if (this.holds(actor)) this.#fail(5, `${actor.name} has a second permanent key`);
    const line = before.line(group);
    const at = line.findIndex((contender) => contender.key === key);
    const least = Math.min(...line.slice(0, at + 1).map((contender) => contender.value?.slots ?? 1));
    if (at < 0 || at >= Math.min(least, actor.plan.slots))
      this.#fail(6, `${actor.name} was fenced at place ${at} with ${least} slots`);
    const space = world.spaces[group];
    if (space?.stops.some((stop) => before.has(stop))) this.#fail(3, `${actor.name} was fenced under a stop`);
    if (world.scheduler.now < (this.#cooldownUntil[group] ?? 0))
      this.#fail(3, `${actor.name} was fenced inside the cooldown`);
    const others = world.machines.filter((m) => m !== actor);
    const up = others.filter((m) => m.forgotten || (!atRisk(m) && !this.holds(m))).length;
    if (up < world.plan.minUp)
      this.#fail(3, `${actor.name} was fenced against policy: ${up} up, ${world.plan.minUp} wanted`);
    this.#permanent.set(key, { key, machine: actor.hash, group });
    actor.excused = false;
    actor.forgotten = false;
    actor.fencedAt = world.scheduler.now;
  }

  #delete(actor: Actor, label: string, key: string, before: Before): void {
    const turn = this.#permanent.get(key);
    if (turn === undefined) return;
    this.#permanent.delete(key);
    const world = this.#world;
    const owner = world.machines.find((m) => m.hash === turn.machine) as SimMachine;
    if (actor === owner) {
      world.tell(`store: ${owner.name} ends its turn (${label})`);
      if (atRisk(owner)) this.#fail(4, `${owner.name} ended its turn (${label}) while it was not verified`);
      // The cooldown counts from the moment of the proof, however long the transaction that ends the turn is on its way.
      if (label === "turn.end") this.#cooldownUntil[turn.group] = owner.verifiedAt + world.plan.cooldownSec * 1000;
      return;
    }
    if (actor !== "operator" && label !== "turn.takeover")
      this.#fail(4, `${actor.name} ended the turn of ${owner.name} (${label})`);
    const was = before.line(turn.group).find((contender) => contender.key === key);
    if (actor === "operator" && was?.mod !== world.shown.get(key))
      this.#fail(4, `an operator ended the turn of ${owner.name}, which he had been shown in another state`);
    if (label === "turn.takeover" && before.alive(owner.hash))
      this.#fail(4, `the turn of ${owner.name} was taken over while its daemon was alive`);
    world.tell(`store: the turn of ${owner.name} is ended by ${actor === "operator" ? "an operator" : actor.name}`);
    owner.excused = true;
  }

  /** The reboot command is started; `definite`: the process has seen a yes to its last fence. */
  launched(m: SimMachine, definite: boolean): void {
    if (this.#restoredAt > m.fencedAt) {
      // Between the yes and the command, within the ten seconds of the deadline, nobody can know that the yes was taken back.
      m.excused = true;
      return;
    }
    if (!this.holds(m)) this.#fail(2, `${m.name} runs its reboot command without a permanent key`);
    if (!definite) this.#fail(8, `${m.name} runs its reboot command without a definite yes to its fence`);
  }

  goesDown(m: SimMachine): void {
    if (!this.holds(m) && !m.excused) this.#fail(2, `${m.name} goes down without a permanent key`);
  }

  /** Invariant 1, after every step. */
  check(): void {
    const world = this.#world;
    for (let group = 0; group < world.spaces.length; group++) {
      let count = 0;
      let least = Number.POSITIVE_INFINITY;
      for (const m of world.machines) {
        if (m.plan.group !== group || !atRisk(m) || m.excused) continue;
        count++;
        least = Math.min(least, m.plan.slots);
      }
      if (count > least) {
        const names = world.machines
          .filter((m) => m.plan.group === group && atRisk(m) && !m.excused)
          .map((m) => m.name);
        this.#fail(1, `${count} machines are down or going down together (${names.join(", ")}), ${least} allowed`);
      }
    }
  }

  #fail(invariant: number, text: string): void {
    this.#world.violate(`invariant ${invariant}: ${text}`);
  }
}

/** The store as it was before a transaction. */
export interface Before {
  line(group: number): ReturnType<typeof readLine>;
  has(key: string): boolean;
  /** A daemon of this machine shows that it is alive. */
  alive(machine: string): boolean;
}

/** Reads what the oracle needs, before a transaction that concerns a line is applied; undefined for all others. */
export function beforeOf(world: World, txn: Txn): Before | undefined {
  const ops = txn.then ?? [];
  const group = world.spaces.findIndex((space) =>
    ops.some((op) => !("get" in op) && ("put" in op ? op.put : op.delete).startsWith(space.line)),
  );
  const space = world.spaces[group];
  if (space === undefined) return undefined;
  const line = readLine(space, world.read(space.line, space.lineEnd));
  const stops = space.stops.filter((stop) => world.read(stop).length > 0);
  const alive = world.read(space.alive, space.aliveEnd).map((kv) => kv.key.slice(space.alive.length));
  return {
    line: (which) => (which === group ? line : []),
    has: (key) => stops.includes(key),
    alive: (machine) => alive.includes(machine),
  };
}

/** A store that answers at once, for the operator; the oracle sees what it does. */
export function operatorStore(world: World): Store {
  const direct = embeddedStore(world.engine);
  return {
    ...direct,
    txn: async (call, txn) => {
      const before = beforeOf(world, txn);
      const answer = await direct.txn(call, txn);
      if (answer.succeeded && before) world.oracle.applied("operator", call.label, txn, before);
      return answer;
    },
  };
}
