/** make sim: many rounds, or one with its story. `bun test/sim/run.ts [--seed N] [--rounds N] [--story]` */
import { parseArgs } from "node:util";
import { runRound } from "./world.ts";

const { values } = parseArgs({ options: { seed: { type: "string" }, rounds: { type: "string" }, story: { type: "boolean" } } });
const first = Number(values.seed ?? 1);
const rounds = Number(values.rounds ?? (values.seed ? 1 : 1000));
const began = performance.now();
let steps = 0;
let fences = 0;
for (let seed = first; seed < first + rounds; seed++) {
  const result = runRound(seed, { recording: values.story ?? false });
  steps += result.steps;
  fences += result.fences;
  if (values.story) console.log(result.story.join("\n"));
  if (result.violation === undefined) continue;
  const told = runRound(seed, { recording: true });
  console.log(`seed ${seed}, step ${result.steps}: ${result.violation}\n${told.story.slice(-60).join("\n")}`);
  console.log(`replay: make sim SEED=${seed} ROUNDS=1`);
  process.exit(1);
}
const seconds = (performance.now() - began) / 1000;
console.log(`${rounds} rounds, ${fences} reboots, ${steps} steps in ${seconds.toFixed(1)} s: every invariant held`);
