/** What systemd is asked, and what is made of its answers: a machine that may go down by itself is never taken for one that stays. */
import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Run, RunResult } from "../kernel/exec.ts";
import { goingDown, softReboots, underSystemd } from "./systemd.ts";

let root = "";
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), "rota-systemd-"));
  mkdirSync(join(root, "system"));
});
afterEach(() => rmSync(root, { recursive: true, force: true }));

type Answer = Partial<RunResult>;

/** A systemctl that answers like this, by its first word. */
function systemctl(answers: Readonly<Record<string, Answer>>) {
  const asked: string[] = [];
  const run: Run = async (label, argv, options) => {
    expect(argv.slice(0, 2)).toEqual(["systemctl", "--no-ask-password"]);
    expect(options.env).toMatchObject({ LC_ALL: "C", PATH: "/usr/sbin:/usr/bin:/sbin:/bin" });
    expect(options.timeoutMs).toBeLessThanOrEqual(5_000);
    const word = argv[2] ?? "";
    asked.push(argv.slice(2).join(" "));
    const answer = answers[word];
    if (answer === undefined) throw new Error(`nobody expected systemctl ${word}`);
    return { label, argv, stdout: "", stderr: "", truncated: false, durationMs: 1, exitCode: 0, ...answer };
  };
  return { run, asked };
}

const running: Answer = { stdout: "running\n" };
const degraded: Answer = { stdout: "degraded\n", exitCode: 1, reason: "exit" };
const job = (line: string): Answer => ({ stdout: `  12 cron.service start running\n${line}\n` });
const look = (answers: Readonly<Record<string, Answer>>) => goingDown(systemctl(answers).run, undefined, root);

describe("is the machine going down?", () => {
  test("without systemd nobody is asked", async () => {
    rmSync(join(root, "system"), { recursive: true });
    expect(underSystemd(root)).toBe(false);
    expect(await look({})).toBeUndefined();
  });

  test.each([
    ["running", running],
    ["degraded", degraded],
    ["starting", { stdout: "starting\n", exitCode: 1, reason: "exit" } as Answer],
    ["maintenance", { stdout: "maintenance\n", exitCode: 1, reason: "exit" } as Answer],
  ])("%s and no job: it stays", async (_, state) => {
    const { run, asked } = systemctl({ "is-system-running": state, "list-jobs": {} });
    expect(await goingDown(run, undefined, root)).toBeUndefined();
    expect(asked).toEqual(["is-system-running", "list-jobs --no-legend --plain"]);
  });

  test("a schedule: what it says is told, and nobody else is asked", async () => {
    mkdirSync(join(root, "shutdown"));
    writeFileSync(join(root, "shutdown/scheduled"), "USEC=1767225600000000\nWARN_WALL=1\nMODE=reboot\n");
    expect(await look({})).toBe("a shutdown is scheduled (USEC=1767225600000000, WARN_WALL=1, MODE=reboot)");
  });

  test("a schedule that is gone, or cannot be read, by the time it is read is one all the same", async () => {
    mkdirSync(join(root, "shutdown/scheduled"), { recursive: true });
    expect(await look({})).toBe("a shutdown is scheduled (it cannot be read)");
  });

  test("a system that is stopping", async () => {
    expect(await look({ "is-system-running": { stdout: "stopping\n", exitCode: 1, reason: "exit" } })).toBe(
      "systemd is stopping the system",
    );
  });

  test.each(["reboot", "poweroff", "halt", "kexec", "shutdown", "soft-reboot"])(
    "a job for %s.target",
    async (target) => {
      const jobs = job(`1234 ${target}.target start waiting`);
      expect(await look({ "is-system-running": running, "list-jobs": jobs })).toBe(
        `systemd has a job: ${target}.target start waiting`,
      );
    },
  );

  test.each(["my-reboot.target start waiting", "reboot.target.service start waiting", "reboot.timer start waiting"])(
    "a job of another unit is none: %s",
    async (line) => {
      expect(await look({ "is-system-running": running, "list-jobs": job(`77 ${line}`) })).toBeUndefined();
    },
  );

  test("a systemd that does not answer may be on its way down", async () => {
    const hang: Answer = { reason: "timeout", stdout: "" };
    expect(await look({ "is-system-running": hang })).toBe("systemd does not answer (timeout)");
    expect(await look({ "is-system-running": running, "list-jobs": hang })).toBe(
      "systemd does not answer (list-jobs: timeout)",
    );
    const refused: Answer = {
      reason: "exit",
      exitCode: 1,
      stderr: "Failed to list jobs: Transport endpoint is not connected",
    };
    expect(await look({ "is-system-running": degraded, "list-jobs": refused })).toBe(
      "systemd does not answer (list-jobs: exit)",
    );
    expect(await look({ "is-system-running": { reason: "spawn", error: "not found: systemctl" } })).toBe(
      "systemd does not answer (spawn)",
    );
  });

  test("a list of jobs that was cut says nothing", async () => {
    const jobs: Answer = { stdout: "1 a.service stop waiting\n", truncated: true };
    expect(await look({ "is-system-running": running, "list-jobs": jobs })).toBe(
      "systemd has more jobs than can be looked through",
    );
  });
});

describe("which userspace is this?", () => {
  test.each([
    ["0\n", ""],
    ["2\n", "2"],
    ["\n", ""],
  ])("SoftRebootsCount %p is %p", async (stdout, count) => {
    const { run, asked } = systemctl({ show: { stdout } });
    expect(await softReboots(run, root)).toBe(count);
    expect(asked).toEqual(["show --property=SoftRebootsCount --value"]);
  });

  test("without systemd there is only one", async () => {
    rmSync(join(root, "system"), { recursive: true });
    expect(await softReboots(systemctl({}).run, root)).toBe("");
  });

  test("not to know is a fault: a wrong guess would be another boot", async () => {
    const { run } = systemctl({ show: { reason: "exit", exitCode: 1, stderr: "no bus\n" } });
    await expect(softReboots(run, root)).rejects.toMatchObject({
      kind: "host.unknown-boot",
      retry: "later",
      cause: "no bus",
    });
  });
});
