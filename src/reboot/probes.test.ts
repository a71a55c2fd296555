/** The real probes: scripts and detectors as programs in a directory, the kill switch as a file; and what is logged of them. */
import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { chmodSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { realClock } from "../kernel/clock.ts";
import { realRun } from "../kernel/exec.ts";
import { healthGate, lookAround, lookOnceMore } from "./gates.ts";
import type { HealthVerdict } from "./ports.ts";
import { type NodeProbes, type ProbeOptions, realProbes } from "./probes.ts";
import { loadSettings, type RebootSettings } from "./settings.ts";

const clock = realClock();
let dir = "";
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "rota-probes-"));
  script("health", "exit 0");
  script("detect", "exit 1");
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

function script(name: string, body: string): string {
  const path = join(dir, name);
  writeFileSync(path, `#!/bin/sh\n${body}\n`);
  chmodSync(path, 0o755);
  return path;
}

/** Scripts get a long time, except where a hang is what is looked at. */
function settings(more = "", seconds = 20): RebootSettings {
  const path = join(dir, "config.yaml");
  writeFileSync(join(dir, "machine-id"), "0123456789abcdef0123456789abcdef\n");
  writeFileSync(
    path,
    `node_name: web-1
health_script: ${dir}/health
health_timeout_sec: ${seconds}
kill_switch_file: ${dir}/disable
machine_id_file: ${dir}/machine-id
state_dir: ${dir}/state
lock_key: /rota/lock
reboot_required_detectors:
  - {type: command, name: check, cmd: [${dir}/detect], success_exit_codes: [0], timeout_sec: ${seconds}}
${more}`,
  );
  return loadSettings({ path }).settings;
}

type Entry = { level: string; event: string; message: string; fields: Readonly<Record<string, unknown>> };

function probes(
  options: Partial<ProbeOptions> = {},
  more = "",
  seconds?: number,
): NodeProbes & { readonly logs: Entry[] } {
  const logs: Entry[] = [];
  const made = realProbes(settings(more, seconds), {
    run: realRun(clock),
    clock,
    log: (level, event, message, fields = {}) => void logs.push({ level, event, message, fields }),
    processEnv: { PATH: process.env["PATH"], RC_STRANGER: "x" },
    dryRun: false,
    ...options,
  });
  return { ...made, logs };
}
const signal = () => new AbortController().signal;
const free = { held: false, attempts: 0 };

describe("health", () => {
  test("the script is told the phase and the turn, and nobody else's variables", async () => {
    script("health", `env | grep ^RC_ | sort > ${dir}/env`);
    expect(await probes().health("post-lock", { held: true, attempts: 3 }, signal())).toMatchObject({
      healthy: true,
      error: false,
    });
    const env = readFileSync(join(dir, "env"), "utf8").trim().split("\n");
    for (const line of [
      "RC_PHASE=post-lock",
      "RC_LOCK_HELD=true",
      "RC_LOCK_ATTEMPTS=3",
      "RC_LOCK_ENABLED=true",
      "RC_DRY_RUN=false",
      "RC_NODE_NAME=web-1",
    ])
      expect(env).toContain(line);
    expect(env.join()).not.toContain("RC_STRANGER");
  });

  test.each([
    ["exit 3", { healthy: false, error: false, reason: "monitor exit 3" }],
    ["kill -KILL $$", { healthy: false, error: false, reason: "monitor signal SIGKILL" }],
    ["exec sleep 60", { healthy: false, error: true, reason: "timeout" }],
  ])("%p", async (body, verdict) => {
    script("health", body);
    const found = probes({}, "", body.includes("sleep") ? 1 : 20);
    expect(await found.health("monitor", free, signal())).toMatchObject(verdict);
    expect(found.last).toMatchObject({ phase: "monitor", verdict });
  });

  test("a script that is not executable any more is an error, not health", async () => {
    const found = probes();
    chmodSync(join(dir, "health"), 0o644);
    const verdict = await found.health("monitor", free, signal());
    expect(verdict).toMatchObject({ healthy: false, error: true });
    expect(verdict.reason).toContain("not executable");
  });

  test("a run that is called off says nothing about health", async () => {
    script("health", "exec sleep 60");
    const stop = new AbortController();
    const found = probes();
    const asked = found.health("monitor", free, stop.signal);
    stop.abort(new Error("called off"));
    await expect(asked).rejects.toThrow("called off");
    expect(found.logs).toEqual([]);
  });

  test("what is new is said aloud, what is known is not", async () => {
    const found = probes();
    const levels = async (body: string) => {
      script("health", body);
      await found.health("monitor", free, signal());
      return found.logs.at(-1)?.level;
    };
    expect(await levels("echo fine; exit 0")).toBe("info");
    expect(await levels("exit 0")).toBe("debug");
    expect(await levels("echo broken >&2; exit 1")).toBe("warn");
    expect(found.logs.at(-1)?.fields).toMatchObject({
      phase: "monitor",
      healthy: false,
      exit_code: 1,
      stderr: "broken\n",
    });
    expect(await levels("exit 1")).toBe("debug");
    expect(await levels("exit 2")).toBe("warn");
    expect(await levels("exit 0")).toBe("info");
  });

  test("skipped: well, and nothing is run", async () => {
    script("health", `touch ${dir}/ran; exit 1`);
    expect(await probes({ skipHealth: true }).health("monitor", free, signal())).toEqual({
      healthy: true,
      error: false,
      reason: "skipped",
    });
    expect(() => readFileSync(join(dir, "ran"))).toThrow();
  });
});

describe("detectors", () => {
  test("yes, no, and neither", async () => {
    const found = probes();
    expect(await found.detect(signal())).toMatchObject({ required: false, errors: [] });
    script("detect", "exit 0");
    expect(await found.detect(signal())).toMatchObject({ required: true, reason: `${dir}/detect exited with 0` });
    script("detect", "kill -KILL $$");
    expect(await found.detect(signal())).toMatchObject({ required: false, errors: ["check: was ended by SIGKILL"] });
    expect(found.last.evaluation?.findings[0]?.error).toContain("SIGKILL");
    expect(found.logs.map(({ level }) => level)).toEqual(["info", "info", "warn"]);
  });

  test("the same findings again are only for those who debug", async () => {
    const found = probes();
    await found.detect(signal());
    await found.detect(signal());
    expect(found.logs.map(({ level }) => level)).toEqual(["info", "debug"]);
  });
});

describe("the kill switch", () => {
  const gate = async (found = probes()) => (await found.quick()).find(({ name }) => name === "kill_switch");

  test("is closed while the file is there, whatever it is", async () => {
    expect(await gate()).toMatchObject({ open: true });
    writeFileSync(join(dir, "disable"), "");
    expect(await gate()).toEqual({ name: "kill_switch", open: false, why: `the kill switch ${dir}/disable is there` });
    rmSync(join(dir, "disable"));
    expect(await gate()).toMatchObject({ open: true });
  });

  test("a path that cannot be looked at counts as there", async () => {
    symlinkSync("disable", join(dir, "disable"));
    expect(await gate()).toMatchObject({
      open: false,
      why: `the kill switch ${dir}/disable cannot be looked at (ELOOP)`,
    });
  });

  test("a path below a file is not there", async () => {
    const found = realProbes(
      { ...settings(), killSwitchFile: join(dir, "health/x") },
      {
        run: realRun(clock),
        clock,
        log: () => undefined,
        processEnv: {},
        dryRun: false,
      },
    );
    expect((await found.quick())[0]?.open).toBe(true);
  });
});

describe("the looks of a pass", () => {
  const look = (found: NodeProbes, told: [string, boolean][] = []) =>
    lookAround(found, 0, async (phase, { healthy }) => void told.push([phase, healthy]), signal());

  test("without a wanted reboot health is for the peers, and blocks nothing", async () => {
    script("health", "exit 1");
    const told: [string, boolean][] = [];
    const seen = await look(probes(), told);
    expect(told).toEqual([["monitor", false]]);
    expect(seen).toMatchObject({ required: false, strayTurn: false });
    expect(seen.gates.map(({ name, open }) => [name, open])).toEqual([["kill_switch", true]]);
  });

  test("with one it is a gate, and is asked before the turn", async () => {
    script("health", "exit 1");
    script("detect", "exit 0");
    writeFileSync(join(dir, "disable"), "");
    const told: [string, boolean][] = [];
    const seen = await look(probes(), told);
    expect(told).toEqual([["pre-lock", false]]);
    expect(seen.gates.map(({ name, open }) => [name, open])).toEqual([
      ["kill_switch", false],
      ["health", false],
    ]);
  });

  test("a failed detector is said only when no other says yes", async () => {
    script("detect", "kill -KILL $$");
    expect((await look(probes())).detectorError).toBe("check: was ended by SIGKILL");
    writeFileSync(join(dir, "marker"), "");
    const both = probes({}, `  - {type: file, name: marker, path: ${dir}/marker}\n`);
    const seen = await look(both);
    expect(seen).toMatchObject({ required: true });
    expect(seen.detectorError).toBeUndefined();
  });

  test("under the turn the quick ones come last: what happens while a script runs is seen", async () => {
    script("detect", "exit 0");
    script("health", `touch ${dir}/disable`);
    const phases: string[] = [];
    const seen = await lookOnceMore(probes(), 1, async (phase) => void phases.push(phase), signal());
    expect(phases).toEqual(["post-lock"]);
    expect(seen.gates.map(({ name, open }) => [name, open])).toEqual([
      ["health", true],
      ["kill_switch", false],
    ]);
  });

  test.each([
    [
      { healthy: true, error: false },
      { open: true, why: "" },
    ],
    [
      { healthy: false, error: false, reason: "monitor exit 1" },
      { open: false, why: "monitor exit 1" },
    ],
    [
      { healthy: false, error: false },
      { open: false, why: "unhealthy" },
    ],
    [
      { healthy: false, error: true, reason: "timeout" },
      { open: false, why: "timeout", failed: true },
    ],
  ] as readonly (readonly [HealthVerdict, object])[])("a verdict as a gate: %p", (verdict, gate) => {
    expect(healthGate(verdict)).toEqual({ name: "health", ...gate } as ReturnType<typeof healthGate>);
  });
});
