/** What a health script is told, and what its end means: with real, and really hostile, scripts. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { realClock } from "./clock.ts";
import { processesWithEnv, realRun } from "./exec.ts";
import { type Phase, runHealth } from "./health.ts";

const clock = realClock();
const run = realRun(clock);
const lock = { lockEnabled: true, lockHeld: false, lockAttempts: 0 };
let dir = "";
beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), "rota-health-"));
});
afterAll(() => rmSync(dir, { recursive: true, force: true }));

let count = 0;
function script(body: string, mode = 0o755): string {
  const path = join(dir, `script-${count++}`);
  writeFileSync(path, `#!/bin/sh\n${body}\n`);
  chmodSync(path, mode);
  return path;
}
const check = (path: string, phase: Phase = "monitor", timeoutMs = 20_000, env: Record<string, string> = {}) =>
  runHealth(run, { script: path, timeoutMs, env: { PATH: "/usr/bin:/bin", ...env } }, phase, lock);

test("it is told the phase and the state of the lock, beside what it was given, and gets no arguments", async () => {
  const path = script('env | grep ^RC_ | sort; echo "$# $(cat | wc -c)"');
  const env = { PATH: "/usr/bin:/bin", RC_NODE_NAME: "web-1" };
  const facts = { lockEnabled: true, lockHeld: true, lockAttempts: 3 };
  const { stdout } = await runHealth(run, { script: path, timeoutMs: 20_000, env }, "post-lock", facts);
  expect(stdout.split("\n").map((line) => line.trim())).toEqual([
    "RC_LOCK_ATTEMPTS=3",
    "RC_LOCK_ENABLED=true",
    "RC_LOCK_HELD=true",
    "RC_NODE_NAME=web-1",
    "RC_PHASE=post-lock",
    "0 0",
    "",
  ]);
});

test.each(["monitor", "heartbeat", "pre-lock", "post-lock", "post-reboot"] as const)("phase %s", async (phase) => {
  const path = script('[ "$RC_PHASE" != monitor ]; exit $?');
  const verdict = await check(path, phase);
  expect(verdict).toMatchObject(
    phase === "monitor"
      ? { healthy: false, error: false, reason: "monitor exit 1", exitCode: 1 }
      : { healthy: true, error: false, exitCode: 0 },
  );
});

describe("the end of the script", () => {
  test("exit 0 is health; output is kept", async () => {
    const verdict = await check(script("echo fine; echo hm >&2"));
    expect(verdict).toMatchObject({
      healthy: true,
      error: false,
      exitCode: 0,
      stdout: "fine\n",
      stderr: "hm\n",
      truncated: false,
    });
    expect(verdict.reason).toBeUndefined();
  });

  test("another code or a signal is a verdict: unhealthy", async () => {
    expect(await check(script("exit 7"), "pre-lock")).toMatchObject({
      healthy: false,
      error: false,
      reason: "pre-lock exit 7",
      exitCode: 7,
    });
    expect(await check(script("kill -SEGV $$"), "pre-lock")).toMatchObject({
      healthy: false,
      error: false,
      reason: "pre-lock signal SIGSEGV",
    });
  });

  test("what cannot be executed is an error, and not health", async () => {
    const plain = script("exit 0", 0o644);
    expect(await check(plain)).toMatchObject({
      healthy: false,
      error: true,
      reason: `not executable: ${plain} (permission denied)`,
    });
    expect(await check("/no/such/script")).toMatchObject({
      healthy: false,
      error: true,
      reason: "not found: /no/such/script",
    });
  });

  test("a hang is an error, and not health, though it exits 0 when told to stop", async () => {
    const began = clock.monotonic();
    expect(await check(script("trap 'exit 0' TERM; while :; do sleep 0.1; done"), "monitor", 300)).toMatchObject({
      healthy: false,
      error: true,
      reason: "timeout",
    });
    expect(clock.monotonic() - began).toBeLessThan(5300);
  });

  test("ignoring SIGTERM helps nobody, and nothing of it goes on running", async () => {
    const mark = clock.uuid();
    const path = script("trap '' TERM; (trap '' TERM; while :; do sleep 0.1; done) & while :; do sleep 0.1; done");
    const began = clock.monotonic();
    expect(await check(path, "monitor", 300, { MARK: mark })).toMatchObject({
      healthy: false,
      error: true,
      reason: "timeout",
    });
    expect(clock.monotonic() - began).toBeLessThan(5300);
    expect(processesWithEnv("MARK", mark)).toEqual([]);
  });

  test("a background child does not hold the verdict back, and does not outlive it", async () => {
    const mark = clock.uuid();
    const began = clock.monotonic();
    expect(await check(script("sleep 600 & exit 0"), "monitor", 20_000, { MARK: mark })).toMatchObject({
      healthy: true,
    });
    expect(clock.monotonic() - began).toBeLessThan(5000);
    expect(processesWithEnv("MARK", mark)).toEqual([]);
  });

  test("a flood of output is cut, and said to be", async () => {
    const verdict = await check(script("head -c 5000000 /dev/zero | tr '\\0' x; exit 1"));
    expect(verdict).toMatchObject({ healthy: false, truncated: true, exitCode: 1 });
    expect(verdict.stdout.length).toBeLessThan(70_000);
  });

  test("a run that is called off is no verdict", async () => {
    const stop = new AbortController();
    const running = runHealth(
      run,
      { script: script("sleep 600"), timeoutMs: 20_000, env: { PATH: "/usr/bin:/bin" } },
      "monitor",
      lock,
      stop.signal,
    );
    stop.abort(new Error("going down"));
    await expect(running).rejects.toThrow("going down");
  });
});
