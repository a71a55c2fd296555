/** make sim: many rounds, or one with its story, or the planted faults. Options: --seed N --rounds N --jobs N --story --plant NAME --plants. */
import { parseArgs } from "node:util";
import { PLANTS, type Plant } from "./plants.ts";
import { runRound } from "./world.ts";

interface Tally {
  readonly rounds: number;
  readonly fences: number;
  readonly steps: number;
  /** The first seed that broke an invariant. */
  readonly broken?: { readonly seed: number; readonly violation: string };
}

/** Runs the rounds of `rounds` seeds from `first` on, until one breaks an invariant. */
export function search(first: number, rounds: number, plant?: Plant): Tally {
  let steps = 0;
  let fences = 0;
  for (let seed = first; seed < first + rounds; seed++) {
    const result = runRound(seed, { plant });
    steps += result.steps;
    fences += result.fences;
    const { violation } = result;
    if (violation !== undefined) return { rounds: seed - first + 1, fences, steps, broken: { seed, violation } };
  }
  return { rounds, fences, steps };
}

/** The same, cut into pieces for several processes. */
async function searchTogether(first: number, rounds: number, jobs: number): Promise<Tally> {
  const size = Math.ceil(rounds / jobs);
  const pieces = Array.from({ length: jobs }, (_, i) => ({
    first: first + i * size,
    rounds: Math.min(size, rounds - i * size),
  })).filter((piece) => piece.rounds > 0);
  const tallies = await Promise.all(
    pieces.map(async (piece): Promise<Tally> => {
      const words = ["--seed", String(piece.first), "--rounds", String(piece.rounds), "--json"];
      const child = Bun.spawn([process.execPath, import.meta.path, ...words], { stdout: "pipe", stderr: "inherit" });
      const text = await new Response(child.stdout).text();
      if (text === "") throw new Error(`the rounds from seed ${piece.first} on ended with code ${await child.exited}`);
      return JSON.parse(text) as Tally;
    }),
  );
  const sum = (pick: (tally: Tally) => number) => tallies.reduce((total, tally) => total + pick(tally), 0);
  const broken = tallies.find((tally) => tally.broken)?.broken;
  return {
    rounds: sum((t) => t.rounds),
    fences: sum((t) => t.fences),
    steps: sum((t) => t.steps),
    ...(broken && { broken }),
  };
}

/** The story of one round: its last events, or all of them. */
export function tell(seed: number, plant: Plant | undefined, whole: boolean): string {
  const { story, steps, violation } = runRound(seed, { plant, recording: true });
  const again = `make sim SEED=${seed} ROUNDS=1${plant ? ` PLANT="${plant.name}"` : ""}`;
  const lines = whole ? story : story.slice(-60);
  return [...lines, `seed ${seed}, step ${steps}: ${violation ?? "every invariant held"}`, `again: ${again}`].join(
    "\n",
  );
}

function tryPlants(plants: readonly Plant[], first: number, rounds: number, story: boolean): boolean {
  let caught = true;
  for (const plant of plants) {
    const { broken } = search(first, rounds, plant);
    console.log(
      broken
        ? `caught in round ${broken.seed - first + 1}: ${plant.name} (${broken.violation})`
        : `NOT CAUGHT in ${rounds} rounds: ${plant.name}`,
    );
    if (broken && story) console.log(tell(broken.seed, plant, false));
    caught &&= broken !== undefined;
  }
  return caught;
}

async function main(): Promise<number> {
  const { values } = parseArgs({
    options: {
      seed: { type: "string" },
      rounds: { type: "string" },
      jobs: { type: "string" },
      plant: { type: "string" },
      plants: { type: "boolean" },
      story: { type: "boolean" },
      json: { type: "boolean" },
    },
  });
  // Without a seed every run looks elsewhere; the seed is said, so that it can be looked at again.
  const first = Number(values.seed ?? Math.floor(Math.random() * 1e9));
  const rounds = Number(values.rounds ?? (values.seed === undefined ? 1000 : 1));
  const named = PLANTS.filter(
    ({ name }) => values.plants || (values.plant !== undefined && name.includes(values.plant)),
  );
  if (values.plant !== undefined && named.length === 0)
    throw new Error(`no planted fault is named like "${values.plant}"`);
  if (named.length > 0) return tryPlants(named, first, rounds, values.story ?? false) ? 0 : 1;
  const began = performance.now();
  const jobs = Number(values.jobs ?? 1);
  const tally = jobs > 1 ? await searchTogether(first, rounds, jobs) : search(first, rounds);
  if (values.json) console.log(JSON.stringify(tally));
  else if (tally.broken) console.log(tell(tally.broken.seed, undefined, values.story ?? false));
  else if (values.story) console.log(tell(first, undefined, true));
  else {
    const seconds = ((performance.now() - began) / 1000).toFixed(1);
    console.log(
      `${tally.rounds} rounds from seed ${first}: ${tally.fences} reboots, ${tally.steps} steps in ${seconds} s; every invariant held`,
    );
  }
  return tally.broken ? 1 : 0;
}

if (import.meta.main) process.exit(await main());
