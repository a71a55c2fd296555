/** Everything that can be said about the sources without running them: format, lint, types, the lock file. */
import { type Count, countLine, Refusal, root, run, script, seconds } from "./steps.ts";

const bin = (name: string) => `${root}/node_modules/.bin/${name}`;

const CHECKS: Readonly<Record<string, () => Promise<boolean>>> = {
  "format and lint": async () => (await run([bin("biome"), "check", "--error-on-warnings"])) === 0,
  types: async () => (await run([bin("tsc"), "--noEmit"])) === 0,
  "lock file": async () => {
    const faults = lockFaults(await Bun.file(`${root}/package-lock.json`).text());
    for (const fault of faults) console.error(`package-lock.json: ${fault}`);
    return faults.length === 0;
  },
};

/** What is wrong with a lock file: it must name no host, and every package must have a checksum, since nothing else pins it. */
export function lockFaults(text: string): string[] {
  const lock: unknown = JSON.parse(text);
  if (typeof lock !== "object" || lock === null || !("packages" in lock))
    throw new Refusal("package-lock.json: not a lock file");
  const packages = lock.packages as Record<string, { resolved?: string; integrity?: string }>;
  return Object.entries(packages).flatMap(([name, { resolved, integrity }]) => {
    if (name === "") return [];
    if (resolved !== undefined) return [`${name} is tied to a host (install again with the .npmrc of this project)`];
    return integrity?.startsWith("sha512-") ? [] : [`${name} has no sha512 checksum`];
  });
}

async function main(): Promise<number> {
  const total: { -readonly [K in keyof Count]: Count[K] } = { passed: 0, failed: 0 };
  for (const [name, check] of Object.entries(CHECKS)) {
    const start = performance.now();
    const good = await check();
    total[good ? "passed" : "failed"]++;
    console.log(`${name.padEnd(16)}${seconds(performance.now() - start).padStart(8)}   ${good ? "good" : "BAD"}`);
  }
  console.log(`\n${countLine(total)}`);
  return total.failed === 0 ? 0 : 1;
}

if (import.meta.main) await script(main);
