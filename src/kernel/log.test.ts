/** The lines that a log writes. */
import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { realClock } from "./clock.ts";
import { Fault } from "./errors.ts";
import { realRun } from "./exec.ts";
import { jsonLog, type Level, type Log, localTime, textLog } from "./log.ts";
import { Secret } from "./secret.ts";

const at = Date.parse("2026-03-01T11:22:33.044Z");

function written(make: (write: (line: string) => void) => Log, say: (log: Log) => void): string[] {
  const lines: string[] = [];
  say(make((line) => lines.push(line)));
  return lines;
}

const json = (say: (log: Log) => void, level: Level = "info") =>
  written(
    (write) => jsonLog({ write, clock: { now: () => at }, level, base: { node: "web-1", component: "orchestrator" } }),
    say,
  );

describe("JSON", () => {
  test("the shape and order that log processors were set up for", () => {
    const [line = ""] = json((log) => log("info", "lock_acquired", "our turn", { attempt: 1, wait_ms: 20 }));
    const ts = localTime(at);
    expect(line).toBe(
      `{"ts":"${ts}","level":"info","node":"web-1","component":"orchestrator","event":"lock_acquired","message":"our turn","fields":{"attempt":1,"wait_ms":20}}\n`,
    );
  });

  test("an empty message is left out, fields never are", () => {
    const [line = ""] = json((log) => log("warn", "kill_switch", ""));
    expect(Object.keys(JSON.parse(line))).toEqual(["ts", "level", "node", "component", "event", "fields"]);
  });

  test("one line per event, whatever the text holds", () => {
    fc.assert(
      fc.property(fc.string({ unit: "binary" }), fc.jsonValue(), (text, value) => {
        const lines = json((log) => log("info", "x", text, { text, value }));
        expect(lines).toHaveLength(1);
        expect(lines[0]?.indexOf("\n")).toBe((lines[0]?.length ?? 0) - 1);
        expect(JSON.parse(lines[0] ?? "").fields.text).toBe(JSON.parse(JSON.stringify(text)));
      }),
    );
  });

  test("errors are told with kind, sentence and causes", () => {
    const cause = new Error("connection refused");
    const error = new Fault("store.away", "nobody answered", { cause });
    const [line = ""] = json((log) => log("error", "retry", "", { error, plain: new TypeError("oops") }));
    expect(JSON.parse(line).fields).toEqual({
      error: { kind: "store.away", message: "nobody answered: connection refused" },
      plain: { kind: "TypeError", message: "oops" },
    });
  });

  test("secrets are masked, int64 values stay exact, circles do not break the log", () => {
    const circle: Record<string, unknown> = {};
    circle["self"] = circle;
    const [first = "", second = ""] = json((log) => {
      log("info", "x", "", { password: new Secret("hunter2"), lease: 7587883213297663498n, gone: undefined });
      log("info", "y", "still here", { circle });
    });
    expect(JSON.parse(first).fields).toEqual({ password: "***", lease: "7587883213297663498" });
    expect(JSON.parse(second)).toMatchObject({ event: "y", message: "still here", fields: { unprintable: true } });
  });

  test("what is less important than the level is not written", () => {
    const say = (log: Log) => {
      for (const level of ["debug", "info", "warn", "error"] as const) log(level, level, "");
    };
    expect(json(say, "warn").map((line) => JSON.parse(line).event)).toEqual(["warn", "error"]);
    expect(json(say, "debug")).toHaveLength(4);
  });
});

test("text for people: time of day, level, sentence or event, facts", () => {
  const lines = written(
    (write) => textLog({ write, clock: { now: () => at }, level: "info" }),
    (log) => {
      log("info", "lock_acquired", "our turn", {
        attempt: 1,
        node: "web 1",
        secret: new Secret("x"),
        empty: "",
        gone: undefined,
      });
      log("warn", "kill_switch", "", { error: new Fault("x", "no", { cause: new Error("because") }) });
      log("debug", "hidden", "");
    },
  );
  const time = localTime(at).slice(11, 19);
  expect(lines).toEqual([
    `${time} info  our turn attempt=1 node="web 1" secret="***" empty=""\n`,
    `${time} warn  kill_switch error="no: because"\n`,
  ]);
});

test("times carry milliseconds and the offset that holds on that day", async () => {
  const run = realRun(realClock());
  const program = `import { localTime } from "${import.meta.dir}/log.ts"; console.log(process.argv.slice(1).map((t) => localTime(Date.parse(t))).join("\\n"))`;
  const inZone = async (zone: string, ...times: string[]) => {
    const { stdout } = await run("zone", [process.execPath, "-e", program, ...times], {
      timeoutMs: 20_000,
      env: { TZ: zone },
    });
    return stdout.trim().split("\n");
  };
  expect(await inZone("Europe/Berlin", "2026-03-29T00:59:59.999Z", "2026-03-29T01:00:00Z")).toEqual([
    "2026-03-29T01:59:59.999+01:00",
    "2026-03-29T03:00:00.000+02:00",
  ]);
  expect(await inZone("America/St_Johns", "2026-01-01T00:00:00.005Z")).toEqual(["2025-12-31T20:30:00.005-03:30"]);
  expect(await inZone("UTC", "2026-01-01T00:00:00Z")).toEqual(["2026-01-01T00:00:00.000+00:00"]);
});

test("what somebody else wrote neither steers the terminal nor passes for a line of its own", () => {
  const lines = written(
    (write) => textLog({ write, clock: { now: () => at }, level: "info" }),
    (log) => log("info", "odd", "said\n12:00:00 info a reboot", { user: "\u001b]0;mine\u0007", other: "\u009b2J" }),
  );
  expect(lines.map((line) => line.slice(9))).toEqual([
    "info  said\\u000a12:00:00 info a reboot user=\\u001b]0;mine\\u0007 other=\\u009b2J\n",
  ]);
});
