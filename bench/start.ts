/** How long the built executable takes to start, answer and end. */
import { root } from "../scripts/steps.ts";
import { type Measurement, median, type Options, quantile } from "./parts/figures.ts";

const RUNS = 50;
/** The first few fill the page cache. */
const DISCARDED = 5;

/** `rota version`, beside what starting any program costs here. */
export async function measure(options: Options): Promise<Measurement> {
  const runs = options.rounds ?? RUNS;
  const programs: readonly (readonly [string, ...string[]])[] = [
    ["/bin/true"],
    ["etcdctl", "version"],
    [`${root}/dist/rota-linux-${process.arch}`, "version"],
    [`${root}/dist/rota-linux-${process.arch}`, "reboot", "run", "--help"],
  ];
  const samples = programs.map((): { took: number; core: number }[] => []);
  options.say(`start: ${runs} times ${programs.length} programs`);
  // In turn, so that whatever else this machine does at a moment meets all of them.
  for (let n = 0; n < runs + DISCARDED; n++) {
    for (const [i, argv] of programs.entries()) {
      const began = performance.now();
      const { exitCode, resourceUsage } = Bun.spawnSync([...argv], { stdout: "ignore", stderr: "ignore" });
      const took = performance.now() - began;
      if (exitCode !== 0) throw new Error(`${argv.join(" ")} ended with ${exitCode}`);
      if (n >= DISCARDED) samples[i]?.push({ took, core: Number(resourceUsage?.cpuTime.total ?? Number.NaN) / 1000 });
    }
  }
  const times = (i: number) => (samples[i] ?? []).map(({ took }) => took);
  const cores = (i: number) => (samples[i] ?? []).map(({ core }) => core);
  return {
    name: "start",
    title: "Start: from the call to the end of the program (ms)",
    columns: ["runs", "best", "median", "p90", "on a core"],
    rows: programs.map((argv, i) => ({
      label: argv.join(" ").replace(`${root}/dist/rota-linux-${process.arch}`, "rota"),
      figures: [runs, quantile(times(i), 0), median(times(i)), quantile(times(i), 0.9), median(cores(i))],
    })),
    aims: [{ what: "rota version", value: median(times(2)), unit: "ms", most: 15 }],
    notes: ["On a core: the median of what it computed, the figure to compare on a busy machine."],
  };
}
