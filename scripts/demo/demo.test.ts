/** The demo's proof must not be fooled, and its picture must fit and must show one machine in its turn at a time. */
import { describe, expect, test } from "bun:test";
import { style } from "../../src/commands/output.ts";
import type { KeyValue, WatchEvent } from "../../src/store/store.ts";
import { ending, frame, type View } from "./picture.ts";
import { prove, type Witness } from "./proof.ts";
import { type LogLine, SPACE, Story } from "./story.ts";

const BEGAN = Date.parse("2026-01-01T00:00:00.000Z");
const NAMES = ["node-1", "node-2", "node-3", "node-4", "node-5"];

interface Life {
  readonly started: number;
  readonly verified: number;
  readonly fenced: number;
  readonly ended: number;
  readonly boots?: readonly string[];
  readonly healthy?: boolean;
}

function line(at: number, event: string, fields: Record<string, unknown>): LogLine {
  return { ts: new Date(BEGAN + at).toISOString(), level: "debug", event, fields };
}

function logOf({ started, verified, boots = ["aaaa-1", "bbbb-2"] }: Life): LogLine[] {
  return [
    line(0, "started", { boot_id: boots[0] }),
    line(100, "state", { from: "joining", to: "waiting" }),
    line(started - 500, "state", { from: "waiting", to: "owning" }),
    line(started, "state", { from: "fencing", to: "launching" }),
    ...boots.slice(1).map((boot) => line(started + 2_000, "started", { boot_id: boot })),
    line(started + 2_050, "state", { from: "starting", to: "recovering" }),
    line(verified, "state", { from: "recovering", to: "finishing" }),
    line(verified + 5, "run_outcome", { status: "verified" }),
  ];
}

function event(type: "put" | "delete", key: string, revision: number, value = ""): WatchEvent {
  const kv: KeyValue = { key, value, createRevision: "1", modRevision: `${revision}`, version: "1", lease: "0" };
  return { type, kv };
}

function historyOf(node: string, { fenced, ended, healthy = true }: Life): WatchEvent[] {
  const key = `${SPACE.line}${node.slice(-1)}`;
  const text = { turn_id: "t", machine: node, boot_id: "b", reason: "r", queued_at: "q" };
  const turn = JSON.stringify({ schema: 1, node, pid: 1, slots: 1, phase: "rebooting", ...text });
  const health = JSON.stringify({ node, machine: node, healthy, stage: "post-reboot", reported_at: "" });
  return [
    event("put", key, fenced, turn),
    event("delete", key, ended),
    event("put", SPACE.health + node, ended, health),
  ];
}

function judged(lives: Readonly<Record<string, Life>>) {
  const witnesses: Witness[] = Object.entries(lives).map(([name, life]) => ({ name, log: logOf(life) }));
  const history = Object.entries(lives).flatMap(([name, life]) => historyOf(name, life));
  return prove(witnesses, history);
}

const first: Life = { started: 1_000, verified: 4_000, fenced: 9, ended: 10 };
const second: Life = { started: 4_500, verified: 8_000, fenced: 99, ended: 100 };

describe("the proof", () => {
  test("accepts turns one after the other, whichever machine was first", () => {
    const { turns, faults, leastPause } = judged({ "node-1": second, "node-2": first });
    expect(faults).toEqual([]);
    expect(turns.map(({ node }) => node)).toEqual(["node-2", "node-1"]);
    expect(leastPause).toBe(500);
  });

  const planted: Readonly<Record<string, readonly [Life, RegExp]>> = {
    "a command before the other was verified": [{ ...second, started: 3_999 }, /1 ms before node-1 was verified/],
    "a turn in the store before the other's had ended": [{ ...second, fenced: 10 }, /ended at 10 only/],
    "a machine that never went down": [{ ...second, boots: ["aaaa-1"] }, /and there should be two/],
    "a daemon that came back in the same boot": [{ ...second, boots: ["aaaa-1", "aaaa-1"] }, /there should be two/],
    "two reboots instead of one": [{ ...second, boots: ["a", "b", "c"] }, /there should be two/],
    "a turn that ended without health": [{ ...second, healthy: false }, /without the store calling it healthy/],
    "a turn that has not ended": [{ ...second, ended: 50 }, /does not tell of the end/],
  };
  for (const [fault, [life, words]] of Object.entries(planted))
    test(`sees ${fault}`, () => expect(judged({ "node-1": first, "node-2": life }).faults.join("\n")).toMatch(words));

  test("sees an overlap with a turn that was not the last one", () => {
    const between: Life = { started: 2_000, verified: 3_000, fenced: 20, ended: 30 };
    const { faults } = judged({ "node-1": { ...first, ended: 100 }, "node-2": between, "node-3": second });
    expect(faults.join("\n")).toContain("node-3 took its turn at revision 99, but that of node-1 ended at 100 only");
  });
});

/** A whole demo with turns of three seconds, up to `now`. */
function storyAt(now: number): Story {
  const story = new Story(NAMES, BEGAN, () => undefined);
  const happened: (readonly [number, () => void])[] = NAMES.flatMap((name, i) => {
    const started = 1_000 + i * 3_600;
    const log = logOf({ ...first, started, verified: started + 3_000 });
    const told = log.map((each) => [Date.parse(each.ts) - BEGAN, () => story.log(name, each)] as const);
    const switched = [false, true].map(
      (on, j) => [started + 50 + j * 1_800, () => story.power(name, on, BEGAN + started + 50 + j * 1_800)] as const,
    );
    return [...told, ...switched];
  });
  for (const [at, tell] of happened.sort(([a], [b]) => a - b)) if (at <= now) tell();
  return story;
}

describe("the picture", () => {
  const view = (now: number, columns: number, rows: number): View => {
    return { columns, rows, now, style: style(false), unicode: true };
  };

  test("fits into every terminal that it moves on", () => {
    for (const [columns, rows] of [72, 80, 100, 200].flatMap((width) =>
      [20, 24, 50].map((rows) => [width, rows] as const),
    ))
      for (let now = 0; now < 20_000; now += 700) {
        const lines = frame(storyAt(now), "rota serve at http://127.0.0.1:65535", view(now, columns, rows));
        expect(lines.length).toBeLessThan(rows);
        expect(Math.max(...lines.map((text) => Bun.stringWidth(text)))).toBeLessThan(columns);
      }
  });

  test("at its end is a staircase: no column shows two machines in their turn, and every machine is down in one", () => {
    const proof = judged({ "node-1": first, "node-2": second });
    const lines = ending(storyAt(20_000), proof, BEGAN, view(20_000, 80, 24));
    const bars = lines
      .filter((text) => /^ {2}node-\d {2}\S verified after 3\.0 s/.test(text))
      .map((text) => text.slice(40));
    expect(bars).toHaveLength(5);
    for (const bar of bars) expect(bar).toMatch(/^ *·*▸*█+▒+━*$/);
    for (let column = 0; column < 40; column++)
      expect(bars.filter((bar) => /[▸█▒!]/.test(bar[column] ?? "")).length).toBeLessThan(2);
    expect(lines.join("\n")).toContain("PROVEN  2 reboots, 2 intervals, no two overlap (shortest pause 500 ms)");
  });

  test("says loudly who is sick", () => {
    const story = storyAt(3_100);
    story.log(
      "node-1",
      line(3_100, "health_check", { phase: "post-reboot", healthy: false, stderr: "no web server\n" }),
    );
    story.log("node-1", line(3_101, "post_reboot_health", { healthy: false }));
    const text = frame(story, "", view(3_200, 80, 24)).join("\n");
    expect(text).toContain("\n  node-1 is sick after its reboot: the line waits\n");
    expect(text).toContain("node-1 is sick after its reboot: the line waits (no web server)");
    expect(text).toContain("! SICK 0.1 s, holds the line");
  });
});
