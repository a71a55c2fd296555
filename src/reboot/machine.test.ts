/** The machine's every move: TURN.md's start table row by row, each transition, and the edges that no fact may ever take. */
import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import type { Fenced, Place } from "../turn/context.ts";
import type { Gate } from "../turn/policy.ts";
import {
  closing,
  type FactOf,
  type Look,
  type Rules,
  refusal,
  type State,
  type Step,
  step,
  stumble,
} from "./machine.ts";

type At = State["at"];
type In<S extends At> = Extract<State, { at: S }>;

const place: Place = { turnId: "t1", reason: "a new kernel", queuedAt: "noon", lease: "7", key: "/l/7", create: "40" };
const fenced: Fenced = { place, mod: "50" };
const rules: Rules = { mode: "run", checkIntervalMs: 60_000, ownDeadlineMs: 90_000, graceMs: 300_000 };
const NOW = 1_000_000;

const gate = (name: Gate["name"], open: boolean, failed = false): Gate => ({
  name,
  open,
  why: `${name} says`,
  ...(failed && { failed }),
});
const look = (more: Partial<Look> = {}): Look => ({
  gates: [gate("kill_switch", true), gate("health", true)],
  required: true,
  reason: "a new kernel",
  strayTurn: false,
  ...more,
});
const closed = (name: Gate["name"], failed = false) => look({ gates: [gate(name, false, failed)] });

function move<S extends At>(state: In<S>, fact: FactOf[S], over: Partial<Rules> = {}, now = NOW): Step {
  return step(state as never, fact as never, { ...rules, ...over }, now);
}

describe("the start table", () => {
  const start = (fact: Partial<FactOf["starting"]>) =>
    move(
      { at: "starting" },
      { turn: undefined, record: undefined, namesake: undefined, bootId: "b2", graceUntil: 99, ...fact },
    );
  const record = (bootId: string, until?: number, turnId = "t1") => ({ place: { ...place, turnId }, bootId, until });

  test.each([
    ["no turn.json", undefined],
    ["turn.json open", record("b1")],
    ["turn.json launched", record("b1", 5)],
    ["turn.json of another turn", record("b1", 5, "t0")],
  ])("permanent key of another boot, %s: recover", (_, known) => {
    expect(start({ turn: { fenced, bootId: "b1" }, record: known }).next).toEqual({ at: "recovering", held: fenced });
  });

  test.each([
    ["no turn.json, or a closed one", undefined],
    ["turn.json open, but of another turn", record("b2", undefined, "t0")],
    ["turn.json launched, but of another turn", record("b2", 5, "t0")],
  ])("permanent key of this boot, %s: nobody knows, so the command may have been started just now", (_, known) => {
    expect(start({ turn: { fenced, bootId: "b2" }, record: known }).next).toMatchObject({
      at: "aftermath",
      held: fenced,
      until: 99,
    });
  });

  test("permanent key of this boot, open and not launched: withdraw", () => {
    expect(start({ turn: { fenced, bootId: "b2" }, record: record("b2") }).next).toMatchObject({
      at: "withdrawing",
      fenced,
      keep: false,
      failures: 0,
    });
  });

  test("permanent key of this boot, launched: wait until it is over", () => {
    expect(start({ turn: { fenced, bootId: "b2" }, record: record("b2", 5) }).next).toMatchObject({
      at: "aftermath",
      held: fenced,
      until: 5,
    });
  });

  test("no permanent key, open turn of another boot: health first, and no queueing before", () => {
    for (const until of [undefined, 5])
      expect(start({ record: record("b1", until) }).next).toEqual({
        at: "recovering",
        held: { place, mod: undefined },
      });
  });

  test("no permanent key, launched in this boot: as the launched row", () => {
    expect(start({ record: record("b2", 5) }).next).toMatchObject({
      at: "aftermath",
      held: { place, mod: undefined },
      until: 5,
    });
  });

  test("no permanent key, open in this boot and not launched, or closed: queue when needed", () => {
    expect(start({ record: record("b2") })).toEqual({ next: { at: "steady", notBefore: 0 }, waitMs: 0 });
    expect(start({})).toEqual({ next: { at: "steady", notBefore: 0 }, waitMs: 0 });
  });

  test("another machine with my name is in its turn: refuse loudly, whatever turn.json says", () => {
    for (const known of [undefined, record("b1", 5), record("b2")])
      expect(start({ namesake: "two of us", record: known })).toEqual({
        next: { at: "refused", why: "two of us" },
        waitMs: 0,
        notice: { outcome: "name_taken", why: "two of us" },
      });
  });

  test("my own turn comes before a namesake: it must end", () => {
    expect(start({ turn: { fenced, bootId: "b1" }, namesake: "two of us" }).next.at).toBe("recovering");
  });
});

describe("steady", () => {
  const steady: In<"steady"> = { at: "steady", notBefore: 0 };

  test("a wanted reboot and open gates: get in line", () => {
    expect(move(steady, look())).toEqual({ next: { at: "joining", reason: "a new kernel" }, waitMs: 0 });
  });

  test.each([
    ["nothing is wanted", look({ required: false }), "no_action"],
    ["a detector failed", look({ required: false, detectorError: "d: timeout" }), "detector_error"],
    ["a detector failed, another says yes", look({ detectorError: undefined as never }), undefined],
    ["kill switch", closed("kill_switch"), "kill_switch_active"],
    ["window", closed("window"), "window_denied"],
    ["unhealthy", closed("health"), "health_blocked"],
    ["health not to be had", closed("health", true), "health_error"],
  ] as const)("%s", (_, fact, outcome) => {
    const moved = move(steady, fact);
    expect(moved.notice?.outcome).toBe(outcome as never);
    if (outcome === undefined) expect(moved.next.at).toBe("joining");
    else expect(moved).toMatchObject({ next: steady, waitMs: 60_000 });
  });

  test("a turn of mine that I do not know of: start again, before anything else", () => {
    expect(move(steady, look({ strayTurn: true })).next).toEqual({ at: "starting" });
  });

  test("after a reboot that did not happen it waits, and looks in between", () => {
    const later = { ...steady, notBefore: NOW + 10_000 };
    expect(move(later, look())).toMatchObject({ next: later, waitMs: 10_000, notice: { outcome: "reboot_failed" } });
    expect(move({ ...steady, notBefore: NOW + 1e9 }, look()).waitMs).toBe(60_000);
    expect(move(later, look(), {}, NOW + 10_000).next.at).toBe("joining");
  });
});

describe("in line", () => {
  const waiting: In<"waiting"> = { at: "waiting", place, rechecked: 500 };
  const fact = (more: Partial<FactOf["waiting"]> = {}): FactOf["waiting"] => ({
    ahead: 0,
    owns: true,
    permanent: false,
    shared: [gate("stop", true), gate("cooldown", true), gate("policy", true)],
    look: undefined,
    words: "first in line",
    ...more,
  });

  test("joining: a place, or none", () => {
    const joining: In<"joining"> = { at: "joining", reason: "r" };
    expect(move(joining, { place, why: "" }).next).toEqual({ at: "waiting", place, rechecked: NOW });
    expect(move(joining, { place: undefined, why: "lost" })).toEqual({
      next: { at: "steady", notBefore: 0 },
      waitMs: 1_000,
      notice: { outcome: "lock_unavailable", why: "lost" },
    });
  });

  test("not mine yet: wait on, and say where", () => {
    const behind = fact({ owns: false, ahead: 2, words: "third in line, behind b" });
    expect(move(waiting, behind)).toEqual({
      next: waiting,
      waitMs: 0,
      notice: { outcome: "lock_unavailable", why: "third in line, behind b" },
    });
  });

  test("mine, everything open: own, with a deadline", () => {
    expect(move(waiting, fact()).next).toEqual({ at: "owning", place, by: NOW + 90_000 });
  });

  test.each([
    ["stop", "stopped"],
    ["cooldown", "cooldown_active"],
    ["policy", "policy_blocked"],
  ] as const)("mine, but %s is closed: everybody's gate, stay in line", (name, outcome) => {
    const moved = move({ ...waiting, by: NOW + 5 }, fact({ shared: [gate(name, false)] }));
    expect(moved.notice?.outcome).toBe(outcome);
    expect(moved.waitMs).toBe(2_000);
    // What everybody waits for is not held against the owner.
    expect(moved.next).toEqual({ at: "waiting", place, rechecked: 500 });
  });

  test("a pass that waits leaves", () => {
    for (const more of [{ owns: false }, { shared: [gate("stop", false)] }])
      expect(move(waiting, fact(more), { mode: "once" }).next).toMatchObject({ at: "leaving", lease: "7" });
    expect(move(waiting, fact(), { mode: "once" }).next.at).toBe("owning");
  });

  test.each([
    ["kill switch", closed("kill_switch"), "kill_switch_active"],
    ["own health", closed("health"), "health_blocked"],
    ["window", closed("window"), "window_denied"],
    ["no detector any more", look({ required: false }), "recheck_cleared"],
    ["a detector that fails", look({ required: false, detectorError: "x" }), "detector_error"],
  ] as const)("its own gates make it leave: %s", (_, seen, outcome) => {
    for (const owns of [true, false])
      expect(move(waiting, fact({ owns, look: seen }))).toMatchObject({
        next: { at: "leaving", lease: "7", soon: false },
        notice: { outcome },
      });
  });

  test("an open look is remembered", () => {
    expect(move(waiting, fact({ owns: false, look: look() })).next).toMatchObject({ rechecked: NOW });
  });

  test("the place is gone: queue again soon; a permanent key of mine: start again", () => {
    expect(move(waiting, fact({ ahead: undefined, owns: false })).next).toEqual({
      at: "leaving",
      lease: "7",
      notBefore: 0,
      soon: true,
    });
    expect(move(waiting, fact({ permanent: true })).next).toEqual({ at: "starting" });
  });

  test("owning: written, or lost", () => {
    const owning: In<"owning"> = { at: "owning", place, by: NOW + 90_000 };
    expect(move(owning, { mine: true }).next).toEqual({ at: "checking", place, by: NOW + 90_000 });
    expect(move(owning, { mine: false }).next).toMatchObject({ at: "leaving", soon: true });
  });

  test.each(["kill_switch", "window", "health"] as const)("checking: %s closed gives the place up", (name) => {
    expect(move({ at: "checking", place, by: 5 }, closed(name)).next).toMatchObject({ at: "leaving", soon: false });
  });

  test("checking: cleared gives it up, open goes to the fence with the deadline it had", () => {
    const checking: In<"checking"> = { at: "checking", place, by: 5 };
    expect(move(checking, look({ required: false })).next.at).toBe("leaving");
    expect(move(checking, look()).next).toEqual({ at: "fencing", place, by: 5 });
  });

  test("leaving: soon for what was lost, after a whole interval for what was closed", () => {
    const leaving: In<"leaving"> = { at: "leaving", lease: "7", notBefore: 9, soon: true };
    expect(move(leaving, {})).toEqual({ next: { at: "steady", notBefore: 9 }, waitMs: 1_000 });
    expect(move({ ...leaving, soon: false }, {}).waitMs).toBe(60_000);
  });
});

describe("the fence", () => {
  const fencing: In<"fencing"> = { at: "fencing", place, by: NOW + 5 };

  test("a definite yes is what leads to the command", () => {
    expect(move(fencing, { kind: "fenced", fenced, sentAt: 3 }).next).toEqual({ at: "launching", fenced, sentAt: 3 });
  });

  test("an unknown outcome is settled, with the revision that it was sent with", () => {
    expect(move(fencing, { kind: "unknown", mod: "41", why: "no answer" }).next).toEqual({
      at: "settling",
      place,
      mod: "41",
      why: "no answer",
    });
  });

  test("what has changed is looked at again until the owner's deadline; then the place is given up", () => {
    expect(move(fencing, { kind: "changed" }).next).toEqual(fencing);
    expect(move(fencing, { kind: "changed" }, {}, NOW + 5).next).toMatchObject({ at: "leaving", lease: "7" });
  });

  test("my own closed gates give the place up, everybody's do not", () => {
    const shut = (...gates: Gate[]) => move(fencing, { kind: "closed", gates });
    expect(shut(gate("kill_switch", false))).toMatchObject({
      next: { at: "leaving" },
      notice: { outcome: "kill_switch_active" },
    });
    expect(shut(gate("stop", false), gate("window", false))).toMatchObject({
      next: { at: "leaving" },
      notice: { outcome: "window_denied" },
    });
    for (const name of ["stop", "cooldown", "policy"] as const)
      expect(shut(gate("kill_switch", true), gate(name, false))).toMatchObject({
        next: { at: "waiting" },
        waitMs: 2_000,
      });
  });

  test("lost, and ready in a dry run", () => {
    expect(move(fencing, { kind: "gone" }).next).toMatchObject({ at: "leaving", soon: true });
    expect(move(fencing, { kind: "ready" })).toMatchObject({ next: { at: "leaving" }, notice: { outcome: "ready" } });
  });

  test("settled: withdrawn when it was there, back in line or out of it when not; never the command", () => {
    const settling: In<"settling"> = { at: "settling", place, mod: "41", why: "no answer" };
    expect(move(settling, { kind: "fenced", fenced }).next).toEqual({
      at: "withdrawing",
      fenced,
      keep: true,
      why: "no answer",
      failures: 0,
    });
    expect(move(settling, { kind: "kept" }).next).toMatchObject({ at: "waiting", place });
    expect(move(settling, { kind: "gone" }).next).toMatchObject({ at: "leaving", soon: true });
  });
});

describe("the turn", () => {
  const launching: In<"launching"> = { at: "launching", fenced, sentAt: 3 };
  const held = fenced;

  test("launched, or given back with its place", () => {
    expect(move(launching, { launched: true, why: "", until: 77 })).toEqual({
      next: { at: "rebooting", held, until: 77 },
      waitMs: 0,
      notice: { outcome: "rebooting", why: "a new kernel" },
    });
    expect(move(launching, { launched: false, why: "kill switch", until: 0 }).next).toEqual({
      at: "withdrawing",
      fenced,
      keep: true,
      why: "kill switch",
      failures: 0,
    });
  });

  test("withdrawn: back in line with a fresh look, or out of it", () => {
    const withdrawing: In<"withdrawing"> = { at: "withdrawing", fenced, keep: true, why: "w", failures: 0 };
    const kept = move(withdrawing, { left: "kept" }).next;
    expect(kept).toEqual({ at: "waiting", place, rechecked: Number.NEGATIVE_INFINITY });
    expect(move(withdrawing, { left: "gone" })).toMatchObject({
      next: { at: "leaving", lease: "7", notBefore: 0, soon: true },
      notice: { outcome: "lock_unavailable" },
    });
  });

  test.each([
    [1, 120_000],
    [2, 240_000],
    [5, 1_920_000],
    [6, 3_600_000],
    [99, 3_600_000],
  ])("after %p reboots in a row that did not happen: the next attempt in %p ms", (failures, ms) => {
    const withdrawing: In<"withdrawing"> = { at: "withdrawing", fenced, keep: false, why: "w", failures };
    expect(move(withdrawing, { left: "gone" })).toMatchObject({
      next: { at: "leaving", notBefore: NOW + ms, soon: false },
      notice: { outcome: "reboot_failed", why: "w" },
    });
    const aftermath: In<"aftermath"> = { at: "aftermath", held: { place, mod: undefined }, until: 1, why: "w" };
    expect(move(aftermath, { settled: true, why: "", failures }).next).toEqual({ at: "steady", notBefore: NOW + ms });
  });

  test("going down: until it is over", () => {
    const rebooting: In<"rebooting"> = { at: "rebooting", held, until: 77 };
    expect(move(rebooting, { over: false, why: "runs" }).next).toBe(rebooting);
    expect(move(rebooting, { over: true, why: "exit 1" })).toMatchObject({
      next: { at: "aftermath", held, until: 77, why: "exit 1" },
      notice: { outcome: "reboot_failed" },
    });
  });

  test("the aftermath lasts until nothing can take the machine down any more; then the turn is withdrawn, without its place", () => {
    const aftermath: In<"aftermath"> = { at: "aftermath", held, until: 77, why: "exit 1" };
    expect(move(aftermath, { settled: false, why: "a job", failures: 1 })).toMatchObject({
      next: aftermath,
      waitMs: 1_000,
    });
    expect(move(aftermath, { settled: true, why: "", failures: 1 }).next).toEqual({
      at: "withdrawing",
      fenced,
      keep: false,
      why: "exit 1",
      failures: 1,
    });
  });

  test("recovering: only health ends it", () => {
    const recovering: In<"recovering"> = { at: "recovering", held };
    expect(move(recovering, { healthy: false, why: "sick" })).toMatchObject({
      next: recovering,
      waitMs: 10_000,
      notice: { outcome: "recovering", why: "sick" },
    });
    expect(move(recovering, { healthy: true, why: "" }).next).toEqual({ at: "finishing", held });
  });

  test("finishing: ended, or tried again as the key stands now", () => {
    const finishing: In<"finishing"> = { at: "finishing", held };
    expect(move(finishing, { ended: "ended" })).toMatchObject({
      next: { at: "steady", notBefore: 0 },
      notice: { outcome: "verified" },
    });
    expect(move(finishing, { ended: "gone" }).next).toEqual({ at: "finishing", held: { place, mod: undefined } });
    expect(move(finishing, { ended: { mod: "60" } }).next).toEqual({ at: "finishing", held: { place, mod: "60" } });
  });

  test("refused and halting look again", () => {
    expect(move({ at: "refused", why: "w" }, {})).toEqual({ next: { at: "starting" }, waitMs: 60_000 });
    expect(move({ at: "halting", why: "w" }, {})).toEqual({ next: { at: "starting" }, waitMs: 0 });
  });
});

describe("an owner that does not get to the fence", () => {
  const owner = { ahead: 0, owns: true, permanent: false, shared: [], look: look(), words: "" };

  test("keeps its deadline however often it stumbles, and then lets the next one go on", () => {
    let state: State = { at: "waiting", place, rechecked: NOW };
    let now = NOW;
    for (let i = 0; i < 20; i++) {
      state = move(state as In<"waiting">, owner, {}, now).next;
      if (state.at === "leaving") break;
      state = move(state as In<"owning">, { mine: true }, {}, now).next;
      state = move(state as In<"checking">, look(), {}, now).next;
      // The disk of this node is full: turn.json cannot be written.
      state = stumble(state, false, "cannot write turn.json");
      expect(state).toMatchObject({ at: "waiting", by: NOW + 90_000 });
      now += 10_000;
    }
    expect(state).toEqual({ at: "leaving", lease: "7", notBefore: 0, soon: false });
    expect(now).toBe(NOW + 90_000);
  });
});

// What may follow what. Whatever is not here must never happen.
const EDGES: Readonly<Record<At, readonly At[]>> = {
  starting: ["recovering", "aftermath", "withdrawing", "refused", "steady"],
  refused: ["starting"],
  halting: ["starting"],
  steady: ["steady", "starting", "joining"],
  joining: ["waiting", "steady"],
  waiting: ["waiting", "starting", "owning", "leaving"],
  owning: ["checking", "leaving"],
  checking: ["fencing", "leaving"],
  fencing: ["fencing", "launching", "settling", "waiting", "leaving"],
  settling: ["withdrawing", "waiting", "leaving"],
  launching: ["rebooting", "withdrawing"],
  withdrawing: ["waiting", "leaving"],
  rebooting: ["rebooting", "aftermath"],
  aftermath: ["aftermath", "withdrawing", "steady"],
  recovering: ["recovering", "finishing"],
  finishing: ["finishing", "steady"],
  leaving: ["steady"],
};

describe("whatever the facts", () => {
  const text = fc.string({ maxLength: 4 });
  const number = fc.integer({ min: -10, max: 3_000_000 });
  const anyPlace = fc.record({ turnId: text, reason: text, queuedAt: text, lease: text, key: text, create: text });
  const anyFenced = fc.record({ place: anyPlace, mod: text });
  const anyHeld = fc.record({ place: anyPlace, mod: fc.option(text, { nil: undefined }) });
  const names = ["kill_switch", "window", "detectors", "health", "stop", "cooldown", "policy", "line"] as const;
  const anyGate: fc.Arbitrary<Gate> = fc.record({
    name: fc.constantFrom(...names),
    open: fc.boolean(),
    why: text,
    failed: fc.boolean(),
  });
  const gates = fc.array(anyGate, { maxLength: 4 });
  const anyLook: fc.Arbitrary<Look> = fc
    .record({ gates, required: fc.boolean(), reason: text, strayTurn: fc.boolean(), failed: fc.boolean() })
    .map(({ failed, ...rest }) => ({ ...rest, ...(failed && { detectorError: "d" }) }));
  const anyRecord = fc.record({
    place: anyPlace,
    bootId: fc.constantFrom("b1", "b2"),
    until: fc.option(number, { nil: undefined }),
  });

  const STATES: { readonly [S in At]: fc.Arbitrary<In<S>> } = {
    starting: fc.constant({ at: "starting" }),
    refused: fc.record({ at: fc.constant("refused"), why: text }),
    halting: fc.record({ at: fc.constant("halting"), why: text }),
    steady: fc.record({ at: fc.constant("steady"), notBefore: number }),
    joining: fc.record({ at: fc.constant("joining"), reason: text }),
    waiting: fc.record({
      at: fc.constant("waiting"),
      place: anyPlace,
      rechecked: number,
      by: fc.option(number, { nil: undefined }),
    }),
    owning: fc.record({ at: fc.constant("owning"), place: anyPlace, by: number }),
    checking: fc.record({ at: fc.constant("checking"), place: anyPlace, by: number }),
    fencing: fc.record({ at: fc.constant("fencing"), place: anyPlace, by: number }),
    settling: fc.record({ at: fc.constant("settling"), place: anyPlace, mod: text, why: text }),
    launching: fc.record({ at: fc.constant("launching"), fenced: anyFenced, sentAt: number }),
    withdrawing: fc.record({
      at: fc.constant("withdrawing"),
      fenced: anyFenced,
      keep: fc.boolean(),
      why: text,
      failures: fc.nat(20),
    }),
    rebooting: fc.record({ at: fc.constant("rebooting"), held: anyHeld, until: number }),
    aftermath: fc.record({ at: fc.constant("aftermath"), held: anyHeld, until: number, why: text }),
    recovering: fc.record({ at: fc.constant("recovering"), held: anyHeld }),
    finishing: fc.record({ at: fc.constant("finishing"), held: anyHeld }),
    leaving: fc.record({ at: fc.constant("leaving"), lease: text, notBefore: number, soon: fc.boolean() }),
  };

  const FACTS: { readonly [S in At]: fc.Arbitrary<FactOf[S]> } = {
    starting: fc.record({
      turn: fc.option(fc.record({ fenced: anyFenced, bootId: fc.constantFrom("b1", "b2") }), { nil: undefined }),
      record: fc.option(anyRecord, { nil: undefined }),
      namesake: fc.option(text, { nil: undefined }),
      bootId: fc.constantFrom("b1", "b2"),
      graceUntil: number,
    }),
    refused: fc.constant({}),
    halting: fc.constant({}),
    steady: anyLook,
    joining: fc.record({ place: fc.option(anyPlace, { nil: undefined }), why: text }),
    waiting: fc.record({
      ahead: fc.option(fc.nat(5), { nil: undefined }),
      owns: fc.boolean(),
      permanent: fc.boolean(),
      shared: gates,
      look: fc.option(anyLook, { nil: undefined }),
      words: text,
    }),
    owning: fc.record({ mine: fc.boolean() }),
    checking: anyLook,
    fencing: fc.oneof(
      fc.record({ kind: fc.constant("fenced" as const), fenced: anyFenced, sentAt: number }),
      fc.record({ kind: fc.constantFrom("changed" as const, "ready" as const, "gone" as const) }),
      fc.record({ kind: fc.constant("closed" as const), gates }),
      fc.record({ kind: fc.constant("unknown" as const), mod: text, why: text }),
    ),
    settling: fc.oneof(
      fc.record({ kind: fc.constantFrom("kept" as const, "gone" as const) }),
      fc.record({ kind: fc.constant("fenced" as const), fenced: anyFenced }),
    ),
    launching: fc.record({ launched: fc.boolean(), why: text, until: number }),
    withdrawing: fc.record({ left: fc.constantFrom("kept" as const, "gone" as const) }),
    rebooting: fc.record({ over: fc.boolean(), why: text }),
    aftermath: fc.record({ settled: fc.boolean(), why: text, failures: fc.nat(20) }),
    recovering: fc.record({ healthy: fc.boolean(), why: text }),
    finishing: fc.record({
      ended: fc.oneof(fc.constantFrom("ended" as const, "gone" as const), fc.record({ mod: text })),
    }),
    leaving: fc.constant({}),
  };

  const anyRules: fc.Arbitrary<Rules> = fc.record({
    mode: fc.constantFrom("run", "dry", "once"),
    checkIntervalMs: fc.integer({ min: 1, max: 100_000 }),
    ownDeadlineMs: fc.integer({ min: 1, max: 100_000 }),
    graceMs: fc.integer({ min: 1, max: 100_000 }),
  });

  const ALL = Object.keys(EDGES) as At[];
  const anyCase = fc.oneof(
    ...ALL.map((at) => fc.tuple(STATES[at] as fc.Arbitrary<State>, FACTS[at] as fc.Arbitrary<FactOf[At]>)),
  );
  const anyState = fc.oneof(...ALL.map((at) => STATES[at] as fc.Arbitrary<State>));
  const runs = { numRuns: 4_000 };

  test("the next state is a legal one, after a wait that ends", () => {
    fc.assert(
      fc.property(anyCase, anyRules, number, ([state, fact], with_, now) => {
        const { next, waitMs } = step(state as never, fact as never, with_, now);
        expect(EDGES[state.at]).toContain(next.at);
        expect(waitMs).toBeGreaterThanOrEqual(0);
        expect(waitMs).toBeLessThanOrEqual(Math.max(with_.checkIntervalMs, 2_000));
      }),
      runs,
    );
  });

  test("the command is only ever reached from a definite yes, and the end of a turn only from health", () => {
    fc.assert(
      fc.property(anyCase, anyRules, number, ([state, fact], with_, now) => {
        const { next } = step(state as never, fact as never, with_, now);
        if (next.at === "launching") {
          const yes = fact as FactOf["fencing"];
          expect(state.at).toBe("fencing");
          expect(yes.kind === "fenced" && yes.fenced === next.fenced && yes.sentAt === next.sentAt).toBe(true);
        }
        if (next.at === "rebooting" && state.at !== "rebooting") {
          expect(state.at).toBe("launching");
          expect((fact as FactOf["launching"]).launched).toBe(true);
        }
        if (next.at === "finishing" && state.at !== "finishing")
          expect((fact as FactOf["recovering"]).healthy).toBe(true);
        if (next.at === "joining") {
          const seen = fact as Look;
          expect(seen.required && !seen.strayTurn && seen.gates.every(({ open }) => open)).toBe(true);
        }
        if (next.at === "fencing" && state.at === "checking") {
          const seen = fact as Look;
          expect(seen.required && seen.gates.every(({ open }) => open)).toBe(true);
        }
        if (next.at === "owning") expect((fact as FactOf["waiting"]).shared.every(({ open }) => open)).toBe(true);
      }),
      runs,
    );
  });

  test("nothing leaves a turn that is held but its withdrawal and its end", () => {
    const holds = (state: State) => "held" in state || "fenced" in state;
    const known = (state: State) => ("held" in state ? state.held.mod !== undefined : "fenced" in state);
    fc.assert(
      fc.property(anyCase, anyRules, number, ([state, fact], with_, now) => {
        if (!known(state) || state.at === "withdrawing" || state.at === "finishing") return;
        expect(holds(step(state as never, fact as never, with_, now).next)).toBe(true);
      }),
      runs,
    );
  });

  test("a stumble never leads to the command, to the fence, to a second key, nor out of a turn", () => {
    fc.assert(
      fc.property(anyState, fc.boolean(), (state, dead) => {
        const next = stumble(state, dead, "away");
        if (next !== state) expect(["waiting", "leaving", "withdrawing", "steady"]).toContain(next.at);
        expect(["joining", "launching", "fencing"]).not.toContain(next.at);
        if ("held" in state) expect(next).toBe(state);
        if ("fenced" in state) expect(next).toMatchObject({ at: "withdrawing", fenced: state.fenced });
        if ("place" in state && state.at !== "settling") expect(next.at).toBe(dead ? "leaving" : "waiting");
        if (state.at === "settling") expect(next).toBe(state);
      }),
      runs,
    );
  });

  test("a stop leaves the line or gives an unused turn back, keeps a used one, and never runs the command", () => {
    fc.assert(
      fc.property(anyState, anyRules, fc.array(fc.nat(), { maxLength: 8 }), (state, with_, picks) => {
        let last = closing(state);
        if ("held" in state) expect(last).toBeUndefined();
        for (const pick of picks) {
          if (last === undefined) break;
          expect(["leaving", "settling", "withdrawing"]).toContain(last.at);
          const fact = fc.sample(FACTS[last.at] as fc.Arbitrary<FactOf[At]>, { seed: pick, numRuns: 1 })[0];
          const { next } = step(last as never, fact as never, with_, NOW);
          expect(["joining", "owning", "fencing", "launching", "rebooting"]).not.toContain(next.at);
          last = closing(next);
        }
      }),
      { numRuns: 1_000 },
    );
  });
});

test("the first closed gate is the outcome", () => {
  expect(refusal([gate("stop", true)])).toBeUndefined();
  expect(refusal([gate("stop", true), gate("policy", false), gate("stop", false)])).toEqual({
    outcome: "policy_blocked",
    why: "policy says",
  });
  expect(refusal([gate("line", false)])?.outcome).toBe("lock_unavailable");
  expect(refusal([gate("detectors", false)])?.outcome).toBe("recheck_cleared");
});
