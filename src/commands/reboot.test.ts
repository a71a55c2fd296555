/** The coordinator's commands as a person meets them: in this process, on a terminal made of strings, against a real gateway. */
import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import { chmodSync, existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Field } from "../../test/world/engine.ts";
import { TestNode } from "../../test/world/node.ts";
import { machineIdentity } from "../kernel/machine-id.ts";
import type { Outcome } from "../reboot/machine.ts";
import { startGateway } from "../store/gateway.ts";
import { Users } from "../store/users.ts";
import type { Signals } from "./command.ts";
import { COMMANDS } from "./index.ts";
import { invoke } from "./invoke.ts";
import type { Sink } from "./output.ts";
import { blockingCode, exitCodeOf } from "./reboot-exits.ts";
import { ageInWords } from "./reboot-line.ts";

let dir = "";
let field: Field;
let gateway: ReturnType<typeof startGateway>;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "rota-commands-"));
  field = new Field();
  const { engine, clock } = field;
  const ports = { clock, log: () => undefined };
  const users = new Users({ tables: engine.tables, ...ports });
  gateway = startGateway({ engine, users, ...ports, listen: { hostname: "127.0.0.1", port: 0 } });
  writeFileSync(join(dir, "machine-id"), "0123456789abcdef0123456789abcdef\n");
  writeFileSync(join(dir, "boot-id"), "boot-me-1\n");
  script("health", "exit 0");
  configure();
});
afterEach(async () => {
  await gateway.stop();
  field[Symbol.dispose]();
  rmSync(dir, { recursive: true, force: true });
});

function script(name: string, body: string): void {
  writeFileSync(join(dir, name), `#!/bin/sh\n${body}\n`);
  chmodSync(join(dir, name), 0o755);
}

function configure(more = "", endpoint = gateway.url): void {
  writeFileSync(
    join(dir, "config.yaml"),
    `node_name: me
etcd_endpoints: ["${endpoint}"]
health_script: ${dir}/health
kill_switch_file: ${dir}/disable
machine_id_file: ${dir}/machine-id
boot_id_file: ${dir}/boot-id
state_dir: ${dir}/state
lock_key: /rota/lock
reboot_command: [/bin/sh, -c, "touch ${dir}/rebooted"]
reboot_required_detectors:
  - {type: file, name: marker, path: ${dir}/marker}
${more}`,
  );
}

interface Typed {
  /** A person at a terminal, and what he answers. */
  readonly answer?: string | (() => Promise<string>);
}

/** `rota reboot WORDS --config …` as it leaves the terminal. */
async function rota(words: readonly string[], typed: Typed = {}) {
  const text = { out: "", err: "" };
  const sink = (to: "out" | "err"): Sink => ({
    isTTY: false,
    columns: undefined,
    write: (more) => {
      text[to] += more;
    },
  });
  const asked: string[] = [];
  const stdin = {
    isTTY: typed.answer !== undefined,
    text: async () => "",
    secret: async () => "",
    line: async (prompt: string) => {
      asked.push(prompt);
      return typeof typed.answer === "function" ? await typed.answer() : (typed.answer ?? "");
    },
  };
  const signals: Signals = {
    signal: new AbortController().signal,
    hurry: new AbortController().signal,
    signalName: () => undefined,
    onHangup: () => () => undefined,
  };
  const terminal = { stdin, stdout: sink("out"), stderr: sink("err"), env: { PATH: process.env["PATH"] } };
  const argv = ["reboot", ...words, "--config", join(dir, "config.yaml")];
  const code = await invoke({ argv0: "rota", argv, terminal, signals, commands: COMMANDS, groups: {} });
  return { code, asked, ...text };
}
const json = async (words: readonly string[]) => {
  const { out, code } = await rota([...words, "--json"]);
  return { code, found: JSON.parse(out) as Record<string, unknown> & readonly Record<string, unknown>[] };
};

/** a is in its turn and its daemon gone; b waits behind it. */
async function aGhost(): Promise<{ readonly a: TestNode; readonly b: TestNode }> {
  const a = new TestNode(field, "a");
  const b = new TestNode(field, "b");
  a.wants = b.wants = true;
  a.start();
  await field.clock.until("a goes", () => a.launched.length > 0);
  b.start();
  await field.clock.until("b waits", () => b.state === "waiting");
  a.kill();
  await field.clock.advance(61_000);
  return { a, b };
}

describe("queue", () => {
  test("nobody is in line", async () => {
    expect(await rota(["queue"])).toMatchObject({ code: 0, out: "nobody is in line\n", err: "" });
    expect((await rota(["queue", "--json"])).out).toBe("[]\n");
  });

  test("shows the line, oldest first, with who is silent, and foreign keys", async () => {
    await aGhost();
    await field.put(`${field.space.line}fffffffffffffff`, "etcdctl", await field.grant());
    const { out, code } = await rota(["queue"]);
    expect(code).toBe(0);
    const rows = out
      .trimEnd()
      .split("\n")
      .map((row) => row.trim().split(/\s{2,}/));
    expect(rows.map((row) => row.slice(0, 3))).toEqual([
      ["#", "NODE", "PHASE"],
      ["1", "a", "rebooting"],
      ["2", "b", "queued"],
      ["3", "(foreign)", "foreign"],
    ]);
    expect(rows[1]).toContain("silent");
    expect(rows[2]).toContain("alive");
    expect(rows[1]).toContain("a new kernel");
  });

  test("as JSON it has all that a release needs", async () => {
    await aGhost();
    const [first, second] = (await json(["queue"])).found;
    expect(first).toMatchObject({
      place: 1,
      node: "a",
      phase: "rebooting",
      in_turn: true,
      daemon_alive: false,
      young: false,
      reason: "a new kernel",
    });
    expect(first?.["revision"]).toBe((await field.get(String(first?.["key"])))?.modRevision);
    expect(first?.["age_sec"]).toBeGreaterThan(0);
    expect(second).toMatchObject({ place: 2, node: "b", in_turn: false, daemon_alive: true });
  });

  test("a store that is away is one sentence", async () => {
    configure("", "http://127.0.0.1:1");
    const { code, out, err } = await rota(["queue"]);
    expect({ code, out }).toEqual({ code: 1, out: "" });
    expect(err).toStartWith("rota: no store answered turn.show: cannot reach http://127.0.0.1:1");
    expect(err.trimEnd().split("\n").at(-1)).not.toContain("    at ");
  });
});

describe("release", () => {
  test("ends the turn of a silent machine, and says what that means", async () => {
    const { b } = await aGhost();
    const { code, out } = await rota(["release", "--node", "a", "--reason", "mainboard died"]);
    expect(code).toBe(0);
    expect(out).toMatch(
      /^ended the turn of a \(rebooting for .*, revision \d+\); it counts as down until it has proven itself healthy\n$/,
    );
    const [note] = await field.below(field.space.ended(""));
    expect(JSON.parse(note?.value ?? "{}")).toMatchObject({ node: "a", why: "mainboard died" });
    await field.clock.until("b goes", () => b.launched.length > 0);
  });

  test("by key and revision, as JSON", async () => {
    await aGhost();
    const [first] = (await json(["queue"])).found;
    const words = ["release", "--key", String(first?.["key"]), "--reason", "r"];
    const wrong = await rota([...words, "--revision", "1"]);
    expect(wrong.code).toBe(1);
    expect(wrong.err).toContain(`the key is at revision ${first?.["revision"]}, not 1; look at the queue again`);
    const { code, found } = await json([...words, "--revision", String(first?.["revision"])]);
    expect(code).toBe(0);
    expect(found).toMatchObject({ released: { node: "a", in_turn: true }, why: "r" });
  });

  test("a person is asked first, and may think better of it", async () => {
    await aGhost();
    const words = ["release", "--node", "a", "--reason", "r"];
    for (const answer of ["", "n", "yep"]) {
      const { code, err, asked } = await rota(words, { answer });
      expect(code).toBe(1);
      expect(asked).toEqual(["End it? [y/N] "]);
      expect(err).toContain("The next machine may then go down, whatever this one is doing.");
      expect(err).toContain("nothing was changed");
    }
    expect((await rota([...words, "--yes"], { answer: "n" })).asked).toEqual([]);
    expect((await rota(words, { answer: "y" })).err).toContain("a is not in line");
  });

  test("what is shown while a person thinks is what is ended", async () => {
    const { a } = await aGhost();
    const key = a.disk.turn?.key ?? "";
    const answer = async () => {
      await field.put(key, (await field.get(key))?.value ?? "");
      return "y";
    };
    const { code, err } = await rota(["release", "--node", "a", "--reason", "r"], { answer });
    expect(code).toBe(1);
    expect(err).toContain("the turn has changed since it was shown; look at the queue again");
    expect(await field.get(key)).toBeDefined();
  });

  test.each([
    [["--reason", "r"], 64, "say whose turn to end: either --node NAME or --key KEY"],
    [["--node", "a", "--key", "k", "--reason", "r"], 64, "either --node NAME or --key KEY"],
    [["--node", "a", "--reason", " "], 64, "--reason must say something"],
    [["--node", "a"], 64, "--reason"],
    [["--node", "z", "--reason", "r"], 1, "z is not in line"],
  ] as const)("%p is refused", async (words, code, sentence) => {
    await aGhost();
    const answer = await rota(["release", ...words]);
    expect(answer.code).toBe(code);
    expect(answer.err).toContain(sentence);
  });

  test("a living daemon in the boot of its turn is refused with 3; --force overrides that", async () => {
    const { a } = await aGhost();
    await field.put(`${field.space.alive}m-a`, JSON.stringify({ node: "a", boot_id: "boot-a-1" }));
    const words = ["release", "--node", "a", "--reason", "r"];
    const refused = await rota(words);
    expect(refused.code).toBe(3);
    expect(refused.err).toContain("the daemon of a still runs in the boot in which it took this turn");
    expect(await field.get(a.disk.turn?.key ?? "")).toBeDefined();
    expect((await rota([...words, "--force"])).code).toBe(0);
  });

  test("a young fence is refused with 3, --force or not; a foreign key without it", async () => {
    const a = new TestNode(field, "a");
    a.wants = true;
    a.start();
    await field.clock.until("a goes", () => a.launched.length > 0);
    const young = await rota(["release", "--node", "a", "--reason", "r", "--force"]);
    expect(young.code).toBe(3);
    expect(young.err).toContain("try again in a minute");
    await field.put(`${field.space.line}abc`, "etcdctl", await field.grant());
    const foreign = await rota(["release", "--key", `${field.space.line}abc`, "--reason", "r"]);
    expect(foreign.code).toBe(3);
    expect(foreign.err).toContain("not one of Rota's keys");
  });
});

describe("stop and resume", () => {
  test("for everybody, once, and back", async () => {
    const first = await rota(["stop", "--reason", "incident 4711"]);
    expect(first).toMatchObject({ code: 0, out: "stopped until somebody says resume\n" });
    expect(await field.json(field.space.stops[0])).toMatchObject({ why: "incident 4711" });
    const second = await rota(["stop", "--reason", "again"]);
    expect(second.code).toBe(1);
    expect(second.err).toContain("a stop is set already");
    expect(await field.json(field.space.stops[0])).toMatchObject({ why: "incident 4711" });
    expect(await rota(["resume"])).toMatchObject({ code: 0, out: "resumed\n" });
    expect(await rota(["resume"])).toMatchObject({ code: 0, out: "there was no stop\n" });
    expect(await field.get(field.space.stops[0])).toBeUndefined();
  });

  test("for the group alone, for a time", async () => {
    const { code, out } = await rota(["stop", "--group", "--for", "2h", "--reason", "r"]);
    expect({ code, out }).toEqual({ code: 0, out: "stopped this group for 2h0m\n" });
    expect(await field.get(field.space.stops[0])).toBeUndefined();
    expect(await field.json(field.space.stops[1])).toHaveProperty("until");
    expect((await rota(["resume"])).out).toBe("there was no stop\n");
    await field.clock.advance(7_201_000);
    expect(await field.get(field.space.stops[1])).toBeUndefined();
  });
});

describe("for scripts", () => {
  test("every command that prints has --json", () => {
    const without = COMMANDS.filter(({ flags }) => flags?.["json"]?.type !== "boolean").map(({ path }) => path);
    // It prints nothing but its log.
    expect(without).toEqual(["serve"]);
  });

  test("stop and resume", async () => {
    const { found } = await json(["stop", "--group", "--for", "2h", "--reason", "r"]);
    expect(found).toMatchObject({ stopped: "group", why: "r", for_sec: 7200, who: expect.any(String) });
    const none = await json(["resume"]);
    expect(none).toMatchObject({ code: 0, found: { resumed: false, still_stopped: [{ group: true }] } });
    expect((await json(["resume", "--group"])).found).toMatchObject({ resumed: true, still_stopped: [] });
  });

  test("validate-config: what holds, and every fault with its place", async () => {
    const good = await json(["validate-config", "--print"]);
    expect(good).toMatchObject({ code: 0, found: { valid: true, settings: { node_name: "me" } } });
    writeFileSync(join(dir, "config.yaml"), "node_name: me\nsots: 2\nhealth_script: relative\n");
    const { code, found } = await json(["validate-config"]);
    expect(code).toBe(2);
    expect(found).toMatchObject({ valid: false });
    expect(found["faults"]).toContainEqual(expect.objectContaining({ line: 2, key: "sots" }));
    expect(found["faults"]).toContainEqual(expect.objectContaining({ line: 3, key: "health_script" }));
  });

  test("run: the outcome of a single pass; the daemon prints none", async () => {
    const refused = await rota(["run", "--json"]);
    expect(refused).toMatchObject({ code: 64, out: "" });
    expect(refused.err).toContain("--json goes with --once");
  });
});

describe("forget", () => {
  test("a machine that is gone for good; not one in its turn", async () => {
    const { b } = await aGhost();
    const refused = await rota(["forget", "a", "--reason", "sold"]);
    expect(refused.code).toBe(3);
    expect(refused.err).toContain("a is not forgotten: it is in line or in its turn");
    await rota(["release", "--node", "a", "--reason", "sold"]);
    expect(await rota(["forget", "a", "--reason", "sold"])).toMatchObject({
      code: 0,
      out: "a is forgotten (sold); if its daemon starts again, it enrols again\n",
    });
    expect(await field.get(`${field.space.health}a`)).toBeUndefined();
    expect((await rota(["forget", "a", "--reason", "sold"])).err).toContain("nobody on the roster is called a");
    b.kill();
  });
});

describe("status", () => {
  test("nothing wanted, all open: 0", async () => {
    const { code, out } = await rota(["status"]);
    expect(code).toBe(0);
    expect(out).toStartWith("me: no_action - no detector wants a reboot\nreboot required: no\n");
  });

  test.each([
    ["ready", (): void => undefined, "ready", 0],
    ["kill switch", () => writeFileSync(join(dir, "disable"), ""), "kill_switch_active", 5],
    ["sick", () => script("health", "exit 1"), "health_blocked", 3],
    ["a stop", () => field.put(field.space.stops[0], "{}"), "stopped", 5],
    ["a cooldown", () => field.put(`${field.space.cooldown}t`, "{}"), "cooldown_active", 0],
    ["a foreign lock", async () => field.put(`${field.space.line}ab`, "", await field.grant()), "lock_unavailable", 4],
  ] as const)("a reboot is wanted, %s", async (_, change, outcome, exit) => {
    writeFileSync(join(dir, "marker"), "");
    await change();
    const before = await field.below("/");
    const { code, found } = await json(["status"]);
    expect({ code, outcome: found["outcome"] }).toEqual({ code: exit, outcome });
    expect(found).toMatchObject({ node: "me", reboot_required: true });
    // It looks and changes nothing: neither a key nor a revision.
    expect(await field.below("/")).toEqual(before);
    expect(existsSync(join(dir, "rebooted"))).toBe(false);
  });

  test("says where it stands in line, and behind whom", async () => {
    const { b } = await aGhost();
    writeFileSync(join(dir, "marker"), "");
    const { code, found } = await json(["status"]);
    expect(code).toBe(4);
    expect(found["why"]).toBe("third in line, behind a");
    expect(found["line"]).toEqual({ holder: "a", ahead: 2, phase: null });
    b.kill();
  });

  test.each([
    ["boot-me-1", "rebooting", 0],
    ["boot-me-0", "recovering", 3],
  ] as const)("in its own turn of boot %p it is %s", async (boot, outcome, exit) => {
    const machine = machineIdentity(join(dir, "machine-id"));
    const value = {
      schema: 1,
      node: "me",
      pid: 1,
      turn_id: "t",
      machine,
      boot_id: boot,
      slots: 1,
      phase: "rebooting",
      reason: "r",
      queued_at: "q",
    };
    await field.put(`${field.space.line}ab`, JSON.stringify(value));
    const { code, found } = await json(["status"]);
    expect({ code, outcome: found["outcome"] }).toEqual({ code: exit, outcome });
  });

  test("--skip-lock asks no store, --skip-health runs no script", async () => {
    configure("", "http://127.0.0.1:1");
    script("health", `touch ${dir}/ran; exit 1`);
    writeFileSync(join(dir, "marker"), "");
    const { code, found } = await json(["status", "--skip-lock", "--skip-health"]);
    expect({ code, outcome: found["outcome"], line: found["line"] }).toEqual({ code: 0, outcome: "ready", line: null });
    expect(existsSync(join(dir, "ran"))).toBe(false);
  });
});

describe("what only looks at this machine", () => {
  test("simulate runs the detectors and shows each", async () => {
    expect((await rota(["simulate"])).out).toContain("reboot required: no");
    writeFileSync(join(dir, "marker"), "");
    const { code, found } = await json(["simulate"]);
    expect(code).toBe(0);
    expect(found).toMatchObject({ required: true, detectors: [{ name: "marker", requires: true }] });
  });

  test("simulate with a detector that fails: 6", async () => {
    configure("  - {type: command, name: broken, cmd: [/no/such/program]}\n");
    const { code, out } = await rota(["simulate"]);
    expect(code).toBe(6);
    expect(out).toContain("not found: /no/such/program");
  });

  test("validate-config", async () => {
    expect(await rota(["validate-config"])).toMatchObject({ code: 0, out: `${dir}/config.yaml: valid\n` });
    expect((await rota(["validate-config", "--print"])).out).toContain("node_name: me");
    configure("lock_ttl_sce: 5\n");
    const { code, err } = await rota(["validate-config"]);
    expect(code).toBe(2);
    expect(err).toContain("lock_ttl_sce");
    expect((await rota(["queue"])).code).toBe(2);
  });
});

describe("a single pass of run", () => {
  test("says what it came to, and never reboots", async () => {
    const { code, out } = await rota(["run", "--once"]);
    expect({ code, out }).toEqual({ code: 0, out: "outcome: no_action - no detector wants a reboot\n" });
    writeFileSync(join(dir, "marker"), "");
    const ready = await rota(["run", "--once"]);
    expect(ready.code).toBe(0);
    expect(ready.out).toBe(
      "outcome: ready - every gate is open\nready outcome reached; run without --once to execute the reboot command\n",
    );
    expect(existsSync(join(dir, "rebooted"))).toBe(false);
    expect(await field.below(field.space.line)).toEqual([]);
    expect(await field.below(field.space.alive)).toEqual([]);
  });

  test.each([
    ["kill switch", () => writeFileSync(join(dir, "disable"), ""), 5],
    ["sick", () => script("health", "exit 1"), 3],
    ["somebody ahead", async () => field.put(`${field.space.line}1`, "", await field.grant()), 4],
  ] as const)("%s", async (_, change, exit) => {
    writeFileSync(join(dir, "marker"), "");
    await change();
    expect((await rota(["run", "--once"])).code).toBe(exit);
    expect((await field.below(field.space.line)).filter(({ value }) => value !== "")).toEqual([]);
  });

  test("a store that is away ends it with 1", async () => {
    configure("", "http://127.0.0.1:1");
    const { code, err } = await rota(["run", "--once", "--log-format", "text"]);
    expect(code).toBe(1);
    expect(err).toContain("no store answered");
  });
});

test.each([
  [0, "0s"],
  [59, "59s"],
  [60, "1m"],
  [61, "1m1s"],
  [600, "10m"],
  [601, "10m"],
  [3_600, "1h0m"],
  [11_100, "3h5m"],
  [187_200, "2d4h"],
])("%p s is %p", (seconds, words) => {
  expect(ageInWords(seconds)).toBe(words);
});

test("every outcome has a code; a supervisor sees only those that block", () => {
  const codes: Readonly<Record<Outcome, readonly [number, number]>> = {
    no_action: [0, 0],
    store_away: [1, 0],
    ready: [0, 0],
    recheck_cleared: [0, 0],
    window_denied: [0, 0],
    window_outside_allow: [0, 0],
    cooldown_active: [0, 0],
    rebooting: [0, 0],
    verified: [0, 0],
    health_blocked: [3, 3],
    policy_blocked: [3, 3],
    recovering: [3, 3],
    lock_unavailable: [4, 4],
    kill_switch_active: [5, 5],
    stopped: [5, 5],
    health_error: [1, 0],
    detector_error: [1, 0],
    name_taken: [1, 0],
    reboot_failed: [1, 0],
  };
  for (const [outcome, [exit, blocking]] of Object.entries(codes)) {
    expect(exitCodeOf(outcome as Outcome), outcome).toBe(exit);
    expect(blockingCode(outcome as Outcome), outcome).toBe(blocking);
  }
});
