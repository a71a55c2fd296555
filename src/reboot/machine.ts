/** PURE. What a node does next: every state has one act; its fact decides the next state. TURN.md's steps and table, without I/O. */
import type { Fenced, Place } from "../turn/context.ts";
import type { Gate } from "../turn/policy.ts";

/** The right to be down as it stands in the store; `mod` undefined: somebody has ended it, but this machine is not verified yet. */
export interface Held {
  readonly place: Place;
  readonly mod: string | undefined;
}

/** Each state names the one act that is carried out in it. Times are monotonic ms (`by`, `notBefore`) or ms since boot (`sentAt`, `until`). */
export type State =
  /** Read what is mine. */
  | { readonly at: "starting" }
  /** Must not take part (a machine with my name); look again now and then. */
  | { readonly at: "refused"; readonly why: string }
  /** The store went back in time: set the stop. */
  | { readonly at: "halting"; readonly why: string }
  /** Is a reboot wanted, and do my own gates allow to ask for it? */
  | { readonly at: "steady"; readonly notBefore: number }
  | { readonly at: "joining"; readonly reason: string }
  /** `by`: it has owned already, and stumbled on the way to the fence; the deadline stays what it was. */
  | { readonly at: "waiting"; readonly place: Place; readonly rechecked: number; readonly by?: number | undefined }
  | { readonly at: "owning"; readonly place: Place; readonly by: number }
  /** The slow gates, under the lease. */
  | { readonly at: "checking"; readonly place: Place; readonly by: number }
  | { readonly at: "fencing"; readonly place: Place; readonly by: number }
  /** The fence has an unknown outcome. */
  | { readonly at: "settling"; readonly place: Place; readonly mod: string; readonly why: string }
  | { readonly at: "launching"; readonly fenced: Fenced; readonly sentAt: number }
  | {
      readonly at: "withdrawing";
      readonly fenced: Fenced;
      readonly keep: boolean;
      readonly why: string;
      readonly failures: number;
    }
  /** The reboot command was started in this boot. */
  | { readonly at: "rebooting"; readonly held: Held; readonly until: number }
  /** Still the same boot: nothing may run or be scheduled any more, and health has to pass. */
  | { readonly at: "aftermath"; readonly held: Held; readonly until: number; readonly why: string }
  | { readonly at: "recovering"; readonly held: Held }
  | { readonly at: "finishing"; readonly held: Held }
  | { readonly at: "leaving"; readonly lease: string; readonly notBefore: number; readonly soon: boolean };

/** Words for what a pass came to (research §2.3, and four of ours). */
export type Outcome =
  | "no_action"
  | "kill_switch_active"
  | "health_blocked"
  | "health_error"
  | "window_denied"
  | "window_outside_allow"
  | "lock_unavailable"
  | "recheck_cleared"
  | "cooldown_active"
  | "ready"
  | "stopped"
  | "policy_blocked"
  | "detector_error"
  | "name_taken"
  | "store_away"
  | "rebooting"
  | "recovering"
  | "verified"
  | "reboot_failed";

/** What is said aloud, besides the change of state itself. */
export interface Notice {
  readonly outcome: Outcome;
  readonly why: string;
}

export interface Step {
  readonly next: State;
  /** How long to wait before the next act, ms. */
  readonly waitMs: number;
  readonly notice?: Notice;
}

/** What the machine goes by. ms throughout. */
export interface Rules {
  /** "once" gives up where "run" would wait; neither "once" nor "dry" goes past `ready`. */
  readonly mode: "run" | "dry" | "once";
  readonly checkIntervalMs: number;
  /** From "owned" to the fence; a longer owner gives its place up. */
  readonly ownDeadlineMs: number;
  readonly graceMs: number;
}

/** The local look at the start of a pass. `gates` are those that stand closed or open on this machine: kill switch, window, health. */
export interface Look {
  readonly gates: readonly Gate[];
  readonly required: boolean;
  readonly reason: string;
  /** Detectors failed and none of the others said yes. */
  readonly detectorError?: string;
  /** A permanent key of my own stands in the line although this process knows of no turn. */
  readonly strayTurn: boolean;
}

/** What each act reports. */
export interface FactOf {
  starting: {
    /** My permanent key, and the boot in which it was fenced. */
    readonly turn: { readonly fenced: Fenced; readonly bootId: string } | undefined;
    /** The turn that turn.json says is open; `until` is there when the command was started: the end of its grace, ms since boot. */
    readonly record: { readonly place: Place; readonly bootId: string; readonly until: number | undefined } | undefined;
    readonly namesake: string | undefined;
    readonly bootId: string;
    /** The end of the grace of a command that were started now, ms since boot. */
    readonly graceUntil: number;
  };
  refused: Record<never, never>;
  halting: Record<never, never>;
  steady: Look;
  joining: { readonly place: Place | undefined; readonly why: string };
  waiting: {
    readonly ahead: number | undefined;
    readonly owns: boolean;
    readonly permanent: boolean;
    /** Everybody's gates; asked only when the place owns. */
    readonly shared: readonly Gate[];
    /** Asked again every check interval. */
    readonly look: Look | undefined;
    readonly words: string;
  };
  owning: { readonly mine: boolean };
  checking: Look;
  fencing:
    | { readonly kind: "fenced"; readonly fenced: Fenced; readonly sentAt: number }
    | { readonly kind: "changed" }
    | { readonly kind: "closed"; readonly gates: readonly Gate[] }
    | { readonly kind: "ready" }
    | { readonly kind: "gone" }
    | { readonly kind: "unknown"; readonly mod: string; readonly why: string };
  settling:
    | { readonly kind: "kept" }
    | { readonly kind: "gone" }
    | { readonly kind: "fenced"; readonly fenced: Fenced };
  launching: { readonly launched: boolean; readonly why: string; readonly until: number };
  withdrawing: { readonly left: "kept" | "gone" };
  rebooting: { readonly over: boolean; readonly why: string };
  aftermath: { readonly settled: boolean; readonly why: string; readonly failures: number };
  recovering: { readonly healthy: boolean; readonly why: string };
  finishing: { readonly ended: "ended" | "gone" | { readonly mod: string } };
  leaving: Record<never, never>;
}

/** How soon to look again while something else has to happen first, ms. */
const SOON_MS = 1_000;
/** How often the first in line asks everybody's gates again, ms. */
const SHARED_MS = 2_000;
/** How often a machine that is not healthy after its reboot asks again, ms, at the longest. */
const UNHEALTHY_MS = 10_000;

type Transition<S extends State["at"]> = (
  state: Extract<State, { at: S }>,
  fact: FactOf[S],
  rules: Rules,
  now: number,
) => Step;

/** The next state, from the state and the fact that its act brought. */
export function step<S extends State["at"]>(
  state: Extract<State, { at: S }>,
  fact: FactOf[S],
  rules: Rules,
  now: number,
): Step {
  return (TRANSITIONS[state.at] as Transition<S>)(state, fact, rules, now);
}

const TOO_LATE = "this node did not get from its turn to the reboot in time; the next one may go on";
const RESTARTED = "the daemon was started again in the boot in which it had started the reboot command";
const FORGOTTEN = "turn.json does not know of the turn that this machine is in";
/** So long ago that everything is due again. */
const LONG_AGO = Number.NEGATIVE_INFINITY;

const go = (next: State, waitMs = 0, notice?: Notice): Step => ({ next, waitMs, ...(notice && { notice }) });
const say = (outcome: Outcome, why: string): Notice => ({ outcome, why });

/** What a closed gate is called as an outcome. */
export function refusal(gates: readonly Gate[]): Notice | undefined {
  const shut = gates.find((gate) => !gate.open);
  if (shut === undefined) return undefined;
  const words: Record<Gate["name"], Outcome> = {
    kill_switch: "kill_switch_active",
    window: "window_denied",
    detectors: "recheck_cleared",
    health: "health_blocked",
    store: "store_away",
    stop: "stopped",
    cooldown: "cooldown_active",
    policy: "policy_blocked",
    line: "lock_unavailable",
  };
  return say(shut.failed && shut.name === "health" ? "health_error" : words[shut.name], shut.why);
}

const TRANSITIONS: { readonly [S in State["at"]]: Transition<S> } = {
  starting: (_, { turn, record, namesake, bootId, graceUntil }) => {
    if (turn !== undefined) {
      const { fenced } = turn;
      if (turn.bootId !== bootId) return go({ at: "recovering", held: fenced });
      // turn.json is written before the fence: one that does not know this turn was lost, and nobody knows whether the command was started.
      const known = record?.place.turnId === fenced.place.turnId;
      if (!known) return go({ at: "aftermath", held: fenced, until: graceUntil, why: FORGOTTEN });
      if (record.until !== undefined) return go({ at: "aftermath", held: fenced, until: record.until, why: RESTARTED });
      const why = "the daemon ended before the reboot command was started";
      return go({ at: "withdrawing", fenced, keep: false, why, failures: 0 });
    }
    if (namesake !== undefined) return go({ at: "refused", why: namesake }, 0, say("name_taken", namesake));
    if (record !== undefined) {
      const held: Held = { place: record.place, mod: undefined };
      if (record.bootId !== bootId) return go({ at: "recovering", held });
      if (record.until !== undefined) return go({ at: "aftermath", held, until: record.until, why: RESTARTED });
    }
    return go({ at: "steady", notBefore: 0 });
  },

  refused: (_, __, rules) => go({ at: "starting" }, rules.checkIntervalMs),
  halting: () => go({ at: "starting" }),

  steady: (state, look, rules, now) => {
    if (look.strayTurn) return go({ at: "starting" });
    const notice =
      refusal(look.gates) ??
      (look.required
        ? undefined
        : look.detectorError === undefined
          ? say("no_action", "no detector wants a reboot")
          : say("detector_error", look.detectorError));
    if (notice !== undefined) return go(state, rules.checkIntervalMs, notice);
    if (now < state.notBefore)
      return go(
        state,
        Math.min(rules.checkIntervalMs, state.notBefore - now),
        say("reboot_failed", "waiting before the next attempt"),
      );
    return go({ at: "joining", reason: look.reason });
  },

  joining: (_, { place, why }, __, now) =>
    place === undefined
      ? go({ at: "steady", notBefore: 0 }, SOON_MS, say("lock_unavailable", why))
      : go({ at: "waiting", place, rechecked: now }),

  waiting: (state, fact, rules, now) => {
    const { place } = state;
    if (fact.permanent) return go({ at: "starting" });
    if (fact.ahead === undefined) return give(place, say("lock_unavailable", "the place in line was lost"), true);
    if (fact.look !== undefined) {
      const notice = refusal(fact.look.gates) ?? cleared(fact.look);
      if (notice !== undefined) return give(place, notice);
    }
    const rechecked = fact.look === undefined ? state.rechecked : now;
    const notice = fact.owns ? refusal(fact.shared) : say("lock_unavailable", fact.words);
    if (notice === undefined) {
      const by = state.by ?? now + rules.ownDeadlineMs;
      return now < by ? go({ at: "owning", place, by }) : give(place, say("lock_unavailable", TOO_LATE));
    }
    if (rules.mode === "once") return give(place, notice);
    return go({ at: "waiting", place, rechecked }, fact.owns ? SHARED_MS : 0, notice);
  },

  owning: ({ place, by }, { mine }) =>
    mine ? go({ at: "checking", place, by }) : give(place, say("lock_unavailable", "the place in line was lost"), true),

  checking: ({ place, by }, look) => {
    const notice = refusal(look.gates) ?? cleared(look);
    return notice === undefined ? go({ at: "fencing", place, by }) : give(place, notice);
  },

  fencing: (state, fact, _, now) => {
    const { place, by } = state;
    switch (fact.kind) {
      case "fenced":
        return go({ at: "launching", fenced: fact.fenced, sentAt: fact.sentAt });
      case "unknown":
        return go({ at: "settling", place, mod: fact.mod, why: fact.why });
      case "gone":
        return give(place, say("lock_unavailable", "the place in line was lost"), true);
      case "ready":
        return give(place, say("ready", "every gate is open"));
      case "changed":
        return now < by
          ? go(state)
          : give(place, say("lock_unavailable", "the fleet kept changing until this node's time was over"), true);
      case "closed": {
        const own = fact.gates.find((gate) => !gate.open && (gate.name === "kill_switch" || gate.name === "window"));
        const notice = refusal(own ? [own] : fact.gates);
        if (own !== undefined && notice !== undefined) return give(place, notice);
        return go({ at: "waiting", place, rechecked: now }, SHARED_MS, notice);
      }
    }
  },

  settling: ({ place, why }, fact) => {
    if (fact.kind === "fenced") return go({ at: "withdrawing", fenced: fact.fenced, keep: true, why, failures: 0 });
    if (fact.kind === "gone") return give(place, say("lock_unavailable", "the place in line was lost"), true);
    return go({ at: "waiting", place, rechecked: LONG_AGO }, 0, say("lock_unavailable", why));
  },

  launching: ({ fenced }, fact) =>
    fact.launched
      ? go({ at: "rebooting", held: fenced, until: fact.until }, 0, say("rebooting", fenced.place.reason))
      : go({ at: "withdrawing", fenced, keep: true, why: fact.why, failures: 0 }),

  withdrawing: (state, { left }, rules, now) => {
    const notice = state.failures > 0 ? say("reboot_failed", state.why) : say("lock_unavailable", state.why);
    const notBefore = state.failures > 0 ? now + retryMs(rules, state.failures) : 0;
    if (left === "kept") return go({ at: "waiting", place: state.fenced.place, rechecked: LONG_AGO }, 0, notice);
    return go({ at: "leaving", lease: state.fenced.place.lease, notBefore, soon: state.failures === 0 }, 0, notice);
  },

  rebooting: (state, fact) =>
    fact.over
      ? go({ at: "aftermath", held: state.held, until: state.until, why: fact.why }, 0, say("reboot_failed", fact.why))
      : go(state, 0, say("rebooting", fact.why)),

  aftermath: (state, fact, rules, now) => {
    if (!fact.settled) return go(state, SOON_MS, say("reboot_failed", fact.why));
    const { held, why } = state;
    if (held.mod === undefined) return go({ at: "steady", notBefore: now + retryMs(rules, fact.failures) });
    const fenced: Fenced = { place: held.place, mod: held.mod };
    return go({ at: "withdrawing", fenced, keep: false, why, failures: fact.failures });
  },

  recovering: (state, { healthy, why }, rules) =>
    healthy
      ? go({ at: "finishing", held: state.held })
      : go(state, Math.min(rules.checkIntervalMs, UNHEALTHY_MS), say("recovering", why)),

  finishing: ({ held }, { ended }) => {
    if (ended === "ended") return go({ at: "steady", notBefore: 0 }, 0, say("verified", held.place.reason));
    return go({ at: "finishing", held: { ...held, mod: ended === "gone" ? undefined : ended.mod } });
  },

  leaving: ({ notBefore, soon }, _, rules) => go({ at: "steady", notBefore }, soon ? SOON_MS : rules.checkIntervalMs),
};

function cleared(look: Look): Notice | undefined {
  if (look.required) return undefined;
  return look.detectorError === undefined
    ? say("recheck_cleared", "no detector wants a reboot any more")
    : say("detector_error", look.detectorError);
}

/** Gives the place up; `soon` gets in line again without waiting for the next check. */
function give(place: Place, notice: Notice, soon = false): Step {
  return go({ at: "leaving", lease: place.lease, notBefore: 0, soon }, 0, notice);
}

/** A machine that will not go down asks again later and later: 1, 2, 4 … check intervals, at most an hour. */
function retryMs(rules: Rules, failures: number): number {
  return Math.min(3_600_000, rules.checkIntervalMs * 2 ** Math.min(failures, 12));
}

/** What the stop of the daemon (SIGTERM) still has to do in this state: leave the line, give back a turn whose command was not started, or nothing. */
export function closing(state: State): State | undefined {
  switch (state.at) {
    case "waiting":
    case "owning":
    case "checking":
    case "fencing":
      return { at: "leaving", lease: state.place.lease, notBefore: 0, soon: false };
    case "launching":
      return { at: "withdrawing", fenced: state.fenced, keep: false, why: "the daemon was stopped", failures: 0 };
    case "leaving":
    case "settling":
    case "withdrawing":
      return state;
    default:
      return undefined;
  }
}

/** What an act that failed (store away, script not to be started, …) leads to. `leaseDead`: the place in line is lost. */
export function stumble(state: State, leaseDead: boolean, why: string): State {
  switch (state.at) {
    case "waiting":
    case "owning":
    case "checking":
    case "fencing":
      if (leaseDead) return { at: "leaving", lease: state.place.lease, notBefore: 0, soon: true };
      return { at: "waiting", place: state.place, rechecked: LONG_AGO, by: state.by };
    case "launching":
      return { at: "withdrawing", fenced: state.fenced, keep: true, why, failures: 0 };
    case "joining":
      return { at: "steady", notBefore: 0 };
    default:
      return state;
  }
}
