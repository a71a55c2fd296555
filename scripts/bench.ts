/** Runs the measurements in bench/, one after the other: `bun scripts/bench.ts [NAME…]`. */
import { Glob } from "bun";
import { ensure, NEEDS } from "./debian.ts";
import { Refusal, root, run, script } from "./steps.ts";

async function main(): Promise<number> {
  const all: string[] = [];
  for await (const path of new Glob("*.ts").scan({ cwd: `${root}/bench` })) all.push(path.replace(/\.ts$/, ""));
  const asked = process.argv.slice(2);
  const unknown = asked.find((name) => !all.includes(name));
  if (unknown !== undefined) throw new Refusal(`no measurement "${unknown}"; there are ${all.sort().join(", ")}`);
  await ensure(NEEDS.bench);
  if ((await run([process.execPath, "scripts/build.ts", "--host"])) !== 0) return 1;
  let worst = 0;
  for (const name of asked.length > 0 ? asked : all.sort()) {
    console.log(`\n── ${name} ──`);
    worst = Math.max(worst, await run([process.execPath, `bench/${name}.ts`]));
  }
  return worst;
}

if (import.meta.main) await script(main);
