/** The verdict is only worth something if it can be "guilty": each fault is planted once, and an innocent story has none. */
import { expect, test } from "bun:test";
import type { Change } from "../world/history.ts";
import type { Note } from "../world/machine.ts";
import { judge, type Witness } from "./verdict.ts";

const LINE = "/ns/lock/";

/** One step of a story; every step takes one ms and one revision. */
type Step =
  | readonly [node: string, what: "queue" | "fence" | "withdraw" | "end" | "release"]
  | readonly [node: string, what: "command" | "proof" | "sick"]
  | readonly [node: string, what: "command", found: "leased" | "nothing" | "silence"];

/** Tells a story: each node has one key and one turn, named after it. */
function told(steps: readonly Step[]): { machines: Witness[]; changes: Change[] } {
  const notes = new Map<string, Note[]>();
  const changes: Change[] = [];
  const created = new Map<string, number>();
  const found = new Map<string, string>();
  for (const [index, [node, what, seen]] of steps.entries()) {
    const at = 1000 + index;
    const revision = 10 + index;
    const key = LINE + Buffer.from(node).toString("hex");
    const value = (phase: string) => JSON.stringify({ node, turn_id: `turn-${node}`, phase });
    const put = (phase: string, leased: boolean) => {
      if (!created.has(node)) created.set(node, revision);
      changes.push({ revision, at, key, deleted: false, value: value(phase), leased, create: created.get(node)! });
    };
    const gone = { revision, at, key, deleted: true, value: "", leased: false, create: 0 };
    const note = (word: string, subject: string, text = "") =>
      notes.set(node, [...(notes.get(node) ?? []), { at, what: word, boot: "1", subject, value: text }]);
    if (what === "queue") put("queued", true);
    else if (what === "fence") put("rebooting", false);
    else if (what === "withdraw") put("queued", true);
    else if (what === "end") changes.push(gone);
    else if (what === "release")
      changes.push(gone, { ...gone, key: `/ns/turns/lock/ended/turn-${node}`, deleted: false });
    else if (what === "proof") note("health-end", "post-reboot", "0");
    else if (what === "sick") note("health-end", "post-reboot", "1");
    else {
      note("command", `turn-${node}`);
      found.set(node, seen ?? "permanent");
    }
    if (!notes.has(node)) notes.set(node, []);
  }
  const machines = [...notes].map(([name, list]) => ({
    name,
    line: LINE,
    notes: () => list,
    lineAtCommand: () => {
      const seen = found.get(name);
      if (seen === "silence") return undefined;
      const value = Buffer.from(JSON.stringify({ turn_id: `turn-${name}` })).toString("base64");
      return { kvs: seen === "nothing" ? [] : [{ key: "", value, ...(seen === "leased" && { lease: 7 }) }] };
    },
  }));
  return { machines, changes };
}

function faults(steps: readonly Step[], slots = 1): readonly string[] {
  const { machines, changes } = told(steps);
  return judge(machines, changes, slots).faults;
}

const whole = (node: string): Step[] => [
  [node, "fence"],
  [node, "command"],
  [node, "sick"],
  [node, "proof"],
  [node, "end"],
];

const innocent: Readonly<Record<string, readonly [steps: readonly Step[], slots?: number]>> = {
  "one after the other": [[["a", "queue"], ["b", "queue"], ...whole("a"), ...whole("b")]],
  "a fence taken back": [
    [["a", "queue"], ["b", "queue"], ["a", "fence"], ["a", "withdraw"], ...whole("a"), ...whole("b")],
  ],
  "a turn that an operator ended": [
    [["a", "queue"], ["b", "queue"], ["a", "fence"], ["a", "command"], ["a", "release"], ...whole("b"), ["a", "proof"]],
  ],
  "two at once where two may": [
    [
      ["a", "queue"],
      ["b", "queue"],
      ["a", "fence"],
      ["b", "fence"],
      ["a", "command"],
      ["b", "command"],
      ["a", "proof"],
    ],
    2,
  ],
  "a store that did not answer the script": [
    [
      ["a", "queue"],
      ["a", "fence"],
      ["a", "command", "silence"],
      ["a", "proof"],
    ],
  ],
};

for (const [name, [steps, slots]] of Object.entries(innocent))
  test(`nothing is found in: ${name}`, () => {
    expect(faults(steps, slots)).toEqual([]);
  });

const guilty: Readonly<Record<string, readonly [finds: RegExp, steps: readonly Step[], slots?: number]>> = {
  "two down at once": [
    /a were down together|b and a were down together/,
    [
      ["a", "queue"],
      ["b", "queue"],
      ["a", "fence"],
      ["a", "command"],
      ["a", "end"],
      ["b", "fence"],
      ["b", "command"],
      ["a", "proof"],
    ],
  ],
  "three down where two may": [
    /were down together/,
    [
      ...(["a", "b", "c"] as const).map((node): Step => [node, "queue"]),
      ...(["a", "b", "c"] as const).map((node): Step => [node, "fence"]),
      ...(["a", "b", "c"] as const).map((node): Step => [node, "command"]),
    ],
    2,
  ],
  "two permanent keys": [
    /hold permanent keys together/,
    [
      ["a", "queue"],
      ["b", "queue"],
      ["a", "fence"],
      ["b", "fence"],
    ],
  ],
  "a fence out of turn": [
    /b was fenced .* behind a/,
    [
      ["a", "queue"],
      ["b", "queue"],
      ["b", "fence"],
    ],
  ],
  "a key made permanent as it was": [
    /permanent .* in phase/,
    [
      ["a", "queue"],
      ["a", "fence"],
    ],
  ],
  "a command without a fence": [
    /1 times with 0 fences/,
    [
      ["a", "queue"],
      ["a", "command"],
      ["a", "proof"],
    ],
  ],
  "two commands on one fence": [
    /2 times with 1 fences/,
    [
      ["a", "queue"],
      ["a", "fence"],
      ["a", "command"],
      ["a", "command"],
    ],
  ],
  "a command whose key had a lease": [
    /still had a lease/,
    [
      ["a", "queue"],
      ["a", "fence"],
      ["a", "command", "leased"],
      ["a", "proof"],
    ],
  ],
  "a command whose key was gone": [
    /no key in the line/,
    [
      ["a", "queue"],
      ["a", "fence"],
      ["a", "command", "nothing"],
      ["a", "proof"],
    ],
  ],
  "a turn ended unproven": [
    /ended .* before it had proven itself/,
    [
      ["a", "queue"],
      ["a", "fence"],
      ["a", "command"],
      ["a", "sick"],
      ["a", "end"],
      ["a", "proof"],
    ],
  ],
};

for (const [name, [finds, steps, slots]] of Object.entries(guilty))
  test(`it finds: ${name}`, () => {
    const { machines, changes } = told(steps);
    const spoiled = changes.map((change) =>
      name === "a key made permanent as it was" && !change.leased
        ? { ...change, value: change.value.replace("rebooting", "owned") }
        : change,
    );
    expect(judge(machines, spoiled, slots).faults.join("\n")).toMatch(finds);
  });
