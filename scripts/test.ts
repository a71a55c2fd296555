/** Runs test suites one after the other and says how long each took: `bun scripts/test.ts [unit] [contract] [sim] [e2e] [hosts]`. */
import { Glob } from "bun";
import { ensure, NEEDS } from "./debian.ts";
import { type Count, countLine, follow, Refusal, root, run, script, seconds } from "./steps.ts";

interface Suite {
  /** Folders with test files. */
  readonly in: readonly string[];
  /** The deadline of a test that does not set its own. */
  readonly timeoutMs: number;
  /** Needs the built executable. */
  readonly built?: boolean;
  /** Needs root while it runs, not only for installing. */
  readonly root?: boolean;
  readonly needs: keyof typeof NEEDS;
}

const SUITES: Readonly<Record<string, Suite>> = {
  unit: { in: ["src", "scripts", "test/world"], timeoutMs: 20_000, needs: "test" },
  contract: { in: ["test/contract"], timeoutMs: 60_000, needs: "test" },
  sim: { in: ["test/sim"], timeoutMs: 600_000, needs: "test" },
  e2e: { in: ["test/e2e"], timeoutMs: 180_000, built: true, needs: "test" },
  hosts: { in: ["test/hosts"], timeoutMs: 900_000, built: true, root: true, needs: "hosts" },
};

interface Outcome extends Count {
  readonly name: string;
  readonly ms: number;
}

async function built(): Promise<boolean> {
  return (await run([process.execPath, "scripts/build.ts", "--host"])) === 0;
}

async function runSuite(name: string, suite: Suite, build: boolean): Promise<Outcome> {
  const start = performance.now();
  const outcome = (count: Count): Outcome => ({ name, ms: performance.now() - start, ...count });
  console.log(`\n── ${name} ──`);
  const folders: string[] = [];
  for (const folder of suite.in) if (await hasTests(folder)) folders.push(`./${folder}`);
  if (folders.length === 0) {
    // A suite that has vanished must not look like one that passed.
    console.error(`${name}: no test files in ${suite.in.join(", ")}`);
    return outcome({ passed: 0, failed: 1 });
  }
  if (suite.built && build && !(await built())) return outcome({ passed: 0, failed: 1 });
  const { code, text } = await follow([process.execPath, "test", "--timeout", String(suite.timeoutMs), ...folders], {
    FORCE_COLOR: "0",
    ROTA_EXECUTABLE: `${root}/dist/rota-linux-${process.arch}`,
  });
  const { passed, failed } = readCounts(text);
  // Bun also fails for an error between tests, and when it dies it counts nothing.
  return outcome({ passed, failed: code === 0 ? failed : Math.max(1, failed) });
}

async function hasTests(folder: string): Promise<boolean> {
  const { existsSync } = await import("node:fs");
  if (!existsSync(`${root}/${folder}`)) return false;
  for await (const _ of new Glob("**/*.test.ts").scan({ cwd: `${root}/${folder}` })) return true;
  return false;
}

/** The numbers at the end of what `bun test` prints. */
export function readCounts(text: string): Count {
  const last = (word: string) => [...text.matchAll(new RegExp(`^ *(\\d+) ${word}$`, "gm"))].at(-1)?.[1] ?? "0";
  return { passed: Number(last("pass")), failed: Number(last("fail")) };
}

async function main(): Promise<number> {
  const build = !process.argv.includes("--no-build");
  const asked = process.argv.slice(2).filter((word) => word !== "--no-build");
  const names = asked.length > 0 ? asked : Object.keys(SUITES).filter((name) => !SUITES[name]?.root);
  const outcomes: Outcome[] = [];
  for (const name of names) {
    const suite = SUITES[name];
    if (suite === undefined) throw new Refusal(`no suite "${name}"; there are ${Object.keys(SUITES).join(", ")}`);
    await ensure(NEEDS[suite.needs]);
    if (suite.root && process.getuid?.() !== 0) {
      // What is built belongs to whoever builds; only the tests run as root.
      if (suite.built && build && !(await built())) return 1;
      console.log(`${name} needs root; running it with sudo`);
      return run(["sudo", "-E", process.execPath, "scripts/test.ts", "--no-build", ...names]);
    }
    outcomes.push(await runSuite(name, suite, build));
  }
  console.log("");
  for (const { name, ms, ...count } of outcomes)
    console.log(`${name.padEnd(10)}${seconds(ms).padStart(9)}   ${countLine(count)}`);
  const sum = (key: keyof Count) => outcomes.reduce((total, outcome) => total + outcome[key], 0);
  const total = { passed: sum("passed"), failed: sum("failed") };
  console.log(`\n${countLine(total)}`);
  return total.failed === 0 ? 0 : 1;
}

if (import.meta.main) await script(main);
