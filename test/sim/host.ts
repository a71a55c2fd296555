/** A simulated machine and its daemon process: disk, boots, clocks, the reboot command, scripts; crashes and pauses at any call. */

import type { Clock } from "../../src/kernel/clock.ts";
import { runDaemon } from "../../src/reboot/daemon.ts";
import type { Outcome, State } from "../../src/reboot/machine.ts";
import type { HealthPhase, Ports, SeenRecord, TurnRecord } from "../../src/reboot/ports.ts";
import { simStore } from "./network.ts";
import type { NodePlan } from "./plan.ts";
import type { World } from "./world.ts";

/** Wall clock at the beginning of every round: 2026-01-01. */
const EPOCH_MS = 1_767_225_600_000;
const never = <T>() => new Promise<T>(() => undefined);

interface Command {
  readonly turnId: string;
  readonly end: (result: { ok: boolean; why: string }) => void;
}

export class SimMachine {
  readonly hash: string;
  name: string;
  up = true;
  boot = 0;
  bootAt = 0;
  need = false;
  /** How many more times it will want a reboot. */
  wants = 1;
  killSwitch = false;
  healthyFrom = 0;
  /** True state of its turn; see oracle.ts. */
  command: Command | undefined;
  going = false;
  downByTurn = false;
  unverified = false;
  excused = false;
  /** A restore of the store has forgotten its turn. When no running node has seen a newer revision, nobody can know. */
  forgotten = false;
  verifiedAt = 0;
  fencedAt = 0;
  /** Requests that a partition holds up. */
  held: (() => void)[] = [];
  /** End of a partition, ms, for what it sends and for what it is sent. */
  cutUntil = { out: 0, in: 0 };
  clockShift: number;
  disk: { turn?: TurnRecord; seen?: SeenRecord } = {};
  life: Life | undefined;
  state: State["at"] = "starting";
  outcome: Outcome | undefined;

  constructor(
    readonly world: World,
    readonly index: number,
    readonly plan: NodePlan,
  ) {
    this.name = plan.name;
    this.hash = `machine-${index}`;
    this.clockShift = plan.clockOffset;
  }

  get bootId(): string {
    return `boot-${this.index}-${this.boot}`;
  }

  write(part: SimMachine["disk"]): void {
    this.disk = { ...this.disk, ...part };
  }

  startDaemon(): void {
    if (!this.up || this.life?.alive) return;
    this.world.tell(`${this.name}: daemon starts (${this.bootId})`);
    const life = new Life(this);
    this.life = life;
    life.start();
  }

  /** kill -9 of the daemon; systemd starts it again. */
  killDaemon(why: string): void {
    if (this.life === undefined) return;
    this.world.tell(`${this.name}: ${why} in state ${this.state}`);
    this.life.alive = false;
    this.life = undefined;
    if (this.up) this.world.scheduler.in(this.world.chance.between(500, 8_000), () => this.startDaemon());
  }

  /** The reboot command is started; what comes of it is drawn. */
  startCommand(turnId: string): Promise<{ ok: boolean; why: string }> {
    const { world } = this;
    const { chance, scheduler } = world;
    return new Promise((resolve) => {
      const life = this.life;
      const command: Command = { turnId, end: (result) => life?.run(() => resolve(result)) };
      this.command = command;
      const finish = (result: { ok: boolean; why: string }, then: () => void) => {
        scheduler.in(chance.between(5, chance.pick([500, 5_000])), () => {
          if (this.command !== command || !this.up) return;
          this.command = undefined;
          then();
          command.end(result);
        });
      };
      if (chance.hit(world.rate("commandHangs"))) return;
      if (chance.hit(world.rate("commandFails"))) return finish({ ok: false, why: "exit 1" }, () => undefined);
      if (chance.hit(world.rate("comesToNothing"))) return finish({ ok: true, why: "" }, () => undefined);
      finish({ ok: true, why: "" }, () => this.#accept());
    });
  }

  /** systemd has a shutdown job from here on: nothing stops it. */
  #accept(): void {
    const { world } = this;
    const { chance, scheduler } = world;
    const boot = this.boot;
    this.going = true;
    world.tell(`${this.name}: the system accepts the reboot`);
    const slow = chance.hit(world.rate("slowDown"));
    if (chance.hit(0.8))
      scheduler.in(chance.between(0, 2_000), () => this.boot === boot && this.life?.abort.abort(new Error("SIGTERM")));
    scheduler.in(slow ? chance.between(10_000, 120_000) : chance.between(100, 5_000), () => {
      if (this.boot !== boot || !this.up) return;
      world.oracle.goesDown(this);
      this.downByTurn = true;
      this.goDown("goes DOWN");
    });
  }

  /** The power goes, or the shutdown is through. */
  goDown(why: string): void {
    const { world } = this;
    if (!this.up) return;
    world.tell(`${this.name}: ${why} in state ${this.state}`);
    this.downByTurn ||= this.command !== undefined || this.going || this.unverified;
    this.up = false;
    this.going = false;
    this.command = undefined;
    this.unverified = false;
    if (this.life) this.life.alive = false;
    this.life = undefined;
    const { chance } = world;
    if (chance.hit(world.rate("neverBack"))) return world.tell(`${this.name}: does not come back`);
    const slow = chance.hit(world.rate("slowBoot"));
    world.scheduler.in(slow ? chance.between(30_000, 200_000) : chance.between(2_000, 20_000), () => this.comeUp());
  }

  comeUp(): void {
    const { world } = this;
    if (this.up) return;
    const { chance } = world;
    this.up = true;
    this.boot++;
    this.bootAt = world.scheduler.now;
    this.unverified = this.downByTurn;
    if (this.downByTurn) this.done();
    this.downByTurn = false;
    if (world.plan.rename && this.index === 0) this.name = "renamed";
    if (chance.hit(world.rate("sick"))) this.healthyFrom = world.scheduler.now + chance.between(5_000, 90_000);
    world.tell(`${this.name}: boots (${this.bootId})${this.healthyFrom > world.scheduler.now ? ", SICK" : ""}`);
    world.scheduler.in(chance.between(300, 5_000), () => this.startDaemon());
  }

  /** The reboot has happened: it is not wanted any more, except by those that want one more later. */
  done(): void {
    this.need = false;
    this.wants--;
    if (this.wants > 0) this.world.scheduler.in(this.world.chance.between(5_000, 40_000), () => this.want());
  }

  want(): void {
    this.need = true;
  }
}

/** One process of the daemon, from its start to its end. Nothing of it happens after `alive` is false. */
export class Life {
  alive = true;
  pausedUntil = 0;
  readonly abort = new AbortController();
  /** The answer to the last fence that this process has seen. */
  fenceAnswer: "yes" | "other" = "other";
  #deferred: (() => void)[] = [];

  constructor(readonly machine: SimMachine) {}

  start(): void {
    const { machine } = this;
    const { world } = machine;
    const ports = world.ports(this);
    runDaemon(ports, this.abort.signal, {
      entered: (state) => {
        if (!this.alive || machine.state === state.at) return;
        machine.state = state.at;
        world.tell(`${machine.name}: ${state.at}`);
      },
      noticed: (notice) => {
        if (this.alive) machine.outcome = notice.outcome;
      },
    }).then(
      () => {
        if (!this.alive) return;
        world.tell(`${machine.name}: daemon ended`);
        this.alive = false;
        machine.life = undefined;
        // A system that is going down does not start it again.
        if (machine.up && !machine.going)
          world.scheduler.in(world.chance.between(200, 3_000), () => machine.startDaemon());
      },
      (error: unknown) => {
        if (this.alive)
          world.violate(`the daemon of ${machine.name} broke: ${error instanceof Error ? error.stack : String(error)}`);
      },
    );
  }

  /** Runs `act` in this process: not at all when it is dead, later when it is paused. */
  run(act: () => void): void {
    if (!this.alive) return;
    const { scheduler } = this.machine.world;
    if (scheduler.now >= this.pausedUntil) return act();
    this.#deferred.push(act);
    if (this.#deferred.length > 1) return;
    scheduler.at(this.pausedUntil, () => this.#resume());
  }

  #resume(): void {
    const { scheduler } = this.machine.world;
    if (scheduler.now < this.pausedUntil) return void scheduler.at(this.pausedUntil, () => this.#resume());
    const acts = this.#deferred;
    this.#deferred = [];
    for (const act of acts) if (this.alive) act();
  }

  later(ms: number, act: () => void): { run: (() => void) | undefined } {
    return this.machine.world.scheduler.in(ms, () => this.run(act));
  }

  /** The place where a process may be struck: false when it is dead now. */
  strike(label: string): boolean {
    if (!this.alive) return false;
    const { machine } = this;
    const { world } = machine;
    if (world.calm) return true;
    const { chance } = world;
    if (chance.hit(world.plan.crash)) machine.killDaemon(`daemon is KILLED at ${label}`);
    else if (chance.hit(world.plan.power)) machine.goDown(`POWER is cut at ${label}`);
    else if (chance.hit(world.plan.pause)) {
      const ms = chance.between(500, chance.pick([8_000, 40_000]));
      this.pausedUntil = Math.max(this.pausedUntil, world.scheduler.now + ms);
      world.tell(`${machine.name}: is paused for ${Math.round(ms)} ms at ${label}`);
      return true;
    }
    return this.alive;
  }

  /** A port call that takes `ms` and then gives what `work` makes; `work` runs when the time is over, unless `atOnce`. */
  async does<T>(label: string, ms: number, work: () => T, signal?: AbortSignal): Promise<T> {
    if (!this.strike(label)) return await never<T>();
    await this.pause(ms, signal);
    if (signal?.aborted) throw signal.reason;
    const value = work();
    return this.strike(`the end of ${label}`) ? value : await never<T>();
  }

  /** Waits; ends early, without an error, when the signal aborts. Never ends in a dead process. */
  pause(ms: number, signal?: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      const end = () => {
        task.run = undefined;
        signal?.removeEventListener("abort", end);
        resolve();
      };
      const task = this.later(ms, end);
      if (signal?.aborted) end();
      else signal?.addEventListener("abort", end, { once: true });
    });
  }

  clock(): Clock {
    const { machine } = this;
    const { scheduler, chance } = machine.world;
    const started = scheduler.now;
    const { drift } = machine.plan;
    return {
      now: () => EPOCH_MS + scheduler.now * drift + machine.clockShift,
      monotonic: () => (scheduler.now - started) * drift,
      boottime: () => (scheduler.now - machine.bootAt) * drift,
      sleep: async (ms, signal) => {
        if (!this.strike("sleep")) return await never();
        // No timer is finer than this; a wait of nothing would let time stand still.
        await this.pause(Math.max(ms, 0.05) / drift, signal);
        if (signal?.aborted) throw signal.reason;
        if (!this.strike("waking")) await never();
      },
      random: () => chance.next(),
      uuid: () => `turn-${machine.index}-${(chance.next() * 2 ** 32).toString(36)}`,
    };
  }

  ports(): Ports {
    const { machine } = this;
    const { world } = machine;
    const { chance, plan } = world;
    const store = simStore(world, this);
    const space = world.spaces[machine.plan.group];
    if (space === undefined) throw new Error("no such group");
    return {
      store: {
        ...store,
        txn: async (call, txn) => {
          if (call.label !== "turn.fence") return await store.txn(call, txn);
          this.fenceAnswer = "other";
          const answer = await store.txn(call, txn);
          if (answer.succeeded) this.fenceAnswer = "yes";
          return answer;
        },
      },
      space,
      clock: this.clock(),
      log: (level, event, message) => world.recording && world.tell(`${machine.name}: [${level}] ${event} ${message}`),
      self: { node: machine.name, machine: machine.hash, bootId: machine.bootId, pid: 1, slots: machine.plan.slots },
      memory: {
        loadTurn: () => this.does("read turn.json", 0.1, () => machine.disk.turn),
        saveTurn: (turn) => this.does("write turn.json", chance.between(0.5, 20), () => machine.write({ turn })),
        loadSeen: () => this.does("read seen", 0.1, () => machine.disk.seen),
        saveSeen: (seen) => this.does("write seen", 1, () => machine.write({ seen })),
      },
      host: {
        launch: (turnId) => {
          if (!this.strike("launch")) return { ended: never() };
          world.tell(`${machine.name}: RUNS its reboot command`);
          world.oracle.launched(machine, this.fenceAnswer === "yes");
          const ended = machine.startCommand(turnId);
          return { ended };
        },
        endCommand: (turnId) =>
          this.does("end command", chance.between(1, 3_000), () => {
            const { command } = machine;
            if (command?.turnId !== turnId) return;
            machine.command = undefined;
            command.end({ ok: false, why: "SIGTERM" });
          }),
        goingDown: () => this.does("ask systemd", 20, () => (machine.going ? "a shutdown job" : undefined)),
      },
      probes: {
        health: async (phase, _, signal) => {
          const ms = chance.between(50, chance.pick([500, 500, 4_000]));
          const healthy = await this.does(`health ${phase}`, ms, () => this.#judge(phase), signal);
          return healthy ? { healthy, error: false } : { healthy, error: false, reason: `${phase} exit 1` };
        },
        detect: (signal) =>
          this.does(
            "detect",
            chance.between(5, 300),
            () => ({ required: machine.need, reason: "a new kernel", errors: [] }),
            signal,
          ),
        quick: () =>
          this.does("kill switch", 0.1, () => [
            {
              name: "kill_switch" as const,
              open: !machine.killSwitch,
              why: machine.killSwitch ? "the file is there" : "",
            },
          ]),
      },
      settings: {
        rules: {
          mode: "run",
          checkIntervalMs: plan.checkSec * 1000,
          ownDeadlineMs: 60_000,
          graceMs: plan.graceSec * 1000,
        },
        policy: {
          ...(plan.minUp > 0 && { minHealthyAbsolute: plan.minUp }),
          forbidIfOnlyFallbackLeft: false,
          fallbackNodes: [],
          blockOnUnhealthyPeer: plan.blockOnUnhealthyPeer,
        },
        lockTtlSec: plan.lockTtlSec,
        liveTtlSec: plan.checkSec * 3 + 20,
        cooldownSec: plan.cooldownSec,
        maxHoldMs: plan.maxHoldSec * 1000,
        backoffMinMs: 1_000,
        backoffMaxMs: 10_000,
      },
    };
  }

  /** The health script: its verdict is the truth, and in phase post-reboot it is what verifies the machine. */
  #judge(phase: HealthPhase): boolean {
    const { machine } = this;
    const { world } = machine;
    const healthy = world.scheduler.now >= machine.healthyFrom;
    if (healthy && phase === "post-reboot" && machine.unverified) {
      world.tell(`${machine.name}: is VERIFIED healthy`);
      machine.unverified = false;
      machine.excused = false;
      machine.forgotten = false;
      machine.verifiedAt = world.scheduler.now;
    }
    return healthy;
  }
}
