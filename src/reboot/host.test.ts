/** The reboot command as real processes: it outlives whoever started it, and is found and ended by whoever comes after. */
import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { until } from "../../test/world/wait.ts";
import { realClock } from "../kernel/clock.ts";
import { isRunning, type ProcessRef, processesWithEnv, processRef, realRun } from "../kernel/exec.ts";
import { realHost } from "./host.ts";

const clock = realClock();
const run = realRun(clock);
let dir = "";
let turn = "";
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "rota-host-"));
  turn = clock.uuid();
});
afterEach(async () => {
  await host("true").endCommand(turn);
  rmSync(dir, { recursive: true, force: true });
});

function host(
  script: string,
  options: { graceMs?: number; told?: (fields: Readonly<Record<string, unknown>>) => void } = {},
) {
  return realHost({
    run,
    clock,
    command: ["/bin/sh", "-c", script],
    env: { PATH: "/usr/sbin:/usr/bin:/sbin:/bin", DIR: dir },
    graceMs: options.graceMs ?? 60_000,
    goingDown: async () => "a job",
    told: options.told ?? (() => undefined),
  });
}

/** The process whose number a script wrote to this file. */
async function noted(name: string): Promise<ProcessRef> {
  const file = join(dir, name);
  const pid = await until(`a pid in ${name}`, () => existsSync(file) && readFileSync(file, "latin1").trim());
  return await until(`process ${pid}`, () => processRef(Number(pid)));
}

describe("the command", () => {
  test("runs with its own environment, the reason, and the id of the turn", async () => {
    const { ended } = host('echo "$RC_REBOOT_REASON/$ROTA_TURN_ID" > "$DIR/said"').launch(turn, "a new kernel");
    expect(await ended).toEqual({ ok: true, why: "" });
    expect(readFileSync(join(dir, "said"), "latin1")).toBe(`a new kernel/${turn}\n`);
  });

  test.each([
    ["exit 7", "exit code 7", { exit_code: 7 }],
    ["kill -TERM $$", "ended by SIGTERM", { signal: "SIGTERM" }],
  ])("that ends with %p says so", async (script, why, fields) => {
    const told: Readonly<Record<string, unknown>>[] = [];
    const { ended } = host(script, { told: (said) => void told.push(said) }).launch(turn, "r");
    expect(await ended).toEqual({ ok: false, why });
    expect(told).toHaveLength(1);
    expect(told[0]).toMatchObject(fields);
  });

  test("that cannot be started says why", async () => {
    const none = realHost({
      run,
      clock,
      command: ["/no/such/program"],
      env: {},
      graceMs: 60_000,
      goingDown: async () => undefined,
      told: () => undefined,
    });
    expect(await none.launch(turn, "r").ended).toEqual({ ok: false, why: "not found: /no/such/program" });
  });

  test("that hangs is ended after the grace", async () => {
    const { ended } = host('echo $$ > "$DIR/pid"; exec sleep 600', { graceMs: 300 }).launch(turn, "r");
    const pid = await noted("pid");
    expect((await ended).ok).toBe(false);
    expect(isRunning(pid)).toBe(false);
  });

  test("that forks and ends leaves its child to do the work", async () => {
    const { ended } = host('sh -c "echo \\$\\$ > $DIR/child; exec sleep 600" & exit 0').launch(turn, "r");
    expect(await ended).toEqual({ ok: true, why: "" });
    expect(isRunning(await noted("child"))).toBe(true);
  });
});

describe("its end", () => {
  test("whatever it left behind is found by the turn, also by another daemon, and in another session", async () => {
    const { ended } = host(
      'setsid sh -c "echo \\$\\$ > $DIR/away; exec sleep 600" & (cd /; sh -c "echo \\$\\$ > $DIR/child; exec sleep 600") & exit 0',
    ).launch(turn, "r");
    await ended;
    const [away, child] = [await noted("away"), await noted("child")];
    await host("true").endCommand(turn);
    expect([isRunning(away), isRunning(child)]).toEqual([false, false]);
    expect(processesWithEnv("ROTA_TURN_ID", turn)).toEqual([]);
  });

  test("it ends one that ignores SIGTERM", async () => {
    host('trap "" TERM; echo $$ > "$DIR/pid"; while :; do sleep 0.05; done').launch(turn, "r");
    const pid = await noted("pid");
    await host("true").endCommand(turn);
    expect(isRunning(pid)).toBe(false);
  });

  test("another turn's command is left alone, and so is nothing at all", async () => {
    const other = clock.uuid();
    host('echo $$ > "$DIR/pid"; exec sleep 600').launch(other, "r");
    const pid = await noted("pid");
    await host("true").endCommand(turn);
    expect(isRunning(pid)).toBe(true);
    await host("true").endCommand(other);
    expect(isRunning(pid)).toBe(false);
  });

  test("the command under way is ended too, and says so", async () => {
    const { ended } = host('echo $$ > "$DIR/pid"; exec sleep 600').launch(turn, "r");
    await noted("pid");
    await host("true").endCommand(turn);
    expect(await ended).toEqual({ ok: false, why: "ended by SIGTERM" });
  });
});

test("whether the system goes down is asked of the init system", async () => {
  expect(await host("true").goingDown(new AbortController().signal)).toBe("a job");
});
