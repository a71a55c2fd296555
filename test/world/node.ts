/** A node whose machine is made of variables: the real daemon on the engine of a Field, its disk, scripts, host and command in a test's hands. */
import type { Clock } from "../../src/kernel/clock.ts";
import { Fault } from "../../src/kernel/errors.ts";
import { runDaemon } from "../../src/reboot/daemon.ts";
import type { Notice, Outcome, State } from "../../src/reboot/machine.ts";
import type { DaemonSettings, HealthPhase, Ports, SeenRecord, TurnRecord } from "../../src/reboot/ports.ts";
import type { Self } from "../../src/turn/context.ts";
import type { Keyspace } from "../../src/turn/keys.ts";
import { type Field, Line } from "./engine.ts";

const SETTINGS: DaemonSettings = {
  rules: { mode: "run", checkIntervalMs: 10_000, ownDeadlineMs: 60_000, graceMs: 30_000 },
  policy: { forbidIfOnlyFallbackLeft: false, fallbackNodes: [], blockOnUnhealthyPeer: false },
  lockTtlSec: 15,
  liveTtlSec: 60,
  cooldownSec: 0,
  maxHoldMs: 0,
  backoffMinMs: 1_000,
  backoffMaxMs: 8_000,
};

export interface NodeOptions {
  readonly self?: Partial<Self>;
  readonly settings?: Partial<DaemonSettings>;
  readonly rules?: Partial<DaemonSettings["rules"]>;
  readonly space?: Keyspace;
}

/** What a test may change at any time, and what it may look at. */
export class TestNode {
  readonly line: Line;
  readonly ports: Ports;
  disk: { turn?: TurnRecord; seen?: SeenRecord } = {};
  /** A reason why the disk cannot be written. */
  diskFault: Fault | undefined;
  wants = false;
  detectorErrors: string[] = [];
  healthy: boolean | ((phase: HealthPhase) => boolean) = true;
  killSwitch = false;
  down: string | undefined;
  /** Turn ids that the command was started for. */
  readonly launched: string[] = [];
  readonly ended: string[] = [];
  readonly phases: HealthPhase[] = [];
  readonly states: State["at"][] = [];
  readonly notices: Notice[] = [];
  readonly logs: string[] = [];
  /** Ends the command that was started last. */
  finish: (result: { ok: boolean; why: string }) => void = () => undefined;
  /** Called in these acts, by name: "quick", "health", "detect", "saveTurn". */
  readonly during = new Map<string, () => unknown>();
  #stop = new AbortController();
  /** When this machine was booted, on the field's clock. */
  #booted: number;

  constructor(field: Field, name: string, options: NodeOptions = {}) {
    const { clock: time } = field;
    const gone = async () => {
      if (this.line.dead) await new Promise<never>(() => undefined);
    };
    const clock: Clock = {
      now: time.now,
      monotonic: time.monotonic,
      boottime: () => time.boottime() - this.#booted,
      random: time.random,
      uuid: () => `${name}-${time.uuid()}`,
      sleep: async (ms, signal) => {
        await gone();
        await time.sleep(ms, signal);
        await gone();
      },
    };
    this.#booted = time.boottime();
    this.line = new Line(field.store);
    const hook = async (what: string) => {
      await gone();
      await this.during.get(what)?.();
      await gone();
    };
    const settings = { ...SETTINGS, ...options.settings };
    const write = async (part: TestNode["disk"]) => {
      await gone();
      if (this.diskFault) throw this.diskFault;
      this.disk = { ...this.disk, ...part };
    };
    this.ports = {
      store: this.line.store,
      space: options.space ?? field.space,
      clock,
      log: (level, event, message) => void this.logs.push(`${level} ${event} ${message}`),
      self: { node: name, machine: `m-${name}`, bootId: `boot-${name}-1`, pid: 7, slots: 1, ...options.self },
      memory: {
        loadTurn: async () => {
          await gone();
          return this.disk.turn;
        },
        saveTurn: async (turn) => {
          await hook("saveTurn");
          await write({ turn });
        },
        loadSeen: async () => this.disk.seen,
        saveSeen: (seen) => write({ seen }),
      },
      host: {
        launch: (turnId) => {
          this.launched.push(turnId);
          const ended = new Promise<{ ok: boolean; why: string }>((resolve) => {
            this.finish = resolve;
          });
          return { ended };
        },
        endCommand: async (turnId) => {
          this.ended.push(turnId);
          this.finish({ ok: false, why: "SIGTERM" });
        },
        goingDown: async () => this.down,
      },
      probes: {
        health: async (phase, _, signal) => {
          this.phases.push(phase);
          await clock.sleep(100, signal);
          await hook("health");
          const healthy = typeof this.healthy === "boolean" ? this.healthy : this.healthy(phase);
          return { healthy, error: false, ...(!healthy && { reason: `${phase} exit 1` }) };
        },
        detect: async () => {
          await hook("detect");
          return { required: this.wants, reason: "a new kernel", errors: this.detectorErrors };
        },
        quick: async () => {
          await hook("quick");
          return [{ name: "kill_switch", open: !this.killSwitch, why: this.killSwitch ? "the file is there" : "" }];
        },
      },
      settings: { ...settings, rules: { ...settings.rules, ...options.rules } },
    };
  }

  get state(): State["at"] | undefined {
    return this.states.at(-1);
  }

  get outcome(): Outcome | undefined {
    return this.notices.at(-1)?.outcome;
  }

  /** Starts the daemon; `over` resolves to its last outcome. */
  start(): { readonly over: Promise<Outcome> } {
    this.#stop = new AbortController();
    const over = runDaemon(this.ports, this.#stop.signal, {
      entered: (state) => {
        if (this.state !== state.at) this.states.push(state.at);
      },
      noticed: (notice) => void this.notices.push(notice),
    });
    over.catch(() => undefined);
    return { over };
  }

  /** SIGTERM. */
  stop(): void {
    this.#stop.abort(new Fault("interrupted", "SIGTERM"));
  }

  /** kill -9, or the power: this process does nothing any more, and nothing waits for it. */
  kill(): void {
    this.line.dead = true;
  }

  /** The same machine in another boot, or under another name or lock_key: what is on its disk stays. */
  again(field: Field, options: NodeOptions = {}): TestNode {
    const { node, machine, slots } = this.ports.self;
    const next = new TestNode(field, node, {
      settings: this.ports.settings,
      space: this.ports.space,
      ...options,
      self: { machine, slots, ...options.self },
    });
    next.disk = this.disk;
    if (next.ports.self.bootId === this.ports.self.bootId) next.#booted = this.#booted;
    return next;
  }
}
