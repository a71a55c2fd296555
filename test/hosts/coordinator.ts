/** Rota as it is installed on a host: the executable and its names, the unit, the health script, the configuration; and the knobs of a test. */
import { chmodSync, copyFileSync, existsSync, mkdirSync, statSync, symlinkSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import type { Host } from "./host.ts";
import { run } from "./run.ts";

export const UNIT = "reboot-coordinator.service";
export const NAMESPACE = "/hosts";
export const LINE = `${NAMESPACE}/cluster/reboot-coordinator/lock/`;
/** Of a place in line, s. A machine that boots for longer has lost every lease that it had. */
export const LOCK_TTL_SEC = 6;
const GRACE_SEC = 6;

/** On disk, so that they outlive a reboot. */
const KNOBS = "/var/lib/knobs";
/** A package that wants a reboot puts it there; /run is empty after one. */
const MARKER = "/run/reboot-required";

/** What a test can turn. */
export type Knob =
  /** The health script finds something wrong. */
  | "sick"
  /** The reboot command runs and does not get to the point of rebooting. */
  | "hold-command"
  /** A service does not stop: the system is going down and does not get there. */
  | "linger";

const HEALTH = `#!/bin/sh
# What the operator of these machines calls healthy.
[ ! -e ${KNOBS}/sick ] || { echo "the knob says sick"; exit 1; }
state=$(systemctl is-system-running)
[ "$state" = running ] || { echo "systemd is $state"; exit 1; }
`;

const GO_DOWN = `#!/bin/sh
: > /run/going-down
while [ -e ${KNOBS}/hold-command ]; do sleep 0.1; done
exec /bin/systemctl reboot
`;

const COORDINATOR = `[Unit]
Description=Reboot coordinator
After=network-online.target
Wants=network-online.target

[Service]
Type=exec
ExecStart=/usr/bin/reboot-coordinator run
Restart=always
RestartSec=1

[Install]
WantedBy=multi-user.target
`;

const LINGER = `[Unit]
Description=Stops only when the knob lets it
# Stopped before the network and the coordinator are.
After=network-online.target ${UNIT}

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/true
ExecStop=/bin/sh -c ': > /run/lingering; while [ -e ${KNOBS}/linger ]; do sleep 0.1; done'
TimeoutStopSec=120

[Install]
WantedBy=multi-user.target
`;

/** The executable of the built project; built now when it is not there. */
export async function executable(): Promise<string> {
  const project = `${import.meta.dir}/../..`;
  const path = Bun.env.ROTA_EXECUTABLE ?? `${project}/dist/rota-linux-${process.arch}`;
  if (!existsSync(path)) await run([process.execPath, `${project}/scripts/build.ts`, "--host"], 300_000);
  if (!statSync(path).isFile()) throw new Error(`${path} is not the built executable`);
  return path;
}

/** Lays a tree with everything that all hosts have in common over the Debian that they are made of. */
export async function layCoordinator(tree: string): Promise<void> {
  const put = (path: string, text: string, mode = 0o644) => {
    mkdirSync(dirname(tree + path), { recursive: true });
    writeFileSync(tree + path, text, { mode });
  };
  mkdirSync(`${tree}/usr/bin`, { recursive: true });
  copyFileSync(await executable(), `${tree}/usr/bin/rota`);
  chmodSync(`${tree}/usr/bin/rota`, 0o755);
  symlinkSync("rota", `${tree}/usr/bin/reboot-coordinator`);
  put("/etc/reboot-coordinator/health.sh", HEALTH, 0o755);
  put("/usr/local/sbin/go-down", GO_DOWN, 0o755);
  const wants = `${tree}/etc/systemd/system/multi-user.target.wants`;
  mkdirSync(wants, { recursive: true });
  for (const [name, text] of [
    [UNIT, COORDINATOR],
    ["linger.service", LINGER],
  ] as const) {
    put(`/etc/systemd/system/${name}`, text);
    symlinkSync(`../${name}`, `${wants}/${name}`);
  }
  // The journal of every boot is kept on disk.
  for (const path of ["/var/log/journal", KNOBS]) mkdirSync(tree + path, { recursive: true });
}

/** The configuration of one host, as an operator would write it; `command` is run without a shell. */
export function configure(host: Host, endpoints: readonly string[], command: readonly string[]): void {
  const lines = [
    `node_name: ${host.name}`,
    "etcd_endpoints:",
    ...endpoints.map((endpoint) => `  - ${endpoint}`),
    `etcd_namespace: ${NAMESPACE}`,
    "reboot_required_detectors:",
    `  - { type: file, name: marker, path: ${MARKER} }`,
    "health_script: /etc/reboot-coordinator/health.sh",
    "health_timeout_sec: 5",
    "check_interval_sec: 1",
    "backoff_min_sec: 1",
    "backoff_max_sec: 3",
    `lock_ttl_sec: ${LOCK_TTL_SEC}`,
    `reboot_grace_sec: ${GRACE_SEC}`,
    `reboot_command: ${JSON.stringify(command)}`,
  ];
  host.write("/etc/reboot-coordinator/config.yaml", `${lines.join("\n")}\n`);
}

/** The usual command, and the one that the knob "hold-command" works on. */
export const REBOOT = ["/bin/systemctl", "reboot"];
export const GO = ["/usr/local/sbin/go-down"];

/** A package that was upgraded wants a reboot. */
export function wantReboot(host: Host): void {
  writeFileSync(host.inside(MARKER), "*** System restart required ***\n");
}

export function turnOn(host: Host, knob: Knob): void {
  host.write(`${KNOBS}/${knob}`, "");
}

export function turnOff(host: Host, knob: Knob): void {
  host.remove(`${KNOBS}/${knob}`);
}

export function allOff(host: Host): void {
  for (const knob of ["sick", "hold-command", "linger"] as const) turnOff(host, knob);
}

/** The reboot command runs. */
export function commandRuns(host: Host): boolean {
  return existsSync(host.inside("/run/going-down"));
}

/** The system is going down and held up. */
export function lingers(host: Host): boolean {
  return existsSync(host.inside("/run/lingering"));
}

/** One line of a daemon's log, as the journal of its host has it. Times are µs since 1970. */
export interface Entry {
  readonly at: number;
  readonly boot: string;
  readonly event: string;
  readonly message: string;
  readonly fields: Readonly<Record<string, unknown>>;
}

/** What the coordinator of a host has said in all its boots. */
export async function logOf(host: Host): Promise<Entry[]> {
  const text = await host.run(["journalctl", "--no-pager", "--output=json", `--unit=${UNIT}`]);
  return text
    .split("\n")
    .filter(Boolean)
    .flatMap((line) => {
      const entry = JSON.parse(line) as Record<string, unknown>;
      const said = readJson(String(entry["MESSAGE"]));
      if (said === undefined) return []; // a line of systemd about the unit
      const fields = (said["fields"] ?? {}) as Entry["fields"];
      return [
        {
          at: Number(entry["__REALTIME_TIMESTAMP"]),
          // The journal writes the id without dashes.
          boot: String(entry["_BOOT_ID"]),
          event: String(said["event"]),
          message: String(said["message"] ?? ""),
          fields,
        },
      ];
    });
}

function readJson(text: string): Record<string, unknown> | undefined {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === "object" && value !== null ? (value as Record<string, unknown>) : undefined;
  } catch {
    return undefined;
  }
}

/** First and last entry of each boot in the whole journal of a host, oldest first: when it was up by its own account, in µs. */
export async function bootsByJournal(host: Host): Promise<{ boot: string; first: number; last: number }[]> {
  const text = await host.run(["journalctl", "--no-pager", "--output=json", "--output-fields=_BOOT_ID"]);
  const found = new Map<string, { boot: string; first: number; last: number }>();
  for (const line of text.split("\n").filter(Boolean)) {
    const entry = JSON.parse(line) as { readonly _BOOT_ID: string; readonly __REALTIME_TIMESTAMP: string };
    const at = Number(entry.__REALTIME_TIMESTAMP);
    const known = found.get(entry._BOOT_ID) ?? { boot: entry._BOOT_ID, first: at, last: at };
    known.first = Math.min(known.first, at);
    known.last = Math.max(known.last, at);
    found.set(entry._BOOT_ID, known);
  }
  return [...found.values()];
}
