/** The only place where real adapters are built, from settings to a node that can run. */
import { hostname } from "node:os";
import { type Clock, realClock } from "./kernel/clock.ts";
import { realRun } from "./kernel/exec.ts";
import { jsonLog, type Level, type Log, textLog } from "./kernel/log.ts";
import { bootId, machineIdentity } from "./kernel/machine-id.ts";
import { goingDown, softReboots } from "./platform/systemd.ts";
import { expandCommand, rcEnvironment } from "./reboot/environment.ts";
import { realHost } from "./reboot/host.ts";
import type { Rules } from "./reboot/machine.ts";
import { fileMemory } from "./reboot/memory.ts";
import type { DaemonSettings, Ports } from "./reboot/ports.ts";
import { type NodeProbes, realProbes } from "./reboot/probes.ts";
import type { RebootSettings } from "./reboot/settings.ts";
import { lockDirectory } from "./store/embedded-lock.ts";
import { openNodeStore } from "./store/open.ts";
import { namespaced, type Store } from "./store/store.ts";
import type { Self } from "./turn/context.ts";
import { keyspace, namespacePrefix } from "./turn/keys.ts";
import type { PolicySettings } from "./turn/policy.ts";

/** What a person or a supervisor gets to read. */
export interface LogChoice {
  readonly write: (line: string) => void;
  readonly level: Level;
  readonly json: boolean;
  readonly node: string;
}

/** The log of a process, as JSON or for people. */
export function wireLog(choice: LogChoice, clock: Clock = realClock()): Log {
  const { write, level, json, node } = choice;
  return json
    ? jsonLog({ write, clock, level, base: { node, component: "orchestrator" } })
    : textLog({ write, clock, level });
}

/** The store of these settings, below its namespace. `daemon`: with no etcd_endpoints it is opened in this process; a command asks the daemon that has it. */
export async function wireStore(
  settings: RebootSettings,
  options: {
    readonly clock: Clock;
    readonly log: Log;
    readonly daemon: boolean;
    readonly processEnv: NodeOptions["processEnv"];
  },
): Promise<{ readonly store: Store; readonly alone: boolean }> {
  const { store, alone } = await openNodeStore(settings.store, {
    ...options,
    env: options.processEnv,
    program: "rota reboot run",
  });
  return { store: namespaced(store, namespacePrefix(settings.store.etcd_namespace)), alone };
}

export interface NodeOptions {
  readonly mode: Rules["mode"];
  readonly log: Log;
  readonly processEnv: Readonly<Record<string, string | undefined>>;
  readonly daemon: boolean;
  readonly skipHealth?: boolean;
  readonly skipLock?: boolean;
}

/** Makes sure that no other daemon works with this state_dir. Faults `state.*`. */
export function wireStateLock(settings: RebootSettings): { release(): void } {
  return lockDirectory(settings.store.state_dir, "daemon", "rota reboot run", realClock());
}

/** The probes alone, for commands that ask neither store nor host. */
export function wireProbes(settings: RebootSettings, options: Omit<NodeOptions, "daemon">): NodeProbes {
  const clock = realClock();
  const { log, processEnv, mode } = options;
  return realProbes(settings, {
    run: realRun(clock),
    clock,
    log,
    processEnv,
    dryRun: mode !== "run",
    ...skips(options),
  });
}

/** The real clock, for commands that only need the time. */
export function wireClock(): Clock {
  return realClock();
}

/** Who gives this command, for the record: the login name, through sudo too. */
export function wireUser(): string {
  const { SUDO_USER, USER, LOGNAME } = process.env;
  const uid = process.getuid?.();
  return `${SUDO_USER ?? USER ?? LOGNAME ?? (uid === undefined ? "somebody" : `uid ${uid}`)}@${hostname()}`;
}

/** A node: everything the daemon's loop needs. Whoever gets it closes `store`. */
export async function wireNode(
  settings: RebootSettings,
  options: NodeOptions,
): Promise<Ports & { readonly probes: NodeProbes; readonly alone: boolean }> {
  const clock = realClock();
  const run = realRun(clock);
  const { log, processEnv, mode } = options;
  const self = await identity(settings);
  const dryRun = mode !== "run";
  const probes = wireProbes(settings, options);
  const { store, alone } = await wireStore(settings, { clock, log, daemon: options.daemon, processEnv });
  const host = realHost({
    run,
    clock,
    command: expandCommand(settings.rebootCommand, rcEnvironment(settings, { dryRun }), processEnv),
    env: definedOnly(processEnv),
    graceMs: settings.rebootGraceMs,
    goingDown,
    told: (fields) => log("info", "reboot_command", "the reboot command has ended", fields),
  });
  return {
    store,
    alone,
    space: keyspace(settings.lockKey),
    clock,
    log,
    self,
    memory: fileMemory(settings.store.state_dir),
    host,
    probes,
    settings: daemonSettings(settings, mode),
  };
}

function skips({ skipHealth, skipLock }: Pick<NodeOptions, "skipHealth" | "skipLock">) {
  return { ...(skipHealth && { skipHealth }), ...(skipLock && { skipLock }) };
}

/** Who this machine is in this boot. A userspace replaced by a soft-reboot counts as another boot. */
export async function identity(settings: RebootSettings): Promise<Self> {
  const soft = await softReboots(realRun(realClock()));
  return {
    node: settings.nodeName,
    machine: machineIdentity(settings.machineIdFile),
    bootId: [bootId(settings.bootIdFile), soft].filter((part) => part !== "").join("+"),
    pid: process.pid,
    slots: settings.slots,
  };
}

/** What the policy gate goes by; which of it can be configured is said in settings.ts. */
export function policyOf(settings: RebootSettings): PolicySettings {
  return { ...settings.policy, blockOnUnhealthyPeer: false };
}

/** What the loop goes by. The sums leave room for every script to take its whole timeout. */
function daemonSettings(settings: RebootSettings, mode: Rules["mode"]): DaemonSettings {
  const slowestDetector = Math.max(0, ...settings.detectors.map((d) => (d.type === "command" ? d.timeoutMs : 0)));
  const passMs = settings.healthTimeoutMs + slowestDetector;
  return {
    rules: {
      mode,
      checkIntervalMs: settings.checkIntervalMs,
      ownDeadlineMs: passMs + 30_000,
      graceMs: settings.rebootGraceMs,
    },
    policy: policyOf(settings),
    lockTtlSec: settings.lockTtlSec,
    // Two passes may follow each other as slowly as they can, and one report may be lost.
    liveTtlSec: Math.ceil((3 * settings.checkIntervalMs + 2 * passMs) / 1000) + settings.lockTtlSec,
    cooldownSec: settings.minRebootIntervalSec,
    maxHoldMs: settings.maxHoldMs,
    backoffMinMs: settings.backoffMinMs,
    backoffMaxMs: settings.backoffMaxMs,
  };
}

function definedOnly(env: Readonly<Record<string, string | undefined>>): Record<string, string> {
  return Object.fromEntries(Object.entries(env).filter((entry): entry is [string, string] => entry[1] !== undefined));
}
