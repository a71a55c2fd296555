/** The coordinator's configuration: its keys, their defaults, the rules between them, and what must be there on this machine. */
import { accessSync, constants, statSync } from "node:fs";
import { hostname } from "node:os";
import { stringify } from "yaml";
import * as z from "zod/mini";
import {
  absolutePath,
  ConfigFault,
  type ConfigFiles,
  configSources,
  loadConfig,
  type Rule,
  realFiles,
  text,
  type ValuesOf,
  whole,
} from "../kernel/config.ts";
import { sentence } from "../kernel/errors.ts";
import { bootId, machineIdentity } from "../kernel/machine-id.ts";
import type { Complaint, Path } from "../kernel/yaml.ts";
import { type StoreValues, storeRules, storeShape } from "../store/settings.ts";
import { normalLockKey } from "../turn/keys.ts";
import { type DetectorSettings, detectorSettings, detectorShape } from "./detectors/table.ts";
import { expandCommand, rcEnvironment } from "./environment.ts";

/** The default of health_publish_interval_sec. */
const PUBLISH_SEC = 15;

/** Where the configuration lies unless `--config` says otherwise. */
export const DEFAULT_CONFIG = "/etc/reboot-coordinator/config.yaml";

/** The configuration, ready to use. Times are in the unit of their names. */
export interface RebootSettings {
  readonly nodeName: string;
  readonly detectors: readonly DetectorSettings[];
  readonly healthScript: string;
  readonly healthTimeoutMs: number;
  readonly checkIntervalMs: number;
  readonly backoffMinMs: number;
  readonly backoffMaxMs: number;
  /** From the verified end of one reboot of the group to the next; 0: none. */
  readonly minRebootIntervalSec: number;
  /** Absolute, without the namespace. */
  readonly lockKey: string;
  readonly lockTtlSec: number;
  readonly slots: number;
  /** How long a reboot command that was started may still take this machine down. */
  readonly rebootGraceMs: number;
  /** After this long a silent holder's turn is taken over; 0: never. */
  readonly maxHoldMs: number;
  /** As written; `expandCommand` fills in the variables. */
  readonly rebootCommand: readonly [string, ...string[]];
  readonly killSwitchFile: string;
  readonly dryRun: boolean;
  readonly machineIdFile: string;
  readonly bootIdFile: string;
  readonly policy: {
    readonly minHealthyFraction?: number;
    readonly minHealthyAbsolute?: number;
    readonly forbidIfOnlyFallbackLeft: boolean;
    readonly fallbackNodes: readonly string[];
  };
  readonly windows: { readonly allow: readonly string[]; readonly deny: readonly string[] };
  readonly metrics: { readonly enabled: boolean; readonly listen: string };
  /** Empty: the store embedded in this machine. */
  readonly etcdEndpoints: readonly string[];
  /** The keys of the store, for whoever opens it. */
  readonly store: StoreValues;
}

/** The keys of the file, by the names they have there. */
export type RebootValues = ValuesOf<ReturnType<typeof rebootShape>>;

export interface LoadedSettings {
  readonly settings: RebootSettings;
  /** The merged configuration by the names of the file, secrets masked when printed. */
  readonly values: RebootValues;
  /** What is allowed and odd: say it, and go on. */
  readonly warnings: readonly Complaint[];
}

/** What loading asks of the machine; a test may bring another. */
export interface Surroundings extends ConfigFiles {
  hostName(): string;
  /** What is at a path: "absent", "other" (a directory, …), "file" (not executable) or "program". Throws what node:fs throws otherwise. */
  kind(path: string): "absent" | "other" | "file" | "program";
}

/** This machine. */
export const realSurroundings: Surroundings = {
  ...realFiles,
  hostName: hostname,
  kind(path) {
    const found = statSync(path, { throwIfNoEntry: false });
    if (!found) return "absent";
    if (!found.isFile()) return "other";
    try {
      accessSync(path, constants.X_OK);
      return "program";
    } catch {
      return "file"; // X_OK is the whole question: whatever the reason, it cannot be executed
    }
  },
};

/** Every key of the coordinator's file. A function, because building shapes is work and only a command that reads the file does it. */
export function rebootShape() {
  const flag = z._default(z.boolean(), false);
  const names = z._default(z.array(text()), []);
  return {
    ...storeShape,
    node_name: z.optional(z.string()),
    reboot_required_detectors: z.array(detectorShape()).check(z.minLength(1, "must name at least one detector")),
    health_script: absolutePath(),
    health_timeout_sec: z._default(whole(1), 30),
    health_publish_interval_sec: z._default(whole(1), PUBLISH_SEC),
    check_interval_sec: z._default(whole(1), 60),
    backoff_min_sec: z._default(whole(1), 5),
    backoff_max_sec: z._default(whole(1), 60),
    min_reboot_interval_sec: z._default(whole(0), 0),
    lock_key: z._default(text(), "/cluster/reboot-coordinator/lock"),
    lock_ttl_sec: z._default(whole(1), 90),
    slots: z._default(whole(1), 1),
    reboot_grace_sec: z._default(whole(1), 300),
    max_hold_sec: z._default(whole(0), 0),
    reboot_command: z._default(z.array(z.string()).check(z.minLength(1, "must name a program")), [
      ...["/sbin/shutdown", "-r", "now", "coordinated kernel reboot"],
    ]),
    kill_switch_file: z._default(absolutePath(), "/etc/reboot-coordinator/disable"),
    dry_run: flag,
    machine_id_file: z._default(absolutePath(), "/etc/machine-id"),
    boot_id_file: z._default(absolutePath(), "/proc/sys/kernel/random/boot_id"),
    cluster_policies: z.optional(
      z.object({
        min_healthy_fraction: z.optional(
          z.number().check(z.refine((value) => value > 0 && value <= 1, "must be more than 0 and at most 1")),
        ),
        min_healthy_absolute: z.optional(whole(0)),
        forbid_if_only_fallback_left: flag,
        fallback_nodes: names,
      }),
    ),
    windows: z.optional(z.object({ allow: names, deny: names })),
    metrics: z.optional(z.object({ enabled: flag, listen: z._default(text(), "127.0.0.1:9090") })),
  };
}

function rule<const K extends keyof RebootValues & string>(
  needs: readonly K[],
  check: (values: Pick<RebootValues, K>, complain: (path: Path, message: string) => void) => void,
): Rule<RebootValues> {
  return { needs, check };
}

/** Rules between keys; none of them looks at the machine. */
function keyRules(): Rule<RebootValues>[] {
  return [
    rule(["backoff_min_sec", "backoff_max_sec"], ({ backoff_min_sec: min, backoff_max_sec: max }, complain) => {
      if (max < min) complain(["backoff_max_sec"], `must be at least backoff_min_sec (${min}), not ${max}`);
    }),
    rule(["lock_ttl_sec", "health_timeout_sec"], ({ lock_ttl_sec: ttl, health_timeout_sec: health }, complain) => {
      const why = "or the place in line could lapse while the health script runs";
      if (ttl <= health)
        complain(["lock_ttl_sec"], `must be more than health_timeout_sec (${health}), not ${ttl}, ${why}`);
    }),
    rule(["lock_key"], ({ lock_key }, complain) => {
      const normal = normalLockKey(lock_key);
      if ("problem" in normal) complain(["lock_key"], normal.problem);
    }),
    rule(["reboot_required_detectors"], ({ reboot_required_detectors: entries }, complain) => {
      const seen = new Map<string, number>();
      for (const [index, entry] of entries.entries()) {
        const { name } = detectorSettings(entry);
        const first = seen.get(name);
        if (first === undefined) seen.set(name, index);
        else
          complain(
            ["reboot_required_detectors", index],
            `has the name of detector [${first}], ${JSON.stringify(name)}; give each a "name" of its own`,
          );
      }
    }),
    ...notYet(),
  ];
}

/** A gate that is written down and not enforced would be worse than none, so what this version cannot do is refused. */
function notYet(): Rule<RebootValues>[] {
  const refuse = "is not yet supported in this version, and would be ignored: take it out";
  return [
    rule(["windows"], ({ windows }, complain) => {
      for (const key of ["allow", "deny"] as const) if (windows?.[key].length) complain(["windows", key], refuse);
    }),
    rule(["cluster_policies"], ({ cluster_policies: policy }, complain) => {
      if (policy?.min_healthy_fraction !== undefined) complain(["cluster_policies", "min_healthy_fraction"], refuse);
      if (policy?.min_healthy_absolute !== undefined) complain(["cluster_policies", "min_healthy_absolute"], refuse);
      if (policy?.forbid_if_only_fallback_left) complain(["cluster_policies", "forbid_if_only_fallback_left"], refuse);
      if (policy?.fallback_nodes.length) complain(["cluster_policies", "fallback_nodes"], refuse);
    }),
    rule(["metrics"], ({ metrics }, complain) => {
      if (metrics?.enabled) complain(["metrics", "enabled"], refuse);
    }),
  ];
}

/** What must be on this machine. `run` would stumble over each of these, so `validate-config` says it first. */
function machineRules(on: Surroundings): Rule<RebootValues>[] {
  const look = (path: string) => {
    try {
      return on.kind(path);
    } catch (error) {
      return sentence(error);
    }
  };
  return [
    rule(["node_name"], ({ node_name }, complain) => {
      const name = node_name ?? on.hostName();
      const whose =
        node_name === undefined ? `is missing, and the host name (${JSON.stringify(name)}) cannot stand in: it ` : "";
      if (name.trim() === "") complain(["node_name"], `${whose}must not be empty`);
      else if (!/^[A-Za-z0-9._-]+$/.test(name))
        complain(["node_name"], `${whose}may hold only letters, digits, ".", "_" and "-"`);
      else if (!/[A-Za-z0-9]/.test(name)) complain(["node_name"], `${whose}must hold a letter or a digit`);
      else if (name.length > 253) complain(["node_name"], `${whose}must not be longer than 253 characters`);
    }),
    rule(["health_script"], ({ health_script: path }, complain) => {
      const found = look(path);
      if (found === "absent") complain(["health_script"], `there is no file ${path}`);
      else if (found === "other") complain(["health_script"], `${path} is not a file`);
      else if (found === "file") complain(["health_script"], `${path} is not executable; chmod +x it`);
      else if (found !== "program") complain(["health_script"], found);
    }),
    rule(["machine_id_file"], ({ machine_id_file: path }, complain) => {
      const fault = faultOf(() => machineIdentity(path, on.read));
      if (fault) complain(["machine_id_file"], fault);
    }),
    rule(["boot_id_file"], ({ boot_id_file: path }, complain) => {
      const fault = faultOf(() => bootId(path, on.read));
      if (fault) complain(["boot_id_file"], fault);
    }),
  ];
}

function faultOf(work: () => unknown): string | undefined {
  try {
    work();
    return undefined;
  } catch (error) {
    return sentence(error);
  }
}

/**
 * Reads the file at `path` and its config.d, and checks everything that can be checked before the first pass. `run`, `validate-config` and
 * all other commands call this one function, so they refuse the same files. Faults (all with exit code 2): `config.invalid` with every
 * complaint, `config.unreadable`.
 */
export function loadSettings(options: {
  readonly path: string;
  readonly on?: Surroundings;
  /** For commands about the line, which must work when a node's own scripts are broken: those files are not looked at. */
  readonly storeOnly?: boolean;
}): LoadedSettings {
  const on = options.on ?? realSurroundings;
  const shape = rebootShape();
  const { values, warnings } = loadConfig(configSources(options.path, on), shape, {
    rules: [...keyRules(), ...storeRules(on.read), ...(options.storeOnly ? [] : machineRules(on))],
    // A template that comes out empty must not make lone machines of a fleet.
    notEmpty: {
      etcd_endpoints: "is empty; name the endpoints, or take the key out to let this machine coordinate itself alone",
    },
    // The original took these silently for "not given".
    emptyIsDefault: [
      ...([
        "health_timeout_sec",
        "health_publish_interval_sec",
        "check_interval_sec",
        "backoff_min_sec",
        "backoff_max_sec",
      ] as const),
      ...(["lock_ttl_sec", "reboot_command", "kill_switch_file"] as const),
    ],
  });
  const settings = settingsOf(values, on);
  const origin = { file: options.path, line: 1, column: 1 };
  const [program] = expandCommand(settings.rebootCommand, rcEnvironment(settings), {});
  if (program.trim() === "")
    throw new ConfigFault([
      {
        ...origin,
        key: "reboot_command[0]",
        message: "must name a program; after filling in its variables it is empty",
      },
    ]);
  const programs = [
    ["reboot_command", program],
    ...settings.detectors.map((d) => [`detector ${d.name}`, d.type === "command" ? d.cmd[0] : ""]),
  ];
  const absent = programs.flatMap(([key = "", path = ""]) =>
    path.startsWith("/") && faultOf(() => on.kind(path)) === undefined && on.kind(path) !== "program"
      ? [{ ...origin, key, message: `${path} is not an executable file on this machine` }]
      : [],
  );
  // A key of the original that every file may hold; what it was for is done by the passes and the lease of the record.
  const idle =
    values.health_publish_interval_sec === PUBLISH_SEC
      ? []
      : [
          {
            ...origin,
            key: "health_publish_interval_sec",
            message: "has no effect: health is published with every pass (check_interval_sec)",
          },
        ];
  return { settings, values, warnings: [...warnings, ...absent, ...idle] };
}

function settingsOf(values: RebootValues, on: Surroundings): RebootSettings {
  const lockKey = normalLockKey(values.lock_key);
  const [program = "", ...args] = values.reboot_command;
  const { min_healthy_fraction: fraction, min_healthy_absolute: absolute } = values.cluster_policies ?? {};
  return {
    nodeName: values.node_name ?? on.hostName(),
    detectors: values.reboot_required_detectors.map(detectorSettings),
    healthScript: values.health_script,
    healthTimeoutMs: values.health_timeout_sec * 1000,
    checkIntervalMs: values.check_interval_sec * 1000,
    backoffMinMs: values.backoff_min_sec * 1000,
    backoffMaxMs: values.backoff_max_sec * 1000,
    minRebootIntervalSec: values.min_reboot_interval_sec,
    lockKey: "key" in lockKey ? lockKey.key : values.lock_key,
    lockTtlSec: values.lock_ttl_sec,
    slots: values.slots,
    rebootGraceMs: values.reboot_grace_sec * 1000,
    maxHoldMs: values.max_hold_sec * 1000,
    rebootCommand: [program, ...args],
    killSwitchFile: values.kill_switch_file,
    dryRun: values.dry_run,
    machineIdFile: values.machine_id_file,
    bootIdFile: values.boot_id_file,
    policy: {
      ...(fraction !== undefined && { minHealthyFraction: fraction }),
      ...(absolute !== undefined && { minHealthyAbsolute: absolute }),
      forbidIfOnlyFallbackLeft: values.cluster_policies?.forbid_if_only_fallback_left ?? false,
      fallbackNodes: values.cluster_policies?.fallback_nodes ?? [],
    },
    windows: { allow: values.windows?.allow ?? [], deny: values.windows?.deny ?? [] },
    metrics: { enabled: values.metrics?.enabled ?? false, listen: values.metrics?.listen ?? "127.0.0.1:9090" },
    etcdEndpoints: values.etcd_endpoints,
    store: pick(values, Object.keys(storeShape) as (keyof typeof storeShape)[]),
  };
}

function pick<T, K extends keyof T>(from: T, keys: readonly K[]): Pick<T, K> {
  return Object.fromEntries(keys.map((key) => [key, from[key]])) as Pick<T, K>;
}

/** The merged configuration by the names of the file, with every default filled in and secrets as ***. */
export function shownSettings(loaded: LoadedSettings): Readonly<Record<string, unknown>> {
  const { etcd_endpoints: endpoints, ...values } = loaded.values;
  // Absent means alone, and empty is refused; what is printed can be loaded again.
  const shown = endpoints.length > 0 ? { etcd_endpoints: endpoints, ...values } : values;
  return JSON.parse(JSON.stringify({ ...shown, node_name: loaded.settings.nodeName }));
}

/** The same as YAML. */
export function printSettings(loaded: LoadedSettings): string {
  return stringify(shownSettings(loaded));
}
