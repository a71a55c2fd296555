/** The policy gate: the world after the act, in which I am down, silence is not health, and a ghost is no peer. */
import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import type { Contender, TurnValue } from "./keys.ts";
import { type PolicySettings, policyGate, worldAfter } from "./policy.ts";
import type { Fleet, HealthRecord, NodeView } from "./roster.ts";

type Condition = "up" | "sick" | "silent" | "turn" | "ghost";

function record(node: string, condition: Condition): { readonly health?: HealthRecord } {
  if (condition === "silent") return {};
  const down = condition === "turn" || condition === "ghost";
  return {
    health: {
      node,
      machine: `m-${node}`,
      healthy: condition === "up",
      stage: down ? "turn" : "monitor",
      reported_at: "",
      ...(condition === "sick" && { reason: "monitor exit 1" }),
      ...(down && { turn: "t" }),
    },
  };
}

/** "self" and the others in their conditions. A "turn" has its key in the line, a "ghost" has lost it. */
function world(others: readonly Condition[], selfCondition: Condition = "up") {
  const nodes: NodeView[] = [
    { node: "self", machine: "m-self", group: "/g", ...record("self", selfCondition) },
    ...others.map((condition, i) => ({
      node: `n${i}`,
      machine: `m-n${i}`,
      group: "/g",
      ...record(`n${i}`, condition),
    })),
  ];
  const line = others.flatMap((condition, i): Contender[] => {
    const value = { machine: `m-n${i}`, node: `n${i}` } as TurnValue;
    return condition === "turn" ? [{ key: `k${i}`, lease: "0", create: `${i}`, mod: "1", permanent: true, value }] : [];
  });
  const fleet: Fleet = { nodes, garbage: [] };
  return { fleet, line };
}

const self = { node: "self", machine: "m-self" };
const OPEN: PolicySettings = { forbidIfOnlyFallbackLeft: false, fallbackNodes: [], blockOnUnhealthyPeer: false };

function gate(policy: Partial<PolicySettings>, others: readonly Condition[], selfCondition: Condition = "up") {
  const { fleet, line } = world(others, selfCondition);
  return policyGate({ ...OPEN, ...policy }, fleet, line, self);
}

const times = (n: number, condition: Condition): Condition[] => Array.from({ length: n }, () => condition);

describe("the gate", () => {
  const rows: readonly (readonly [string, Partial<PolicySettings>, readonly Condition[], boolean, string])[] = [
    ["no policy, nobody else", {}, [], true, "0 of 1 nodes would be up"],
    ["no policy, everybody down", {}, ["sick", "silent"], true, "0 of 3 nodes would be up"],
    [
      "2 nodes, absolute 2: I would be down",
      { minHealthyAbsolute: 2 },
      ["up"],
      false,
      "1 of 2 nodes would be up, min_healthy_absolute is 2",
    ],
    ["3 nodes, absolute 2", { minHealthyAbsolute: 2 }, ["up", "up"], true, "2 of 3 nodes would be up"],
    ["absolute 0", { minHealthyAbsolute: 0 }, [], true, "0 of 1 nodes would be up"],
    [
      "a sick one is down",
      { minHealthyAbsolute: 2 },
      ["up", "sick"],
      false,
      "1 of 3 nodes would be up, min_healthy_absolute is 2",
    ],
    [
      "a silent one is down",
      { minHealthyAbsolute: 2 },
      ["up", "silent"],
      false,
      "1 of 3 nodes would be up, min_healthy_absolute is 2",
    ],
    [
      "one in its turn is down",
      { minHealthyAbsolute: 2 },
      ["up", "turn"],
      false,
      "1 of 3 nodes would be up, min_healthy_absolute is 2",
    ],
    [
      "a ghost, released but not verified, is down",
      { minHealthyAbsolute: 2 },
      ["up", "ghost"],
      false,
      "1 of 3 nodes would be up, min_healthy_absolute is 2",
    ],
    [
      "1 of 10 unhealthy, fraction 0.5",
      { minHealthyFraction: 0.5 },
      [...times(8, "up"), "sick"],
      true,
      "8 of 10 nodes would be up",
    ],
    [
      "exactly the fraction",
      { minHealthyFraction: 0.5 },
      [...times(5, "up"), ...times(4, "sick")],
      true,
      "5 of 10 nodes would be up",
    ],
    [
      "just below the fraction",
      { minHealthyFraction: 0.5 },
      [...times(4, "up"), ...times(5, "sick")],
      false,
      "4 of 10 nodes would be up, min_healthy_fraction is 0.5",
    ],
    [
      "fraction 1 can never pass: I am down",
      { minHealthyFraction: 1 },
      times(9, "up"),
      false,
      "9 of 10 nodes would be up, min_healthy_fraction is 1",
    ],
    [
      "the last one that is no fallback",
      { forbidIfOnlyFallbackLeft: true, fallbackNodes: ["n0"] },
      ["up"],
      false,
      "only fallback nodes would be up: n0",
    ],
    [
      "the last but a sick one that is no fallback",
      { forbidIfOnlyFallbackLeft: true, fallbackNodes: ["n0"] },
      ["up", "sick"],
      false,
      "only fallback nodes would be up: n0",
    ],
    [
      "another that is no fallback",
      { forbidIfOnlyFallbackLeft: true, fallbackNodes: ["n0"] },
      ["up", "up"],
      true,
      "2 of 3 nodes would be up",
    ],
    [
      "a fallback node itself, another non-fallback is up",
      { forbidIfOnlyFallbackLeft: true, fallbackNodes: ["self"] },
      ["up"],
      true,
      "1 of 2 nodes would be up",
    ],
    [
      "no node would be up at all",
      { forbidIfOnlyFallbackLeft: true, fallbackNodes: [] },
      ["sick"],
      false,
      "no node would be up",
    ],
    [
      "blocked by a sick peer",
      { blockOnUnhealthyPeer: true },
      ["up", "sick"],
      false,
      "down already: n1 (unhealthy: monitor exit 1)",
    ],
    ["blocked by a silent peer", { blockOnUnhealthyPeer: true }, ["silent"], false, "down already: n0 (silent)"],
    ["not by one in its turn", { blockOnUnhealthyPeer: true }, ["up", "turn"], true, "1 of 3 nodes would be up"],
    [
      "long lists are cut",
      { blockOnUnhealthyPeer: true },
      times(7, "silent"),
      false,
      "down already: n0 (silent), n1 (silent), n2 (silent), n3 (silent), n4 (silent) and 2 more",
    ],
  ];
  test.each(rows)("%s", (_, policy, others, open, why) => {
    expect(gate(policy, others)).toEqual({ name: "policy", open, why });
  });

  test("I am down whatever my record says, and also when nobody has heard of me", () => {
    for (const condition of ["up", "sick", "silent", "turn"] as const)
      expect(gate({ minHealthyAbsolute: 1 }, ["up"], condition).why).toBe("1 of 2 nodes would be up");
    const { fleet, line } = world(["up"]);
    const strangers = { ...fleet, nodes: fleet.nodes.slice(1) };
    expect(policyGate(OPEN, strangers, line, self).why).toBe("1 of 2 nodes would be up");
  });

  test("me is my machine: another machine with my name counts on its own, my old name does not", () => {
    const { fleet, line } = world(["up"]);
    const renamed = {
      ...fleet,
      nodes: [{ node: "old-name", machine: "m-self", group: "/g" }, ...fleet.nodes.slice(1)],
    };
    expect([...worldAfter(renamed, line, self).down.keys()]).toEqual(["self"]);
  });
});

test("whoever is up stays up for nobody else's sake: one more down never opens a gate", () => {
  const conditions = fc.array(fc.constantFrom<Condition>("up", "sick", "silent", "turn", "ghost"), { maxLength: 8 });
  const policies = fc.record({
    minHealthyAbsolute: fc.integer({ min: 0, max: 5 }),
    minHealthyFraction: fc.double({ min: 0.05, max: 1, noNaN: true }),
    forbidIfOnlyFallbackLeft: fc.boolean(),
    fallbackNodes: fc.subarray(["n0", "n1", "n2", "self"]),
    blockOnUnhealthyPeer: fc.boolean(),
  });
  fc.assert(
    fc.property(
      policies,
      conditions,
      fc.nat(),
      fc.constantFrom<Condition>("sick", "silent"),
      (policy, now, pick, fate) => {
        const at = now.length === 0 ? -1 : pick % now.length;
        if (now[at] !== "up") return;
        const then = now.map((condition, i) => (i === at ? fate : condition));
        const [before, after] = [gate(policy, now), gate(policy, then)];
        expect(after.open && !before.open).toBe(false);
      },
    ),
  );
});
