/** How fast the simulator goes through its rounds: not a promise to anybody, but what decides how many of them CI can afford. */
import { root } from "../scripts/steps.ts";
import type { Measurement, Options } from "./parts/figures.ts";

const ROUNDS = 200;
/** The same rounds every time. */
const SEED = 1;

/** Rounds and steps a second, on one core. */
export async function measure(options: Options): Promise<Measurement> {
  const rounds = options.rounds ?? ROUNDS;
  options.say(`simulator: ${rounds} rounds`);
  const argv = [process.execPath, `${root}/test/sim/run.ts`, "--seed", `${SEED}`, "--rounds", `${rounds}`, "--json"];
  const began = performance.now();
  const child = Bun.spawn(argv, { stdin: "ignore", stdout: "pipe", stderr: "inherit" });
  const text = await new Response(child.stdout).text();
  const seconds = (performance.now() - began) / 1000;
  await child.exited;
  const { cpuTime } = child.resourceUsage() ?? { cpuTime: { total: 0 } };
  const core = Number(cpuTime.total) / 1e6;
  const { steps, broken } = JSON.parse(text) as { steps: number; broken?: { seed: number } };
  if (broken !== undefined) throw new Error(`seed ${broken.seed} breaks an invariant: there is no speed to speak of`);
  return {
    name: "simulator",
    title: `Simulator: ${rounds} rounds from seed ${SEED} in one process`,
    columns: ["rounds/s", "steps/s", "ms a round", "core ms a round"],
    rows: [
      { label: "", figures: [rounds / seconds, steps / seconds, (1000 * seconds) / rounds, (1000 * core) / rounds] },
    ],
    aims: [],
    notes: [
      "Core ms: time on a core, garbage collection and compilation included; the figure to compare on a busy machine.",
    ],
  };
}
