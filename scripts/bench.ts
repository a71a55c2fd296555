/** Runs the measurements of bench/: `bun scripts/bench.ts [NAME…] [--seconds N] [--rounds N] [--json FILE]`. */
import { cpus, loadavg, release } from "node:os";
import { parseArgs } from "node:util";
import { type Measurement, type Options, render } from "../bench/parts/figures.ts";
import { ensure, NEEDS } from "./debian.ts";
import { capture, Refusal, run, script } from "./steps.ts";

/** In the order in which they run. */
const MEASUREMENTS: Readonly<Record<string, () => Promise<{ measure(options: Options): Promise<Measurement> }>>> = {
  start: () => import("../bench/start.ts"),
  handover: () => import("../bench/handover.ts"),
  idle: () => import("../bench/idle.ts"),
  simulator: () => import("../bench/simulator.ts"),
};

function commandLine(): { names: readonly string[]; options: Options; json: string | undefined } {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: { seconds: { type: "string" }, rounds: { type: "string" }, json: { type: "string" } },
  });
  const unknown = positionals.find((name) => !(name in MEASUREMENTS));
  if (unknown !== undefined)
    throw new Refusal(`no measurement "${unknown}"; there are ${Object.keys(MEASUREMENTS).join(", ")}`);
  const whole = (name: "seconds" | "rounds"): number | undefined => {
    const text = values[name];
    if (text !== undefined && !/^[1-9]\d*$/.test(text))
      throw new Refusal(`--${name} takes a whole number, not ${text}`);
    return text === undefined ? undefined : Number(text);
  };
  const rounds = whole("rounds");
  return {
    names: positionals.length > 0 ? positionals : Object.keys(MEASUREMENTS),
    options: {
      seconds: whole("seconds") ?? 60,
      say: (text) => console.error(`… ${text}`),
      ...(rounds !== undefined && { rounds }),
    },
    json: values.json,
  };
}

/** Exit code 0 whether or not the aims were met: what a machine can do is no test. */
async function main(): Promise<number> {
  const { names, options, json } = commandLine();
  await ensure(NEEDS.bench);
  if ((await run([process.execPath, "scripts/build.ts", "--host"])) !== 0) return 1;
  // Pages of a file that are not on disk yet would count as memory that the daemon has written.
  await run(["sync", `dist/rota-linux-${process.arch}`]);
  const [cpu] = cpus();
  const machine = {
    date: new Date().toISOString(),
    commit: (await capture(["git", "describe", "--always", "--dirty"])).stdout.trim(),
    system: `${process.platform}-${process.arch} ${release()}, ${cpus().length} × ${cpu?.model ?? "?"}`,
    etcd: (await capture(["etcd", "--version"])).stdout.split("\n", 1)[0] ?? "",
    runtime: `bun ${Bun.version}`,
    load: loadavg()[0] ?? 0,
  };
  const results: (Measurement & { readonly load: number })[] = [];
  for (const name of names) {
    const measured = await (await MEASUREMENTS[name]?.())?.measure(options);
    if (measured === undefined) continue;
    results.push({ ...measured, load: loadavg()[0] ?? 0 });
    console.log(`\n${render(measured)}`);
  }
  console.log(`${machine.system}, ${machine.etcd}, ${machine.runtime}, ${machine.commit}`);
  console.log(
    `Load before: ${machine.load.toFixed(1)}; after each: ${results.map((r) => r.load.toFixed(1)).join(", ")}`,
  );
  if (json !== undefined) await Bun.write(json, `${JSON.stringify({ machine, results }, undefined, 2)}\n`);
  return 0;
}

if (import.meta.main) await script(main);
