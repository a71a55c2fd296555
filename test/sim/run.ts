/** make sim: many rounds, or one with its story, or the planted faults. Options: --seed N --rounds N --story --plants [NAME]. */
import { parseArgs } from "node:util";
import { PLANTS, type Plant } from "./plants.ts";
import { runRound } from "./world.ts";

const { values } = parseArgs({
  options: {
    seed: { type: "string" },
    rounds: { type: "string" },
    story: { type: "boolean" },
    plant: { type: "string" },
    plants: { type: "boolean" },
  },
});
const first = Number(values.seed ?? 1);
const rounds = Number(values.rounds ?? (values.seed ? 1 : 1000));
const named = PLANTS.filter(
  (plant) => values.plants || (values.plant !== undefined && plant.name.includes(values.plant)),
);

/** The first seed that breaks an invariant. */
function firstViolation(plant: Plant | undefined): { seed: number; fences: number; steps: number; violation?: string } {
  let steps = 0;
  let fences = 0;
  for (let seed = first; seed < first + rounds; seed++) {
    const result = runRound(seed, { plant });
    steps += result.steps;
    fences += result.fences;
    if (result.violation !== undefined) return { seed, fences, steps, violation: result.violation };
  }
  return { seed: first + rounds - 1, fences, steps };
}

function tell(seed: number, plant: Plant | undefined): void {
  const { story, steps, violation } = runRound(seed, { plant, recording: true });
  const which = plant ? ` PLANT="${plant.name}"` : "";
  console.log(values.story ? story.join("\n") : story.slice(-60).join("\n"));
  console.log(`seed ${seed}, step ${steps}: ${violation ?? "every invariant held"}`);
  console.log(`again: make sim SEED=${seed} ROUNDS=1${which}`);
}

const began = performance.now();
const seconds = () => ((performance.now() - began) / 1000).toFixed(1);
let failed = false;
if (named.length > 0) {
  for (const plant of named) {
    const { seed, violation } = firstViolation(plant);
    console.log(
      `${violation ? `caught in round ${seed - first + 1}` : "NOT CAUGHT"}: ${plant.name}${violation ? ` (${violation})` : ""}`,
    );
    if (violation && values.story) tell(seed, plant);
    failed ||= violation === undefined;
  }
} else {
  const { seed, fences, steps, violation } = firstViolation(undefined);
  failed = violation !== undefined;
  if (failed || values.story) tell(seed, undefined);
  else console.log(`${rounds} rounds, ${fences} reboots, ${steps} steps in ${seconds()} s: every invariant held`);
}
process.exit(failed ? 1 : 0);
