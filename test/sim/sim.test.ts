/** The simulator in the test suite: the true code holds in 10,000 rounds, every planted fault is caught, and every round can be replayed. */
import { describe, expect, test } from "bun:test";
import { planOf } from "./plan.ts";
import { PLANTS } from "./plants.ts";
import { search, tell } from "./run.ts";
import { runRound } from "./world.ts";

/** Each planted fault is found within this many rounds; most are in the first few. */
const PLANT_ROUNDS = 400;

describe("planted faults", () => {
  for (const plant of PLANTS)
    test(`caught: ${plant.name}`, () => {
      const { broken } = search(1, PLANT_ROUNDS, plant);
      expect(broken?.violation).toMatch(/^invariant [1-8]: /);
    });
});

test("a failure tells seed, step and its last events, and replays exactly", () => {
  const plant = PLANTS.find(({ name }) => name === "release at start");
  const seed = search(1, PLANT_ROUNDS, plant).broken?.seed ?? 0;
  const story = tell(seed, plant, false);
  expect(story).toContain("VIOLATION of invariant");
  expect(story).toMatch(new RegExp(`seed ${seed}, step \\d+: invariant`));
  expect(story).toContain(`make sim SEED=${seed} ROUNDS=1 PLANT="release at start"`);
  expect(tell(seed, plant, false)).toBe(story);
});

test("the same seed gives the same round, event by event", () => {
  for (const seed of [3, 17, 2791]) {
    const first = runRound(seed, { recording: true });
    const second = runRound(seed, { recording: true });
    expect(second.story).toEqual(first.story);
    expect(second.steps).toBe(first.steps);
    expect(runRound(seed).steps).toBe(first.steps);
  }
});

test("rounds are of every kind: small fleets, large ones, several groups and slots, one name twice, a renamed node", () => {
  const plans = Array.from({ length: 10_000 }, (_, i) => planOf(i + 1));
  const some = (what: (plan: ReturnType<typeof planOf>) => boolean) => plans.filter(what).length;
  expect(some((plan) => plan.nodes.length === 200)).toBeGreaterThan(1);
  expect(some((plan) => plan.nodes.length === 3)).toBeGreaterThan(1000);
  expect(some((plan) => plan.nodes.length === 10)).toBeGreaterThan(100);
  expect(some((plan) => plan.groups > 1)).toBeGreaterThan(1000);
  expect(some((plan) => plan.nodes.some((node) => node.slots > 1))).toBeGreaterThan(1000);
  expect(
    some((plan) => plan.nodes.some((node, i) => plan.nodes.findIndex(({ name }) => name === node.name) < i)),
  ).toBeGreaterThan(100);
  expect(some((plan) => plan.rename)).toBeGreaterThan(50);
});

test("10,000 rounds of the true code: every invariant holds, and the line drains once faults stop", async () => {
  const words = [process.execPath, `${import.meta.dir}/run.ts`, "--seed", "1", "--rounds", "10000", "--jobs", "2"];
  const child = Bun.spawn(words, { stdout: "pipe", stderr: "inherit" });
  const text = await new Response(child.stdout).text();
  console.log(text.trim());
  expect(text).toMatch(/^10000 rounds from seed 1: \d+ reboots, \d+ steps in .* every invariant held$/m);
  expect(await child.exited).toBe(0);
});
