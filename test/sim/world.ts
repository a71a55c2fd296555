/** One round: the machines, the store, the operator, and the faults that befall them, until the line has drained or an invariant broke. */
import { Database } from "bun:sqlite";
import type { Clock } from "../../src/kernel/clock.ts";
import { Fault } from "../../src/kernel/errors.ts";
import type { Ports } from "../../src/reboot/ports.ts";
import { toBytes } from "../../src/store/bytes.ts";
import { EmbeddedEngine } from "../../src/store/embedded.ts";
import { keyValue } from "../../src/store/embedded-store.ts";
import type { KeyValue } from "../../src/store/store.ts";
import { keyspace } from "../../src/turn/keys.ts";
import { release, showLine } from "../../src/turn/recover.ts";
import { clearStop, setStop } from "../../src/turn/stop.ts";
import { type Life, SimMachine } from "./host.ts";
import { atRisk, Oracle, operatorStore } from "./oracle.ts";
import { type Plan, planOf } from "./plan.ts";
import type { Plant } from "./plants.ts";
import { Chance, Scheduler } from "./scheduler.ts";

/** How long the line may take to drain once faults have stopped, ms. */
const DRAIN_MS = 4 * 3_600_000;

export interface RoundResult {
  readonly seed: number;
  readonly violation: string | undefined;
  readonly steps: number;
  readonly simulatedMs: number;
  readonly fences: number;
  readonly story: readonly string[];
}

type Rate =
  | "loss"
  | "late"
  | "commandHangs"
  | "commandFails"
  | "comesToNothing"
  | "slowDown"
  | "slowBoot"
  | "neverBack"
  | "sick";

export class World {
  readonly scheduler = new Scheduler();
  readonly chance: Chance;
  readonly spaces = [keyspace("/rota/lock"), keyspace("/rota/other")] as const;
  readonly machines: SimMachine[];
  readonly oracle: Oracle;
  readonly story: string[] = [];
  engine: EmbeddedEngine;
  storeDown = false;
  /** Faults are over. */
  calm = false;
  violation: string | undefined;
  /** The mod-revision of each key as the operator last saw it. */
  readonly shown = new Map<string, string>();
  #db = new Database(":memory:");
  #backup: Uint8Array | undefined;

  constructor(
    readonly plan: Plan,
    readonly plant: Plant | undefined,
    readonly recording: boolean,
  ) {
    this.chance = new Chance(plan.seed);
    this.engine = this.#openStore();
    this.machines = plan.nodes.map((node, index) => new SimMachine(this, index, node));
    this.oracle = new Oracle(this);
  }

  ports(life: Life): Ports {
    const ports = life.ports();
    return this.plant ? this.plant.inside(ports) : ports;
  }

  /** The probability of a fault now: none once faults are over. */
  rate(which: Rate): number {
    return this.calm ? 0 : this.plan[which];
  }

  tell(text: string): void {
    if (!this.recording) return;
    this.story.push(`${(this.scheduler.now / 1000).toFixed(3).padStart(9)} s  ${text}`);
  }

  violate(text: string): void {
    if (this.violation !== undefined) return;
    this.violation = text;
    this.tell(`VIOLATION of ${text}`);
  }

  /** Nothing gets through between this machine and the store: what it sends (out), or what it is sent (in). */
  isCut(m: SimMachine, way: "out" | "in"): boolean {
    return this.scheduler.now < m.cutUntil[way];
  }

  /** Reads the store as it is, past every fault. */
  read(key: string, rangeEnd?: string): readonly KeyValue[] {
    const end = rangeEnd === undefined ? undefined : toBytes(rangeEnd);
    return this.engine.range({ key: toBytes(key), end }).rows.map(keyValue);
  }

  #openStore(): EmbeddedEngine {
    const { scheduler, chance } = this;
    const clock: Clock = {
      now: () => scheduler.now,
      monotonic: () => scheduler.now,
      boottime: () => scheduler.now,
      sleep: (ms, signal) =>
        new Promise((resolve, reject) => {
          if (signal?.aborted) return reject(signal.reason);
          const task = scheduler.in(ms, resolve);
          signal?.addEventListener("abort", () => {
            task.run = undefined;
            reject(signal.reason);
          });
        }),
      random: () => chance.next(),
      uuid: () => `store-${chance.next()}`,
    };
    return new EmbeddedEngine({ db: this.#db, clock, log: () => undefined });
  }

  run(): RoundResult {
    const { scheduler, plan, machines } = this;
    for (const m of machines) {
      if (m.plan.wantsAt !== Number.POSITIVE_INFINITY) scheduler.in(m.plan.wantsAt, () => m.want());
      m.wants = this.chance.hit(0.25) ? 2 : 1;
      scheduler.in(this.chance.between(0, 3_000), () => m.startDaemon());
    }
    scheduler.in(1_000, () => this.#everySecond());
    scheduler.in(plan.faultsUntil, () => this.#heal());
    while (this.violation === undefined && scheduler.step()) {
      this.oracle.check();
      if ((scheduler.steps & 15) === 0 && this.#drained()) break;
      if (scheduler.now > plan.faultsUntil + DRAIN_MS)
        this.violate(`invariant 7: the line does not drain: ${this.#stuck()}`);
    }
    for (const m of machines) if (m.life) m.life.alive = false;
    this.engine.close();
    this.#db.close();
    const { violation, story } = this;
    return {
      seed: plan.seed,
      violation,
      steps: scheduler.steps,
      simulatedMs: scheduler.now,
      fences: this.oracle.fences,
      story,
    };
  }

  #pending(m: SimMachine): boolean {
    const wanted = m.need || (m.plan.wantsAt !== Number.POSITIVE_INFINITY && m.plan.wantsAt > this.scheduler.now);
    // The second of two machines with one name is refused, and stays as it is.
    const refused = m.state === "refused" && m.life !== undefined;
    return (wanted && !refused) || !m.up || atRisk(m) || this.oracle.holds(m) || !(m.state === "steady" || refused);
  }

  #drained(): boolean {
    if (this.storeDown || this.machines.some((m) => this.#pending(m))) return false;
    return this.spaces.every((space) => this.read(space.line, space.lineEnd).length === 0);
  }

  #stuck(): string {
    const pending = this.machines.filter((m) => this.#pending(m));
    return pending
      .map((m) => `${m.name} ${m.state} ${m.outcome ?? ""}${m.up ? "" : " down"}${m.need ? " wants" : ""}`)
      .join("; ");
  }

  /** Faults that strike the world and not a call. */
  #everySecond(): void {
    if (this.calm) return;
    const { chance, plan, scheduler } = this;
    scheduler.in(1_000, () => this.#everySecond());
    const m = chance.pick(this.machines);
    if (chance.hit(plan.partition)) this.#cut(m, chance.between(1_000, chance.pick([10_000, 60_000])));
    if (chance.hit(plan.storeRestart)) this.#restartStore();
    if (plan.storeRestore > 0 && !this.storeDown) this.#backUp();
    if (chance.hit(plan.clockJump))
      m.clockShift += chance.pick([3_600_000, -3_600_000, 86_400_000 * 3_650, -86_400_000]);
    if (chance.hit(plan.killSwitch)) {
      m.killSwitch = true;
      scheduler.in(chance.between(500, 30_000), () => {
        m.killSwitch = false;
      });
    }
    if (chance.hit(plan.needClears) && m.up && !m.going && m.command === undefined) {
      m.need = false;
      if (chance.hit(0.5)) scheduler.in(chance.between(1_000, 20_000), () => m.want());
    }
    if (chance.hit(plan.crash * 3)) m.life?.abort.abort(new Error("SIGTERM"));
    if (chance.hit(plan.operator)) this.#operate();
  }

  #cut(m: SimMachine, ms: number): void {
    const ways = this.chance.pick([["out", "in"], ["out", "in"], ["out"], ["in"]] as const);
    this.tell(`net: ${m.name} is cut off (${ways.join(" and ")}) for ${Math.round(ms)} ms`);
    for (const way of ways) m.cutUntil[way] = Math.max(m.cutUntil[way], this.scheduler.now + ms);
    this.scheduler.in(ms, () => this.#uncut(m));
  }

  #uncut(m: SimMachine): void {
    if (this.isCut(m, "out")) return;
    const { held } = m;
    m.held = [];
    for (const arrive of held) this.scheduler.in(this.chance.between(0, 3_000), arrive);
  }

  #restartStore(): void {
    if (this.storeDown) return;
    this.tell("store: goes away");
    this.storeDown = true;
    this.engine.close();
    this.scheduler.in(this.chance.between(100, this.chance.pick([3_000, 40_000])), () => {
      this.tell("store: is back");
      this.engine = this.#openStore();
      this.storeDown = false;
    });
  }

  /** A backup now and then, and at times somebody who puts it back. */
  #backUp(): void {
    const { chance, plan, scheduler } = this;
    if (this.#backup === undefined || chance.hit(0.05)) this.#backup = this.#db.serialize();
    if (!chance.hit(plan.storeRestore)) return;
    this.tell("store: is RESTORED from a backup");
    this.engine.close();
    this.#db.close();
    this.#db = Database.deserialize(this.#backup);
    this.engine = this.#openStore();
    // What the backup has forgotten, the operator has to know of; that is why everything stops until he has looked.
    for (const m of this.machines) if (atRisk(m)) m.excused = m.forgotten = true;
    this.oracle.restored();
    const resume = () => {
      const quiet = this.machines.every((m) => m.up && !atRisk(m));
      if (this.storeDown || !(quiet || this.calm)) return void scheduler.in(5_000, resume);
      this.tell("operator: has looked after the restore, and RESUMES");
      for (const everywhere of [true, false])
        for (const space of this.spaces) void clearStop(operatorStore(this), space, { label: "resume" }, everywhere);
    };
    scheduler.in(20_000, resume);
  }

  /** An operator who looks, thinks for a while, and then acts on what he saw. */
  #operate(): void {
    if (this.storeDown) return;
    const { chance, scheduler } = this;
    const space = chance.pick(this.spaces.slice(0, this.plan.groups));
    const guard = (work: Promise<unknown>) =>
      void work.catch((error: unknown) => {
        if (!(error instanceof Fault)) this.violate(`the operator's command broke: ${String(error)}`);
      });
    const everywhere = chance.hit(0.5);
    const act = chance.next();
    if (act < 0.25) {
      this.tell("operator: STOP");
      const stop = { who: "op", why: "test", now: scheduler.now, everywhere };
      const resume = () => {
        if (!this.storeDown) guard(clearStop(operatorStore(this), space, { label: "resume" }, everywhere));
      };
      // A stop that somebody else has set, Rota after a restore for one, is not this operator's to take back.
      const set = setStop(operatorStore(this), space, { label: "stop" }, stop);
      guard(set.then((mine) => mine && scheduler.in(chance.between(2_000, 40_000), resume)));
      return;
    }
    guard(
      showLine(operatorStore(this), space).then((shown) => {
        const turn = shown.length > 0 ? chance.pick(shown) : undefined;
        if (turn === undefined) return;
        scheduler.in(chance.between(100, 30_000), () => {
          if (this.storeDown) return;
          this.tell(`operator: releases ${turn.contender.value?.node}`);
          this.shown.set(turn.contender.key, turn.contender.mod);
          const by = { who: "op", why: "test", at: scheduler.now, force: chance.hit(0.2) };
          guard(release(this.plant?.operator?.(operatorStore(this)) ?? operatorStore(this), space, turn, by));
        });
      }),
    );
  }

  /** The end of all faults: everything that is broken is mended, by hands and by time. */
  #heal(): void {
    const { chance, scheduler } = this;
    this.calm = true;
    this.tell("--- faults are over ---");
    for (const m of this.machines) {
      m.killSwitch = false;
      m.healthyFrom = Math.min(m.healthyFrom, scheduler.now + 20_000);
      m.cutUntil = { out: 0, in: 0 };
      this.#uncut(m);
      if (!m.up) scheduler.in(chance.between(1_000, 60_000), () => m.comeUp());
      else if (!m.life) scheduler.in(chance.between(1_000, 10_000), () => m.startDaemon());
    }
    const resume = () => {
      if (this.storeDown) return void scheduler.in(1_000, resume);
      for (const space of this.spaces)
        for (const everywhere of [true, false])
          void clearStop(operatorStore(this), space, { label: "resume" }, everywhere);
    };
    // Twice: a stop that was on its way may land after the first.
    scheduler.in(5_000, resume);
    scheduler.in(60_000, resume);
  }
}

/** Runs the round of a seed; `recording` keeps the story. */
export function runRound(
  seed: number,
  options: { readonly plant?: Plant | undefined; readonly recording?: boolean } = {},
): RoundResult {
  const plan = planOf(seed);
  return new World(options.plant?.tune?.(plan) ?? plan, options.plant, options.recording ?? false).run();
}
