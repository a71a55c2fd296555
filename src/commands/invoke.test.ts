/** The command line as a person meets it: run in this process, on a terminal made of strings. */
import { describe, expect, test } from "bun:test";
import { Fault } from "../kernel/errors.ts";
import { type AnyCommand, command, type Signals, toolNamed } from "./command.ts";
import { COMMANDS } from "./index.ts";
import { type Invocation, invoke } from "./invoke.ts";
import type { Sink } from "./output.ts";

const GROUPS = { reboot: "Nodes take turns", "serve user": "Users of the store" };

/** Runs `line` (the first word is the name it is called by) and returns all that it left behind. */
async function run(line: string, commands: readonly AnyCommand[] = TABLE, env: Invocation["terminal"]["env"] = {}) {
  const text = { out: "", err: "" };
  const sink = (to: "out" | "err"): Sink => ({
    isTTY: false,
    columns: undefined,
    write: (more) => {
      text[to] += more;
    },
  });
  const stdin = { isTTY: false, text: async () => "", secret: async () => "", line: async () => "" };
  const signals: Signals = {
    signal: new AbortController().signal,
    hurry: new AbortController().signal,
    signalName: () => undefined,
    onHangup: () => () => undefined,
  };
  const [argv0 = "", ...argv] = line.split(" ").filter(Boolean);
  const terminal = { stdin, stdout: sink("out"), stderr: sink("err"), env };
  const code = await invoke({ argv0, argv, terminal, signals, commands, groups: GROUPS });
  return { code, ...text };
}

const status = command({
  path: "reboot status",
  summary: "Show whose turn it is",
  flags: {
    config: { type: "string", value: "FILE", default: "/etc/x.yaml", summary: "the config file" },
    json: { type: "boolean", summary: "print JSON" },
    node: { type: "string", value: "NAME", short: "n", summary: "another node" },
    within: { type: "duration", value: "TIME", summary: "look ahead" },
    parallel: { type: "integer", value: "N", default: 1, min: 1, max: 9, summary: "how many" },
    machine: { type: "list", value: "NAME", summary: "these only" },
    format: { type: "string", value: "FORM", choices: ["wide", "narrow"], summary: "shape" },
  },
  exits: { 4: "it would wait" },
  examples: [{ args: "--json", says: "for scripts" }],
  async run({ flags, out, called }) {
    // The compiler checks these types; nothing here needs a cast.
    const config: string = flags.config;
    const node: string | undefined = flags.node;
    const parallel: number = flags.parallel;
    out.json({ ...flags, config, node, parallel, called });
    return 4;
  },
});

const release = command({
  path: "reboot release",
  summary: "End a turn",
  flags: { reason: { type: "string", value: "TEXT", required: true, summary: "why" } },
  args: { node: { summary: "whose turn" }, more: { summary: "others", optional: true, many: true } },
  async run({ args, out, flags }) {
    const more: readonly string[] = args.more;
    out.line(`${args.node}+${more.join("+")} ${flags.reason}`);
    return 0;
  },
});

const serve = command({
  path: "serve",
  summary: "Be the store",
  async run() {
    throw new Fault("store.away", "nobody answers", { cause: new Error("refused"), exitCode: 9 });
  },
});

const userAdd = command({
  path: "serve user add",
  summary: "Add a user",
  async run() {
    throw new TypeError("x is not a function");
  },
});

const health = command({ path: "health-check", summary: "Check", run: async () => 0 });
const TABLE: readonly AnyCommand[] = [status, release, serve, userAdd, health, ...COMMANDS];

describe("names", () => {
  test("the same command under its tool's own name", async () => {
    expect((await run("/usr/bin/reboot-coordinator status")).out).toContain('"called": "reboot-coordinator status"');
    expect((await run("rota reboot status")).out).toContain('"called": "rota reboot status"');
    expect(await run("lab health-check")).toEqual({ code: 0, out: "", err: "" });
    expect((await run("lab reboot status")).code).toBe(64);
    expect((await run("clusterctl version")).out).toStartWith("clusterctl dev (");
  });

  test("argv0 is a path, has .exe, or is anything", () => {
    expect(toolNamed("./lab")).toBe("lab");
    expect(toolNamed("C:\\tools\\clusterctl.exe")).toBe("clusterctl");
    expect(toolNamed("bun")).toBe("rota");
    expect(toolNamed("rota-linux-x64")).toBe("rota");
  });

  test("a command may also be the name of a group", async () => {
    expect((await run("rota serve")).err).toBe("rota: nobody answers: refused\n");
    expect((await run("rota serve user add")).err).toContain("x is not a function");
    expect((await run("rota serve user --help")).out).toStartWith("Users of the store.");
    expect(await run("rota serve user")).toMatchObject({ code: 64, out: "" });
    expect((await run("rota serve user ad")).err).toContain('did you mean "rota serve user add"?');
    expect((await run("rota serve -h")).out).toMatch(/^ {2}serve user add +Add a user$/m);
    expect((await run("rota serve now")).err).toContain("one argument too many");
  });
});

describe("flags", () => {
  const flagsOf = async (words: string) => JSON.parse((await run(`rota reboot status ${words}`)).out);

  test("Go's forms mean the same", async () => {
    for (const form of ["-config a", "--config a", "-config=a", "--config=a"])
      expect((await flagsOf(form)).config).toBe("a");
    expect((await flagsOf("")).config).toBe("/etc/x.yaml");
    expect((await flagsOf("--json=false")).json).toBe(false);
    expect((await flagsOf("-json=T -n b")).json).toBe(true);
    expect((await flagsOf("--config a --config b")).config).toBe("b");
    expect((await flagsOf("--config=")).config).toBe("");
    expect((await flagsOf("--config=a=b")).config).toBe("a=b");
  });

  test("values have types", async () => {
    expect(await flagsOf("--within 1h30m --parallel 3 --machine a,b --machine c -n x")).toMatchObject({
      within: 5_400_000,
      parallel: 3,
      machine: ["a", "b", "c"],
      node: "x",
    });
    expect((await flagsOf("--within 90")).within).toBe(90_000);
    expect((await flagsOf("--within 1.5d")).within).toBe(129_600_000);
  });

  test.each([
    ["--jsno", "unknown flag --jsno; did you mean --json?"],
    ["--zzz", "unknown flag --zzz"],
    ["--json=maybe", 'flag --json is true or false, not "maybe"'],
    ["--config", "flag --config needs a value"],
    ["--config --json", "flag --config needs a value (write --config=--json if --json is meant)"],
    ["--parallel two", 'flag --parallel is a whole number, not "two"'],
    ["--parallel 0", "flag --parallel is at least 1, not 0"],
    ["--parallel 10", "flag --parallel is at most 9, not 10"],
    ["--within soon", 'flag --within is a time such as 90s, 15m or 2h30m, not "soon"'],
    ["--format wid", 'flag --format is wide, narrow, not "wid"; did you mean wide?'],
    ["--machine a,,b", 'flag --machine has an empty item in "a,,b"'],
    ["more", '"more" is one argument too many'],
  ])("%s is refused", async (words, message) => {
    expect(await run(`rota reboot status ${words}`)).toEqual({ code: 64, out: "", err: `rota: ${message}\n` });
  });

  test("a flag named like something every object has is still unknown", async () => {
    expect((await run("rota reboot status --constructor x")).code).toBe(64);
    expect((await run("rota reboot status --toString")).err).toContain("unknown flag --toString");
  });
});

describe("arguments", () => {
  test("come with or before flags; -- ends the flags", async () => {
    expect((await run("rota reboot release a --reason r b")).out).toBe("a+b r\n");
    expect((await run("rota reboot release --reason r -- -a")).out).toBe("-a+ r\n");
    expect((await run("rota reboot release --reason r -5 -")).out).toBe("-5+- r\n");
  });

  test("missing ones are named", async () => {
    expect((await run("rota reboot release --reason r")).err).toBe("rota: NODE is missing: whose turn\n");
    expect((await run("rota reboot release a")).err).toBe("rota: flag --reason TEXT is required\n");
  });
});

describe("help", () => {
  test("of the tool, a group and a command goes to standard output with 0", async () => {
    for (const line of [
      "rota help",
      "rota --help",
      "rota -h",
      "rota help reboot",
      "rota reboot -h",
      "rota help version",
    ])
      expect(await run(line)).toMatchObject({ code: 0, err: "" });
    const { out } = await run("reboot-coordinator status -h");
    expect(out).toContain("reboot-coordinator status [FLAGS]");
    expect(out).toContain("-n, --node NAME");
    expect(out).toContain("(default /etc/x.yaml)");
    expect(out).toMatch(/^ {2}4 +it would wait$/m);
    expect(out).toContain("reboot-coordinator status --json  for scripts");
    expect((await run("rota reboot release --help")).out).toContain(
      "rota reboot release --reason TEXT [FLAGS] NODE [MORE …]",
    );
  });

  test("without a command it is a mistake: standard error, 64", async () => {
    expect(await run("rota")).toMatchObject({ code: 64, out: "" });
    expect((await run("rota reboot")).err).toStartWith("Nodes take turns.");
  });

  test("a mistyped command is answered with the nearest one", async () => {
    expect((await run("rota rebot status")).err).toBe('rota: unknown command "rebot"; did you mean "rota reboot"?\n');
    expect((await run("rota reboot staus")).err).toBe(
      'rota: unknown command "reboot staus"; did you mean "rota reboot status"?\n',
    );
    expect((await run("reboot-coordinator sttaus")).err).toContain('did you mean "reboot-coordinator status"?');
    expect((await run("rota qqqqq")).err).toBe('rota: unknown command "qqqqq"; "rota help" lists them\n');
  });
});

describe("errors", () => {
  test("a Fault is one sentence and its exit code; anything else says so", async () => {
    expect(await run("rota serve")).toEqual({ code: 9, out: "", err: "rota: nobody answers: refused\n" });
    const odd = await run("rota serve user add");
    expect(odd).toMatchObject({ code: 1, out: "" });
    expect(odd.err).toBe("rota: unexpected error: x is not a function (ROTA_DEBUG=1 shows where)\n");
    expect((await run("rota serve user add", TABLE, { ROTA_DEBUG: "1" })).err).toContain("invoke.test.ts");
  });
});

describe("the real table", () => {
  test("every command has help that fits, and names nobody else has", () => {
    const paths = COMMANDS.map(({ path }) => path);
    expect(new Set(paths).size).toBe(paths.length);
    for (const { path, summary, flags = {}, args = {} } of COMMANDS) {
      expect(path).toMatch(/^[a-z][a-z-]*( [a-z][a-z-]*)*$/);
      expect(summary, path).not.toEndWith(".");
      expect(
        Object.values(args)
          .slice(0, -1)
          .some((arg) => arg.many),
        `${path}: only the last argument may take many`,
      ).toBe(false);
      for (const [name, flag] of Object.entries(flags)) {
        expect(name, path).toMatch(/^[a-z][a-z0-9-]*$/);
        expect(flag.summary, `${path} --${name}`).not.toEndWith(".");
        expect(flag.short ?? "n", `${path} --${name}: -h is help`).not.toBe("h");
      }
    }
  });
});
