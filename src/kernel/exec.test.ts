/** Real programs, real process groups: what a started program may do and what becomes of it. */
import { describe, expect, test } from "bun:test";
import { chmodSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { realClock } from "./clock.ts";
import {
  endGroup,
  endProcesses,
  isRunning,
  type ProcessRef,
  processesWithEnv,
  processRef,
  type RunOptions,
  realRun,
} from "./exec.ts";

const clock = realClock();
const run = realRun(clock);
const env = { PATH: "/usr/sbin:/usr/bin:/sbin:/bin" };
const sh = (script: string, options: Partial<RunOptions> = {}, args: readonly string[] = []) =>
  run("test", ["/bin/sh", "-c", script, ...args], { timeoutMs: 20_000, env, ...options });

function scratch(): { dir: string; [Symbol.dispose](): void } {
  const dir = mkdtempSync(join(tmpdir(), "rota-exec-"));
  return { dir, [Symbol.dispose]: () => rmSync(dir, { recursive: true, force: true }) };
}

/** Polls until `what` is true; the test's own limit ends a wait for what never comes. */
async function until(what: () => boolean): Promise<void> {
  while (!what()) await clock.sleep(10);
}

/** The process whose number a script wrote to `file`. */
async function noted(file: string): Promise<ProcessRef> {
  await until(() => existsSync(file) && readFileSync(file, "latin1").trim() !== "");
  const ref = processRef(Number(readFileSync(file, "latin1")));
  if (!ref) throw new Error(`the process noted in ${file} is gone already`);
  return ref;
}

describe("what comes back", () => {
  test("exit code 0 has no reason; both outputs are kept apart", async () => {
    const result = await sh("echo out; echo err >&2");
    expect(result).toMatchObject({ label: "test", stdout: "out\n", stderr: "err\n", truncated: false, exitCode: 0 });
    expect(result.reason).toBeUndefined();
  });

  test("another exit code, and death by signal", async () => {
    expect(await sh("exit 7")).toMatchObject({ reason: "exit", exitCode: 7 });
    const killed = await sh("kill -KILL $$");
    expect(killed).toMatchObject({ reason: "signal", signal: "SIGKILL" });
    expect(killed.exitCode).toBeUndefined();
  });

  test("the environment is exactly what is given", async () => {
    const result = await run("env", ["/usr/bin/env"], { timeoutMs: 20_000, env: { ONLY: "this one" } });
    expect(result.stdout).toBe("ONLY=this one\n");
  });

  test("the program is looked for in the PATH that is given", async () => {
    using s = scratch();
    writeFileSync(join(s.dir, "rota-test-tool"), "#!/bin/sh\necho found\n", { mode: 0o755 });
    expect(await run("tool", ["rota-test-tool"], { timeoutMs: 20_000, env: { PATH: s.dir } })).toMatchObject({
      stdout: "found\n",
    });
    expect(await run("tool", ["rota-test-tool"], { timeoutMs: 20_000, env })).toMatchObject({ reason: "spawn" });
  });

  test("no shell: arguments arrive as they are", async () => {
    const result = await run("printf", ["/usr/bin/printf", "%s|", "$HOME", "a b", "*", "`id`", ""], {
      timeoutMs: 20_000,
      env,
    });
    expect(result.stdout).toBe("$HOME|a b|*|`id`||");
  });

  test("standard input: the text that is given, else empty", async () => {
    expect(await sh("cat", { stdin: "héllo" })).toMatchObject({ stdout: "héllo" });
    expect(await sh("cat")).toMatchObject({ stdout: "", exitCode: 0 });
    expect(await sh("exit 3", { stdin: "x".repeat(2_000_000) })).toMatchObject({ reason: "exit", exitCode: 3 });
  });

  test("working directory", async () => {
    using s = scratch();
    expect((await sh("pwd", { cwd: s.dir })).stdout.trim()).toBe(s.dir);
    const gone = await sh("pwd", { cwd: join(s.dir, "gone") });
    expect(gone).toMatchObject({ reason: "spawn", error: `working directory not found: ${s.dir}/gone` });
  });
});

describe("what cannot be started is told apart from what fails", () => {
  test.each([
    ["/no/such/program", undefined, "not found: /no/such/program"],
    ["no-such-program", undefined, "not found: no-such-program"],
    ["plain", { text: "#!/bin/sh\n", mode: 0o644 }, "not executable: DIR/plain (permission denied)"],
    [
      "words",
      { text: "just words\n", mode: 0o755 },
      'not executable: DIR/words has neither a "#!" line nor a format that this machine knows',
    ],
    [
      "orphan",
      { text: "#!/no/such/interpreter\n", mode: 0o755 },
      "not executable: the interpreter or loader that DIR/orphan asks for was not found",
    ],
    ["/", undefined, "not executable: / is a directory"],
  ] as const)("%s", async (name, file, sentence) => {
    using s = scratch();
    const path = file ? join(s.dir, name) : name;
    if (file) {
      writeFileSync(path, file.text);
      chmodSync(path, file.mode);
    }
    const result = await run("x", [path], { timeoutMs: 20_000, env });
    expect(result).toMatchObject({ reason: "spawn", error: sentence.replace("DIR", s.dir) });
    expect(result.exitCode).toBeUndefined();
  });

  test("an argument with a NUL byte is a failure to start, not a crash", async () => {
    expect(await run("x", ["/bin/echo", "a\0b"], { timeoutMs: 20_000, env })).toMatchObject({ reason: "spawn" });
  });
});

describe("the process group", () => {
  test("the program leads a group and a session of its own", async () => {
    let pid = 0;
    const result = await sh("ps -o pid=,pgid=,sid= -p $$", { onSpawn: (p) => (pid = p) });
    expect(result.stdout.trim().split(/\s+/).map(Number)).toEqual([pid, pid, pid]);
  });

  test("timeout: the whole group gets SIGTERM, and may clean up", async () => {
    using s = scratch();
    const result = await sh(`trap 'echo bye; exit 0' TERM; sleep 600 & echo $! > ${s.dir}/child; wait`, {
      timeoutMs: 300,
    });
    expect(result).toMatchObject({ reason: "timeout", stdout: "bye\n", exitCode: 0 });
    expect(processRef(Number(readFileSync(join(s.dir, "child"), "latin1")))).toBeUndefined();
  });

  test("timeout: who ignores SIGTERM is killed, children too, within timeout + 5 s", async () => {
    using s = scratch();
    const began = clock.monotonic();
    const result = await sh(
      `trap '' TERM; sh -c 'sleep 600; :' & echo $! > ${s.dir}/child; while :; do sleep 0.1; done`,
      { timeoutMs: 500 },
    );
    expect(result).toMatchObject({ reason: "timeout", signal: "SIGKILL" });
    expect(clock.monotonic() - began).toBeLessThan(5500);
    expect(processRef(Number(readFileSync(join(s.dir, "child"), "latin1")))).toBeUndefined();
  });

  test("timeout: a grandchild that holds the pipe from another session is not waited for", async () => {
    using s = scratch();
    const began = clock.monotonic();
    const result = await sh(`setsid sh -c 'echo $$ > ${s.dir}/far; exec sleep 600' & sleep 600`, { timeoutMs: 500 });
    expect(result.reason).toBe("timeout");
    expect(clock.monotonic() - began).toBeLessThan(5500);
    await endProcesses([await noted(join(s.dir, "far"))], clock);
  });

  test("exit 0 with a background child that holds the pipe: prompt, still a success, and the child is ended", async () => {
    using s = scratch();
    const began = clock.monotonic();
    const result = await sh(`sleep 600 & echo $! > ${s.dir}/child; echo fine`);
    expect(result).toMatchObject({ stdout: "fine\n", exitCode: 0 });
    expect(result.reason).toBeUndefined();
    expect(clock.monotonic() - began).toBeLessThan(5000);
    expect(processRef(Number(readFileSync(join(s.dir, "child"), "latin1")))).toBeUndefined();
  });

  test("leftovers may be left, for a reboot command that forks", async () => {
    using s = scratch();
    const result = await sh(`sleep 600 & echo $! > ${s.dir}/child`, { leftovers: "leave" });
    expect(result.exitCode).toBe(0);
    const child = await noted(join(s.dir, "child"));
    expect(isRunning(child)).toBe(true);
    expect(await endProcesses([child], clock)).toEqual([]);
    expect(isRunning(child)).toBe(false);
  });

  test("an abort ends the group; one that came before starts nothing", async () => {
    using s = scratch();
    const stop = new AbortController();
    const running = sh(`echo $$ > ${s.dir}/self; sleep 600`, { signal: stop.signal });
    const self = await noted(join(s.dir, "self"));
    stop.abort(new Error("enough"));
    expect(await running).toMatchObject({ reason: "cancelled", signal: "SIGTERM" });
    expect(isRunning(self)).toBe(false);
    let started = false;
    expect(await sh("true", { signal: stop.signal, onSpawn: () => (started = true) })).toMatchObject({
      reason: "cancelled",
    });
    expect(started).toBe(false);
  });

  test("when the start cannot be recorded, nothing goes on running", async () => {
    let self: ProcessRef | undefined;
    const onSpawn = (pid: number) => {
      self = processRef(pid);
      throw new Error("disk full");
    };
    await expect(sh("sleep 600", { onSpawn })).rejects.toThrow("disk full");
    expect(self && isRunning(self)).toBe(false);
  });

  test("no pipe stays open behind a run", async () => {
    const open = () =>
      readFileSync("/proc/self/status", "latin1").length &&
      [...new Bun.Glob("*").scanSync({ cwd: "/proc/self/fd", onlyFiles: false })].length;
    await sh("setsid sleep 1 & true");
    const before = open();
    for (let i = 0; i < 10; i++) await sh("setsid sleep 5 & true");
    await until(() => open() <= before);
  }, 30_000);
});

describe("output", () => {
  test("head and tail are kept, and what is missing is counted", async () => {
    const result = await sh("echo first; head -c 200000 /dev/zero | tr '\\0' x; echo; echo last", {
      maxOutputBytes: 1000,
    });
    expect(result.truncated).toBe(true);
    expect(result.stdout.startsWith("first\nxxx")).toBe(true);
    expect(result.stdout.endsWith("xxx\nlast\n")).toBe(true);
    expect(result.stdout).toContain("\n[… 199012 bytes dropped …]\n");
  });

  test("exactly the cap is not truncated", async () => {
    expect(await sh("printf 0123456789", { maxOutputBytes: 10 })).toMatchObject({
      stdout: "0123456789",
      truncated: false,
    });
    expect(await sh("printf 0123456789a", { maxOutputBytes: 10 })).toMatchObject({
      stdout: "01234\n[… 1 bytes dropped …]\n6789a",
      truncated: true,
    });
    expect(await sh("printf 0123", { maxOutputBytes: 0 })).toMatchObject({
      stdout: "\n[… 4 bytes dropped …]\n",
      truncated: true,
    });
  });

  test("no character is cut in half, wherever the cuts fall", async () => {
    const piece = fc.constantFrom("a", "é", "€", "𝄞");
    await fc.assert(
      fc.asyncProperty(
        fc.array(piece, { minLength: 20, maxLength: 40 }),
        fc.integer({ min: 0, max: 40 }),
        async (pieces, cap) => {
          const result = await run("cat", ["/bin/cat"], {
            timeoutMs: 20_000,
            env,
            stdin: pieces.join(""),
            maxOutputBytes: cap,
          });
          expect(result.stdout).not.toContain("\uFFFD");
          const dropped = Number(/\[… (\d+) bytes dropped …\]/.exec(result.stdout)?.[1] ?? 0);
          const kept = result.stdout.replace(/\n\[… \d+ bytes dropped …\]\n/, "");
          expect(Buffer.byteLength(kept) + dropped).toBe(Buffer.byteLength(pieces.join("")));
          expect(pieces.join("").startsWith(result.stdout.split("\n[")[0] ?? "")).toBe(true);
        },
      ),
      { numRuns: 60 },
    );
  }, 60_000);

  test("memory stays flat while a program prints 500 MB", async () => {
    const program = join(import.meta.dir, "../../test/fixtures/exec-flood.ts");
    const { stdout, stderr } = await run("flood", [process.execPath, program], { timeoutMs: 120_000, env });
    expect(stderr).toBe("");
    const { totalBytes, grownMb } = JSON.parse(stdout);
    console.log(`  500 MB of output: resident memory grew by ${grownMb} MB at most`);
    expect(totalBytes).toBeGreaterThan(499_000_000);
    expect(grownMb).toBeLessThanOrEqual(8);
  }, 120_000);
});

test("a program whose output is inherited outlives the process that started it; a captured one dies of writing", async () => {
  const program = join(import.meta.dir, "../../test/fixtures/exec-outlived.ts");
  for (const [output, lives] of [
    ["inherit", true],
    ["capture", false],
  ] as const) {
    using s = scratch();
    const done = join(s.dir, "done");
    const starter = await sh('exec "$0" "$@" >/dev/null 2>&1', { leftovers: "leave" }, [
      process.execPath,
      program,
      output,
      s.dir,
    ]);
    expect(starter).toMatchObject({ exitCode: 0 });
    const child = await noted(join(s.dir, "child"));
    writeFileSync(join(s.dir, "go"), "");
    await until(() => !isRunning(child));
    expect(existsSync(done)).toBe(lives);
  }
}, 20_000);

describe("processes of an earlier life", () => {
  test("are found by a mark in their environment, in whatever session, and ended", async () => {
    const mark = clock.uuid();
    using s = scratch();
    const script = `setsid sh -c "trap '' TERM; echo \\$\\$ > ${s.dir}/far; while :; do sleep 0.1; done" & exit 0`;
    await sh(script, { env: { ...env, ROTA_TURN_ID: mark } });
    const far = await noted(join(s.dir, "far"));
    const found = processesWithEnv("ROTA_TURN_ID", mark);
    expect(found.map((ref) => ref.pid)).toContain(far.pid);
    expect(processesWithEnv("ROTA_TURN_ID", mark.slice(0, -1))).toEqual([]);
    expect(await endProcesses(found, clock)).toEqual([]);
    expect(isRunning(far)).toBe(false);
  }, 20_000);

  test("a number that was given out again is left alone", async () => {
    using s = scratch();
    await sh(`sleep 600 & echo $! > ${s.dir}/child`, { leftovers: "leave" });
    const child = await noted(join(s.dir, "child"));
    const earlier = { pid: child.pid, start: "1" };
    expect(isRunning(earlier)).toBe(false);
    expect(await endProcesses([earlier], clock)).toEqual([]);
    expect(await endGroup(earlier, clock)).toBe(true);
    expect(isRunning(child)).toBe(true);
    await endProcesses([child], clock);
  });

  test("a group is ended after its leader has gone", async () => {
    using s = scratch();
    let leader: ProcessRef | undefined;
    await sh(`sleep 600 & echo $! > ${s.dir}/child; sleep 0.2`, {
      leftovers: "leave",
      onSpawn: (pid) => (leader = processRef(pid)),
    });
    const child = await noted(join(s.dir, "child"));
    expect(await endGroup(leader as ProcessRef, clock)).toBe(true);
    expect(isRunning(child)).toBe(false);
  });
});
