/** The rules of the house, held by a test: over this tree they find nothing, and over planted faults each finds its own. */
import { describe, expect, test } from "bun:test";
import { Glob } from "bun";
import { functionsIn } from "../test/tidy/blocks.ts";
import { RULES, tidy } from "../test/tidy/rules.ts";
import { loadedBy, readSource } from "../test/tidy/source.ts";

const root = `${import.meta.dir}/..`;

async function readTree() {
  const paths: string[] = [];
  for (const folder of ["src", "test", "scripts", "bench"])
    for await (const path of new Glob("**/*.ts").scan({ cwd: `${root}/${folder}` })) paths.push(`${folder}/${path}`);
  const files = paths.map((path) => path.replaceAll("\\", "/")).filter((path) => !path.startsWith("test/fixtures/"));
  return Promise.all(files.sort().map(async (path) => readSource(path, await Bun.file(`${root}/${path}`).text())));
}

test("the tree is tidy", async () => {
  const findings = tidy(await readTree());
  expect(findings.join("\n")).toBe("");
});

describe("what a command loads", () => {
  test("before it is known which one it is: the table, and nothing that a short command would wait for", async () => {
    const loaded = [...loadedBy("src/main.ts", await readTree())];
    const light = /^(src\/main\.ts|src\/commands\/[\w-]+\.ts|src\/kernel\/(errors|nearest|version)\.ts|node:fs)$/;
    expect(loaded.filter((path) => !light.test(path))).toEqual([]);
  });

  test("of one area: nothing of the others", async () => {
    const tree = await readTree();
    const areas = ["reboot", "update", "cluster"];
    for (const { path } of tree) {
      const own = areas.find((area) => path.startsWith(`src/commands/${area}-`));
      if (own === undefined) continue;
      const foreign = areas.filter((area) => area !== own).map((area) => `src/${area}/`);
      const loaded = [...loadedBy(path, tree)].filter((other) => foreign.some((area) => other.startsWith(area)));
      expect(loaded, path).toEqual([]);
    }
  });
});

/** The names of the rules that object to a file with this text. */
function objections(path: string, text: string, others: Readonly<Record<string, string>> = {}): string[] {
  const file = readSource(path, text.startsWith("#!") || text.startsWith("//") ? text : `// A file.\n${text}`);
  const tree = [file, ...Object.entries(others).map(([name, body]) => readSource(name, `// A file.\n${body}`))];
  return RULES.filter((rule) => [...rule.check(file, tree)].length > 0).map((rule) => rule.name);
}

const imports = (specifier: string) => `import { x } from "${specifier}";\nexport const y = x;\n`;
const sk = "ski" + "p";
const planted: readonly (readonly [rule: string, path: string, text: string, others?: Record<string, string>])[] = [
  ["rooms", "src/reboot/gates.ts", imports("../update/plan.ts")],
  ["rooms", "src/update/host.ts", 'import type { X } from "../cluster/plan.ts";\n'],
  ["rooms", "src/kernel/log.ts", imports("../store/store.ts")],
  ["rooms", "src/store/etcd.ts", imports("../turn/queue.ts")],
  ["rooms", "src/platform/swarm.ts", imports("../store/store.ts")],
  ["rooms", "src/turn/queue.ts", imports("../commands/command.ts")],
  ["rooms", "src/reboot/daemon.ts", 'export const x = () => import("../cluster/agent.ts");\n'],
  ["rooms", "src/reboot/daemon.ts", imports("../../test/world/clock.ts")],
  ["rooms", "src/wire.ts", imports("./commands/command.ts")],
  ["kernel order", "src/kernel/clock.ts", imports("./http.ts")],
  ["kernel order", "src/kernel/surprise.ts", "export const x = 1;\n"],
  ["pure", "src/reboot/machine.ts", "export const x = async () => 1;\n"],
  ["pure", "src/update/plan.ts", imports("node:path")],
  ["pure", "src/cluster/plan.ts", "export const x = () => Bun.stringWidth('a');\n"],
  ["pure", "src/kernel/windows.ts", imports("./clock.ts")],
  ["pure", "src/cluster/address.ts", "export const x = () => Math.random();\n"],
  ["one file per outside thing", "src/platform/os.ts", 'export const x = () => Bun.spawn(["reboot"]);\n'],
  ["one file per outside thing", "src/platform/os.ts", imports("node:child_process")],
  ["one file per outside thing", "src/turn/queue.ts", "export const x = () => Date.now();\n"],
  ["one file per outside thing", "src/turn/queue.ts", "export const x = () => new Date();\n"],
  ["one file per outside thing", "src/turn/queue.ts", "export const x = () => setTimeout(() => 1, 5);\n"],
  ["one file per outside thing", "src/turn/queue.ts", `export const x = () => \`$${"{Math.random()}"}\`;\n`],
  ["one file per outside thing", "src/turn/queue.ts", "export const x = () => AbortSignal.timeout(5);\n"],
  ["one file per outside thing", "src/turn/queue.ts", "export const x = () => crypto.getRandomValues(y);\n"],
  ["one file per outside thing", "src/turn/queue.ts", 'export const x = () => fetch("x");\n'],
  ["one file per outside thing", "src/reboot/daemon.ts", "export const x = () => Bun.serve({});\n"],
  ["one file per outside thing", "src/reboot/daemon.ts", "export const x = () => process.env.HOME;\n"],
  ["one file per outside thing", "src/turn/queue.ts", imports("bun:sqlite")],
  ["no state and no work in a module", "src/turn/queue.ts", "let count = 0;\nexport const x = () => count++;\n"],
  ["no state and no work in a module", "src/turn/queue.ts", "export let count = 0;\n"],
  ["no state and no work in a module", "src/turn/queue.ts", "export const x = 1;\n\nstart();\n"],
  ["no state and no work in a module", "src/turn/queue.ts", "await Promise.resolve();\n"],
  ["no barrels", "src/turn/queue.ts", 'export { x } from "./fence.ts";\n'],
  ["no barrels", "src/turn/index.ts", "export const x = 1;\n"],
  ["import specifiers end in .ts", "src/turn/queue.ts", imports("./fence")],
  ["no import cycles", "src/turn/queue.ts", imports("./fence.ts"), { "src/turn/fence.ts": imports("./queue.ts") }],
  ["no drawers", "src/turn/utils.ts", "export const x = 1;\n"],
  ["no drawers", "test/helpers/x.ts", "export const x = 1;\n"],
  ["sizes", "src/turn/queue.ts", "export const x = 1;\n".repeat(400)],
  ["sizes", "src/turn/queue.ts", `/** x */\nexport function x(): { a: number } {\n${"  y();\n".repeat(70)}}\n`],
  ["sizes", "src/turn/queue.ts", `class X {\n  async x(a: number) {\n${"    y();\n".repeat(70)}  }\n}\n`],
  ["sizes", "src/turn/queue.ts", `const x = (a: number) => {\n${"  y();\n".repeat(70)}};\n`],
  ["comments", "scripts/x.ts", "#!/usr/bin/env bun\nexport const x = 1;\n"],
  ["comments", "src/turn/queue.ts", "\nexport function x() {\n  return 1;\n}\n"],
  ["no leftovers", "src/turn/queue.ts", `// ${"TO" + "DO"}: later\nexport const x = 1;\n`],
  ["no default exports", "src/turn/queue.ts", "export default 1;\n"],
  ["no mock.module", "test/e2e/x.test.ts", 'mock.module("x", () => ({}));\n'],
  ["no skipped tests", "src/x.test.ts", `test.${sk}("x", () => undefined);\n`],
  ["no skipped tests", "src/x.test.ts", `describe.each([1]).${sk}("x", () => undefined);\n`.replace("([1])", "")],
];

describe("planted faults", () => {
  for (const [rule, path, text, others] of planted)
    test(`${rule}, in ${path}: ${text.trim().split("\n", 1)[0]?.slice(0, 60)}`, () => {
      expect(objections(path, text, others)).toContain(rule);
    });

  test("every rule has a planted fault", () => {
    const found = new Set(planted.map(([rule]) => rule));
    expect(RULES.map((rule) => rule.name).filter((name) => !found.has(name))).toEqual([]);
  });
});

const allowed: readonly (readonly [path: string, text: string, others?: Record<string, string>])[] = [
  ["src/reboot/daemon.ts", imports("../turn/queue.ts")],
  ["src/commands/serve.ts", imports("../store/gateway.ts")],
  ["src/kernel/exec.ts", '/** x */\nexport function x() {\n  return Bun.spawn(["true"]);\n}\n'],
  ["src/kernel/clock.ts", "export const x = () => Date.now();\n"],
  ["src/turn/queue.ts", "// Date.now() is for the clock, let it be.\nexport const x = 'Math.random()';\n"],
  ["src/turn/queue.ts", "export const x = (ms: number) => new Date(ms).toISOString();\n"],
  ["src/turn/queue.ts", `export const x = /fetch(\`|"|')/;\nexport const y = \`let $${"{x}"} process.exit\`;\n`],
  ["src/reboot/machine.ts", 'import type { Clock } from "../kernel/clock.ts";\nexport const x = (c: Clock) => c;\n'],
  ["src/commands/version.ts", "export const x = () => process.platform;\n"],
  [
    "src/turn/queue.ts",
    'import { type A, type B } from "./fence.ts";\n',
    { "src/turn/fence.ts": imports("./queue.ts") },
  ],
  ["src/turn/queue.ts", `export const x = {\n${"  y: 1,\n".repeat(80)}};\n`],
  ["test/sim/run.ts", "export const x = () => Date.now();\n"],
];

describe("what is allowed", () => {
  for (const [path, text, others] of allowed)
    test(`in ${path}: ${text.trim().split("\n", 1)[0]?.slice(0, 60)}`, () => {
      expect(objections(path, text, others)).toEqual([]);
    });

  test("functions are told from other braces", () => {
    const text = [
      "// A file.",
      "export interface X {",
      "  readonly a: number;",
      "}",
      "const table = { a: 1 };",
      "function f<T>(a: { b: T }): Promise<T> {",
      "  if (a) {",
      "    return g(() => {",
      "      h();",
      "    });",
      "  }",
      "}",
    ].join("\n");
    const found = [...functionsIn(readSource("src/x.ts", text))];
    expect(found).toEqual([
      { line: 8, lines: 3 },
      { line: 6, lines: 7 },
    ]);
  });
});
