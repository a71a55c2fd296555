/** The coordinator's configuration: what is accepted, what it becomes, and the sentence for each thing that is not accepted. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { ConfigFault, inWords } from "../kernel/config.ts";
import { Fault } from "../kernel/errors.ts";
import { loadSettings, printSettings, rebootShape, type Surroundings } from "./settings.ts";

const MACHINE: Readonly<Record<string, string>> = {
  "/etc/machine-id": "b08dfa6083e7567a1921a715000001fb\n",
  "/proc/sys/kernel/random/boot_id": "7b3c2f0e-5a0d-4d5c-9a43-0b3b1f7e6c11\n",
  "/etc/empty-id": "\n",
  "/etc/two-lines": "a\nb\n",
};
const PROGRAMS = ["/opt/health.sh", "/etc/reboot-coordinator/health.sh", "/sbin/shutdown", "/usr/bin/needs-restarting"];

function machine(config: string, host = "host-1", drops: Readonly<Record<string, string>> = {}): Surroundings {
  const files: Readonly<Record<string, string>> = { ...MACHINE, "/etc/rc/config.yaml": config };
  return {
    read(path) {
      const text = files[path] ?? drops[path.replace("/etc/rc/config.d/", "")];
      if (text === undefined)
        throw Object.assign(new Error(`ENOENT: no such file or directory, open '${path}'`), { code: "ENOENT" });
      return text;
    },
    list: () => Object.keys(drops),
    hostName: () => host,
    kind(path) {
      if (path === "/locked/health.sh") throw new Error("EACCES: permission denied");
      if (PROGRAMS.includes(path)) return "program";
      return path === "/opt/plain.sh" ? "file" : path === "/opt" ? "other" : "absent";
    },
  };
}

const MINIMAL =
  "reboot_required_detectors: [{type: file, path: /run/reboot-required}]\nhealth_script: /opt/health.sh\n";
const load = (config: string, host?: string) =>
  loadSettings({ path: "/etc/rc/config.yaml", on: machine(config, host) });

function complaints(config: string, host?: string): string[] {
  try {
    load(config, host);
  } catch (error) {
    if (error instanceof ConfigFault) return error.message.replaceAll("/etc/rc/config.yaml:", "").split("\n");
    throw error;
  }
  return [];
}

describe("what the keys become", () => {
  test("the smallest file, and every default", () => {
    const { settings, warnings } = load(MINIMAL);
    expect(warnings).toEqual([]);
    expect(settings).toMatchObject({
      nodeName: "host-1",
      detectors: [{ type: "file", name: "file:/run/reboot-required", path: "/run/reboot-required", timeoutMs: 30_000 }],
      healthScript: "/opt/health.sh",
      healthTimeoutMs: 30_000,
      checkIntervalMs: 60_000,
      backoffMinMs: 5000,
      backoffMaxMs: 60_000,
      minRebootIntervalSec: 0,
      lockKey: "/cluster/reboot-coordinator/lock",
      lockTtlSec: 90,
      slots: 1,
      rebootGraceMs: 300_000,
      maxHoldMs: 0,
      rebootCommand: ["/sbin/shutdown", "-r", "now", "coordinated kernel reboot"],
      killSwitchFile: "/etc/reboot-coordinator/disable",
      dryRun: false,
      machineIdFile: "/etc/machine-id",
      bootIdFile: "/proc/sys/kernel/random/boot_id",
      policy: { forbidIfOnlyFallbackLeft: false, fallbackNodes: [] },
      windows: { allow: [], deny: [] },
      metrics: { enabled: false, listen: "127.0.0.1:9090" },
      etcdEndpoints: [],
    });
  });

  test("everything said", () => {
    const { settings } =
      load(`${MINIMAL.replace("[{type: file, path: /run/reboot-required}]", '[{type: command, name: n, cmd: ["/usr/bin/needs-restarting", "-r"], success_exit_codes: [1], timeout_sec: 5}]')}
node_name: 123
lock_key: prod/web/
lock_ttl_sec: 40
slots: 2
max_hold_sec: 3600
reboot_grace_sec: 10
min_reboot_interval_sec: 60
dry_run: yes
etcd_endpoints: [a:2379, b:2379]
etcd_namespace: /x
windows: {allow: [], deny: []}
cluster_policies: {forbid_if_only_fallback_left: no, fallback_nodes: []}
metrics: {enabled: false, listen: 0.0.0.0:9090}
`);
    expect(settings).toMatchObject({
      nodeName: "123",
      detectors: [
        {
          type: "command",
          name: "n",
          cmd: ["/usr/bin/needs-restarting", "-r"],
          successExitCodes: [1],
          timeoutMs: 5000,
        },
      ],
      lockKey: "/prod/web",
      lockTtlSec: 40,
      slots: 2,
      maxHoldMs: 3_600_000,
      rebootGraceMs: 10_000,
      minRebootIntervalSec: 60,
      dryRun: true,
      etcdEndpoints: ["a:2379", "b:2379"],
      store: { etcd_endpoints: ["a:2379", "b:2379"], etcd_namespace: "/x", state_dir: "/var/lib/rota" },
    });
  });

  test("values that the original took for the default, with a warning for each", () => {
    const zeros =
      'health_timeout_sec: 0\nlock_ttl_sec: 0\ncheck_interval_sec: 0\nreboot_command: []\nkill_switch_file: ""\n';
    const { settings, warnings } = load(MINIMAL + zeros);
    expect(settings).toMatchObject({ healthTimeoutMs: 30_000, lockTtlSec: 90, checkIntervalMs: 60_000 });
    expect(settings.killSwitchFile).toBe("/etc/reboot-coordinator/disable");
    expect(warnings.map((warning) => warning.key)).toEqual([
      "health_timeout_sec",
      "check_interval_sec",
      "lock_ttl_sec",
      "reboot_command",
      "kill_switch_file",
    ]);
  });

  test("a key that has no effect says so, unless it only repeats its default", () => {
    expect(load(`${MINIMAL}health_publish_interval_sec: 15\n`).warnings).toEqual([]);
    expect(load(`${MINIMAL}health_publish_interval_sec: 5\n`).warnings).toMatchObject([
      { key: "health_publish_interval_sec", message: expect.stringContaining("has no effect") },
    ]);
  });

  test("a program that is not there is pointed out: it may come with the next package", () => {
    const { warnings } = load(`${MINIMAL}reboot_command: [/usr/bin/later, now]\n`);
    expect(warnings.map(inWords)).toEqual([
      "/etc/rc/config.yaml:1:1: reboot_command: /usr/bin/later is not an executable file on this machine",
    ]);
  });
});

describe("what is refused, and how", () => {
  const without = (key: string) =>
    MINIMAL.split("\n")
      .filter((line) => !line.startsWith(key))
      .join("\n");
  const detectors = (list: string) => MINIMAL.replace("[{type: file, path: /run/reboot-required}]", list);
  test.each([
    ["no detectors", without("reboot"), "1:1: reboot_required_detectors: is required"],
    ["no health script", without("health"), "1:1: health_script: is required"],
    ["an empty list of detectors", detectors("[]"), "1:28: reboot_required_detectors: must name at least one detector"],
    ["a detector without a type", detectors("[{path: /x}]"), "1:29: reboot_required_detectors[0].type: is required"],
    [
      "an unknown type",
      detectors("[{type: File, path: /x}]"),
      '1:36: reboot_required_detectors[0].type: must be file or command, not "File"; did you mean "file"?',
    ],
    [
      "a file detector without path",
      detectors("[{type: file}]"),
      "1:29: reboot_required_detectors[0].path: is required for file detectors",
    ],
    [
      "a relative path",
      detectors("[{type: file, path: x}]"),
      "1:48: reboot_required_detectors[0].path: must be an absolute path (one that begins with /)",
    ],
    [
      "a command detector without cmd",
      detectors("[{type: command}]"),
      "1:29: reboot_required_detectors[0].cmd: is required for command detectors",
    ],
    [
      "an empty cmd",
      detectors("[{type: command, cmd: []}]"),
      "1:50: reboot_required_detectors[0].cmd: must name a program",
    ],
    [
      "a cmd of nothing",
      detectors('[{type: command, cmd: [""]}]'),
      "1:50: reboot_required_detectors[0].cmd: must begin with the name of a program",
    ],
    [
      "a cmd that is one text",
      detectors('[{type: command, cmd: "a b"}]'),
      '1:50: reboot_required_detectors[0].cmd: must be a list, not a single value: write it as ["one", "two"], or as lines that begin with "- "',
    ],
    [
      "a key of another type",
      detectors("[{type: file, path: /x, success_exit_codes: [1]}]"),
      "1:72: reboot_required_detectors[0].success_exit_codes: means nothing to a file detector; take it out",
    ],
    [
      "127 as a yes",
      detectors("[{type: command, cmd: [/x], success_exit_codes: [1, 127]}]"),
      "1:76: reboot_required_detectors[0].success_exit_codes: 126 and 127 are how a shell says that a program cannot be run or is missing; they never mean yes",
    ],
    [
      "a detector without a limit",
      detectors("[{type: file, path: /x, timeout_sec: 0}]"),
      "1:65: reboot_required_detectors[0].timeout_sec: must be from 1 to 86400",
    ],
    [
      "two detectors with one name",
      detectors("[{type: file, path: /x}, {type: file, path: /x}]"),
      '1:53: reboot_required_detectors[1]: has the name of detector [0], "file:/x"; give each a "name" of its own',
    ],
    [
      "a relative health script",
      MINIMAL.replace("/opt/health.sh", "health.sh"),
      "2:16: health_script: must be an absolute path (one that begins with /)",
    ],
    [
      "a health script that is not there",
      MINIMAL.replace("/opt/health.sh", "/opt/gone.sh"),
      "2:16: health_script: there is no file /opt/gone.sh",
    ],
    [
      "a health script that is a directory",
      MINIMAL.replace("/opt/health.sh", "/opt"),
      "2:16: health_script: /opt is not a file",
    ],
    [
      "a health script that is not executable",
      MINIMAL.replace("/opt/health.sh", "/opt/plain.sh"),
      "2:16: health_script: /opt/plain.sh is not executable; chmod +x it",
    ],
    [
      "a health script that cannot be looked at",
      MINIMAL.replace("/opt/health.sh", "/locked/health.sh"),
      "2:16: health_script: EACCES: permission denied",
    ],
    [
      "a name that leaves its place",
      `${MINIMAL}node_name: ../../x\n`,
      '3:12: node_name: may hold only letters, digits, ".", "_" and "-"',
    ],
    [
      "a name with blanks",
      `${MINIMAL}node_name: "a "\n`,
      '3:12: node_name: may hold only letters, digits, ".", "_" and "-"',
    ],
    ["a name of dots", `${MINIMAL}node_name: ..\n`, "3:12: node_name: must hold a letter or a digit"],
    ["an empty name", `${MINIMAL}node_name: ""\n`, "3:12: node_name: must not be empty"],
    ["an empty lock_key", `${MINIMAL}lock_key: " "\n`, "3:11: lock_key: must not be empty"],
    ["a lock_key of slashes", `${MINIMAL}lock_key: //\n`, "3:11: lock_key: must name a key"],
    [
      "a lock_key among the health records",
      `${MINIMAL}lock_key: /cluster_health/x\n`,
      "3:11: lock_key: lies in /cluster_health, which Rota uses for something else",
    ],
    [
      "a lock that lapses under the script",
      `${MINIMAL}lock_ttl_sec: 30\n`,
      "3:15: lock_ttl_sec: must be more than health_timeout_sec (30), not 30, or the place in line could lapse while the health script runs",
    ],
    [
      "backoff the wrong way round",
      `${MINIMAL}backoff_min_sec: 70\n`,
      "1:1: backoff_max_sec: must be at least backoff_min_sec (70), not 60",
    ],
    ["no slot", `${MINIMAL}slots: 0\n`, "3:8: slots: must be 1 or more"],
    ["half a slot", `${MINIMAL}slots: 1.5\n`, "3:8: slots: must be a whole number, not 1.5"],
    ["a negative hold", `${MINIMAL}max_hold_sec: -1\n`, "3:15: max_hold_sec: must be 0 or more"],
    ["no grace", `${MINIMAL}reboot_grace_sec: 0\n`, "3:19: reboot_grace_sec: must be 1 or more"],
    [
      "a quoted number",
      `${MINIMAL}check_interval_sec: "60"\n`,
      '3:21: check_interval_sec: must be a whole number without quotes, not "60"',
    ],
    [
      "a kill switch that would never be found",
      `${MINIMAL}kill_switch_file: disable\n`,
      "3:19: kill_switch_file: must be an absolute path (one that begins with /)",
    ],
    [
      "a reboot command that expands to nothing",
      `${MINIMAL}reboot_command: [$NOT_THERE, -r]\n`,
      "1:1: reboot_command[0]: must name a program; after filling in its variables it is empty",
    ],
    [
      "a machine id that is not there",
      `${MINIMAL}machine_id_file: /etc/gone\n`,
      "3:18: machine_id_file: cannot read the machine id from /etc/gone: ENOENT: no such file or directory, open '/etc/gone'",
    ],
    [
      "an empty machine id",
      `${MINIMAL}machine_id_file: /etc/empty-id\n`,
      "3:18: machine_id_file: /etc/empty-id is empty; it must hold the machine id",
    ],
    [
      "a boot id that is none",
      `${MINIMAL}boot_id_file: /etc/two-lines\n`,
      "3:15: boot_id_file: /etc/two-lines holds more than one line; it must hold the boot id alone",
    ],
    [
      "a window, which this version would not keep to",
      `${MINIMAL}windows:\n  deny: ["Mon 08:00-18:00"]\n`,
      "4:9: windows.deny: is not yet supported in this version, and would be ignored: take it out",
    ],
    [
      "a policy, which this version would not keep to",
      `${MINIMAL}cluster_policies: {min_healthy_absolute: 2}\n`,
      "3:42: cluster_policies.min_healthy_absolute: is not yet supported in this version, and would be ignored: take it out",
    ],
    [
      "metrics",
      `${MINIMAL}metrics: {enabled: true}\n`,
      "3:20: metrics.enabled: is not yet supported in this version, and would be ignored: take it out",
    ],
    [
      "a typo",
      `${MINIMAL}kill_swich_file: /x\n`,
      '3:1: kill_swich_file: there is no such key; did you mean "kill_switch_file"?',
    ],
    [
      "the key of a later version",
      `${MINIMAL}block_on_unhealthy_peer: true\n`,
      "3:1: block_on_unhealthy_peer: there is no such key; take it out",
    ],
  ] as const)("%s", (_name, config, expected) => {
    expect(complaints(config)).toEqual([expected]);
  });

  test("all of it at once", () => {
    expect(
      complaints(
        "reboot_required_detectors:\n  - {type: file}\n  - {typ: command, cmd: [x]}\nhealth_script: gone.sh\nlock_ttl_sec: 10\nslots: none\nwindows: {allow: [x]}\n",
      ),
    ).toEqual([
      "2:5: reboot_required_detectors[0].path: is required for file detectors",
      "3:5: reboot_required_detectors[1].type: is required",
      '3:6: reboot_required_detectors[1].typ: there is no such key; did you mean "type"?',
      "4:16: health_script: must be an absolute path (one that begins with /)",
      "5:15: lock_ttl_sec: must be more than health_timeout_sec (30), not 10, or the place in line could lapse while the health script runs",
      "6:8: slots: must be a whole number, not none",
      "7:18: windows.allow: is not yet supported in this version, and would be ignored: take it out",
    ]);
  });

  test("a host name that cannot be a node name asks for one", () => {
    expect(complaints(MINIMAL, "héllo")).toEqual([
      '1:1: node_name: is missing, and the host name ("héllo") cannot stand in: it may hold only letters, digits, ".", "_" and "-"',
    ]);
    expect(complaints(MINIMAL, "")).toHaveLength(1);
  });

  test("a file that is not there", () => {
    const attempt = () => loadSettings({ path: "/etc/rc/gone.yaml", on: machine("") });
    expect(attempt).toThrow("cannot read the configuration /etc/rc/gone.yaml");
  });

  test("drop-ins are checked as the file is", () => {
    const on = machine(MINIMAL, "host-1", { "10-slots.yaml": "slots: 3\n", "20-typo.yaml": "slosts: 4\n" });
    expect(() => loadSettings({ path: "/etc/rc/config.yaml", on })).toThrow(
      '/etc/rc/config.d/20-typo.yaml:1:1: slosts: there is no such key; did you mean "slots"?',
    );
    const good = machine(MINIMAL, "host-1", { "10-slots.yaml": "slots: 3\n" });
    expect(loadSettings({ path: "/etc/rc/config.yaml", on: good }).settings.slots).toBe(3);
  });

  test("whatever stands in a file, it is settings or a Fault", () => {
    const key = fc.constantFrom(...Object.keys(rebootShape()), "nope");
    const value = fc.constantFrom(
      "",
      "0",
      "-1",
      "5",
      "1e3",
      '"x"',
      "/x",
      "[a]",
      "[]",
      "{}",
      "{enabled: true}",
      "[{type: file, path: /x}]",
      "[{}]",
      "true",
      "~",
      "$X",
      "*a",
    );
    const lines = fc.uniqueArray(fc.tuple(key, value), { selector: ([name]) => name, maxLength: 6 });
    fc.assert(
      fc.property(lines, (given) => {
        const keys = given.map(([name]) => name);
        const rest = MINIMAL.split("\n").filter((line) => !keys.some((name) => line.startsWith(`${name}:`)));
        try {
          load([...rest, ...given.map(([name, text]) => `${name}: ${text}`)].join("\n"));
        } catch (error) {
          expect(error).toBeInstanceOf(Fault);
          expect(error).toMatchObject({ exitCode: 2 });
        }
      }),
      { numRuns: 1000 },
    );
  });
});

describe("on a real file system", () => {
  let dir = "";
  beforeAll(() => {
    dir = mkdtempSync(join(tmpdir(), "rota-settings-"));
    writeFileSync(join(dir, "machine-id"), "b08dfa6083e7567a1921a715000001fb\n");
    writeFileSync(join(dir, "health.sh"), "#!/bin/sh\n");
    mkdirSync(join(dir, "config.d"));
    writeFileSync(join(dir, "config.d/10.yaml"), "slots: 2\n");
    writeFileSync(
      join(dir, "config.yaml"),
      `node_name: n\nreboot_required_detectors: [{type: file, path: /x}]\nhealth_script: ${dir}/health.sh\nmachine_id_file: ${dir}/machine-id\nreboot_command: ["true"]\n`,
    );
  });
  afterAll(() => rmSync(dir, { recursive: true, force: true }));

  test("the script must be executable", () => {
    const path = join(dir, "config.yaml");
    expect(() => loadSettings({ path })).toThrow(`${dir}/health.sh is not executable; chmod +x it`);
    chmodSync(join(dir, "health.sh"), 0o755);
    expect(loadSettings({ path })).toMatchObject({ settings: { slots: 2, nodeName: "n" }, warnings: [] });
  });
});

test("the example loads, names every key, and its commented defaults are the defaults", () => {
  const example = readFileSync(join(import.meta.dir, "../../examples/config.yaml"), "utf8");
  const { settings, warnings } = load(example);
  expect(warnings).toEqual([]);
  expect(settings).toMatchObject({ nodeName: "node-a", dryRun: true, etcdEndpoints: { length: 3 } });
  const later = ["windows", "cluster_policies", "metrics"];
  for (const key of Object.keys(rebootShape()))
    if (!later.includes(key)) expect(example).toMatch(new RegExp(`^(?:# )?${key}:`, "m"));
  const uncommented = load(example.replace(/^# ([a-z_]+: )/gm, "$1"));
  expect(uncommented.settings).toEqual(settings);
});

test("printed settings can be loaded again and are the same", () => {
  const loaded = load(`${MINIMAL}slots: 2\n`);
  const printed = printSettings(loaded);
  expect(printed).toContain("node_name: host-1\n");
  expect(load(printed).settings).toEqual(loaded.settings);
});

test.each(["etcd_endpoints:", "etcd_endpoints: []"])("%p is refused: empty is not the same as absent", (line) => {
  expect(complaints(`${MINIMAL}\n${line}\n`)).toEqual([
    expect.stringContaining("etcd_endpoints: is empty; name the endpoints, or take the key out"),
  ]);
});
