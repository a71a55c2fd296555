/** What each detector takes for yes, no and neither; with real files and programs. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { chmodSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { realClock } from "../../kernel/clock.ts";
import { sentence } from "../../kernel/errors.ts";
import { realRun } from "../../kernel/exec.ts";
import { type CommandDetectorSettings, commandDetector } from "./command.ts";
import { type Detector, evaluate } from "./detector.ts";
import { fileDetector, presence } from "./file.ts";
import { makeDetector } from "./table.ts";

const clock = realClock();
const tools = { run: realRun(clock), clock, env: { PATH: "/usr/sbin:/usr/bin:/sbin:/bin", RC_NODE_NAME: "web-1" } };
const live = () => new AbortController().signal;
let dir = "";
beforeAll(() => {
  dir = mkdtempSync(join(tmpdir(), "rota-detectors-"));
});
afterAll(() => rmSync(dir, { recursive: true, force: true }));

describe("file", () => {
  const file = (path: string) =>
    fileDetector({ type: "file", name: "marker", path, timeoutMs: 5000 }, tools).detect(live());

  test("yes while something is there", async () => {
    const path = join(dir, "reboot-required");
    expect(await file(path)).toMatchObject({ name: "marker", requires: false, output: "" });
    writeFileSync(path, "");
    expect(await file(path)).toMatchObject({ requires: true, reason: `${path} exists` });
    expect(await file(dir)).toMatchObject({ requires: true });
    expect((await file(join(path, "below a file"))).requires).toBe(false);
  });

  test("a link that leads nowhere is nothing", async () => {
    symlinkSync(join(dir, "nowhere"), join(dir, "link"));
    expect((await file(join(dir, "link"))).requires).toBe(false);
  });

  test("what cannot be looked at is an error, neither yes nor no", async () => {
    symlinkSync("loop-b", join(dir, "loop-a"));
    symlinkSync("loop-a", join(dir, "loop-b"));
    for (const path of [join(dir, "loop-a"), `/${"x".repeat(300)}`]) {
      const { findings, errors } = await evaluate(
        [fileDetector({ type: "file", name: "m", path, timeoutMs: 5000 }, tools)],
        clock,
        live(),
      );
      expect(findings[0]).toMatchObject({ requires: false });
      expect(errors[0]).toStartWith(`m: cannot look at ${path}: `);
    }
  });
});

describe("a file system that hangs", () => {
  test("is waited for in vain only so long, and once, not anew with each pass", async () => {
    let asked = 0;
    let answer = () => {};
    const there = presence("/mnt/dead", clock, () => {
      asked++;
      return new Promise<void>((resolve) => {
        answer = resolve;
      });
    });
    for (let pass = 0; pass < 3; pass++)
      expect(await there(20).catch(sentence)).toBe("looking at /mnt/dead took longer than 0.02 s");
    expect(asked).toBe(1);
    const pass = there(20_000);
    answer();
    expect(await pass).toBe(true);
    const next = there(20_000, live());
    expect(asked).toBe(2);
    answer();
    expect(await next).toBe(true);
  });
});

describe("command", () => {
  const ask = (script: string, settings: Partial<CommandDetectorSettings> = {}) =>
    commandDetector(
      {
        type: "command",
        name: "check",
        cmd: ["/bin/sh", "-c", script],
        successExitCodes: [],
        timeoutMs: 20_000,
        ...settings,
      },
      tools,
    ).detect(live());

  test.each([
    ["exit 0", [], "no"],
    ["exit 1", [], "yes"],
    ["exit 125", [], "yes"],
    ["exit 255", [], "yes"],
    ["exit 0", [0], "yes"],
    ["exit 1", [0], "no"],
    ["exit 1", [1], "yes"],
    ["exit 2", [1], "no"],
    ["exit 102", [1, 102], "yes"],
    // What would have rebooted a fleet over a missing tool.
    ["exit 126", [], "exit code 126: a program that it calls cannot be executed"],
    ["exit 127", [], "exit code 127: a program that it calls was not found"],
    ["exit 127", [1], "exit code 127: a program that it calls was not found"],
    ["no-such-needs-restarting -r", [], "exit code 127: a program that it calls was not found"],
    ["kill -KILL $$", [], "was ended by SIGKILL"],
    ["kill -SEGV $$", [1], "was ended by SIGSEGV"],
  ] as const)("%s with success_exit_codes %j: %s", async (script, successExitCodes, expected) => {
    const finding = await ask(script, { successExitCodes });
    expect(finding.error ?? (finding.requires ? "yes" : "no")).toBe(expected);
    if (finding.error !== undefined) expect(finding.requires).toBe(false);
  });

  test("a program that is missing or not executable is an error", async () => {
    const plain = join(dir, "plain");
    writeFileSync(plain, "#!/bin/sh\nexit 1\n");
    chmodSync(plain, 0o644);
    expect(await ask("", { cmd: ["/no/such/tool"] })).toMatchObject({
      requires: false,
      error: "not found: /no/such/tool",
    });
    expect(await ask("", { cmd: [plain] })).toMatchObject({
      requires: false,
      error: `not executable: ${plain} (permission denied)`,
    });
  });

  test("one that hangs is an error after its time", async () => {
    expect(await ask("sleep 600", { timeoutMs: 300 })).toMatchObject({
      requires: false,
      error: "did not end within 0.3 s",
    });
  });

  test("timing, exit code, output and the reason are told; the environment is the given one", async () => {
    const finding = await ask("echo $RC_NODE_NAME; echo oops >&2; exit 3");
    expect(finding).toMatchObject({
      name: "check",
      requires: true,
      reason: "/bin/sh exited with 3",
      exitCode: 3,
      output: "web-1\n\noops\n",
    });
    expect(finding.durationMs).toBeGreaterThanOrEqual(0);
  });
});

describe("all of them", () => {
  const saying = (name: string, requires: boolean): Detector => ({
    name,
    detect: async () => ({ name, requires, ...(requires && { reason: `${name} says so` }), durationMs: 1, output: "" }),
  });
  const failing = (name: string, message: string): Detector => ({
    name,
    detect: async () => {
      throw new Error(message);
    },
  });

  test("one error does not hide another's yes, and is not lost", async () => {
    const result = await evaluate(
      [failing("a", "disk"), saying("b", true), saying("c", false), failing("d", "net"), saying("e", true)],
      clock,
      live(),
    );
    expect(result).toMatchObject({ required: true, reason: "b says so; e says so", errors: ["a: disk", "d: net"] });
    expect(result.findings.map(({ name, requires }) => [name, requires])).toEqual([
      ["a", false],
      ["b", true],
      ["c", false],
      ["d", false],
      ["e", true],
    ]);
  });

  test("errors alone are no yes", async () => {
    expect(await evaluate([failing("a", "disk"), saying("b", false)], clock, live())).toMatchObject({
      required: false,
      reason: "",
      errors: ["a: disk"],
    });
  });

  test("they run side by side", async () => {
    const gate = Promise.withResolvers<void>();
    const first: Detector = {
      name: "first",
      async detect() {
        await gate.promise;
        return { name: "first", requires: false, durationMs: 0, output: "" };
      },
    };
    const second: Detector = {
      name: "second",
      async detect() {
        gate.resolve();
        return { name: "second", requires: true, durationMs: 0, output: "" };
      },
    };
    expect((await evaluate([first, second], clock, live())).required).toBe(true);
  });

  test("when they are called off there is no answer", async () => {
    mkdirSync(join(dir, "slow"), { recursive: true });
    const stop = new AbortController();
    const slow = makeDetector(
      { type: "command", name: "slow", cmd: ["/bin/sleep", "600"], successExitCodes: [], timeoutMs: 20_000 },
      tools,
    );
    const marker = makeDetector({ type: "file", name: "m", path: dir, timeoutMs: 1000 }, tools);
    const asked = evaluate([slow, marker], clock, stop.signal);
    stop.abort(new Error("going down"));
    await expect(asked).rejects.toThrow("going down");
  });
});
