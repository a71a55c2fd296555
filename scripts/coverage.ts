/** Which lines the suites run, added up by room: `bun scripts/coverage.ts`. */
import { existsSync } from "node:fs";
import { ensure, NEEDS } from "./debian.ts";
import { Refusal, root, run, script } from "./steps.ts";

interface Lines {
  readonly found: number;
  readonly hit: number;
}

/** Lines found and lines run for each source file of an lcov report. */
export function readLcov(text: string): Map<string, Lines> {
  const files = new Map<string, Lines>();
  for (const record of text.split("end_of_record")) {
    const field = (name: string) => new RegExp(`^${name}:(.*)$`, "m").exec(record)?.[1];
    const path = field("SF");
    if (path !== undefined) files.set(path, { found: Number(field("LF") ?? 0), hit: Number(field("LH") ?? 0) });
  }
  return files;
}

/** The same by room: the folder below src/, or the file that stands there by itself. */
export function byRoom(files: ReadonlyMap<string, Lines>): Map<string, Lines> {
  const rooms = new Map<string, Lines>();
  for (const [path, lines] of files) {
    const room = /(?:^|\/)src\/([^/]+)/.exec(path)?.[1];
    if (room === undefined) continue;
    const sum = rooms.get(room) ?? { found: 0, hit: 0 };
    rooms.set(room, { found: sum.found + lines.found, hit: sum.hit + lines.hit });
  }
  return rooms;
}

async function main(): Promise<number> {
  await ensure(NEEDS.test);
  const folders = ["src", "test/contract", "test/sim"].filter((folder) => existsSync(`${root}/${folder}`));
  const code = await run([
    process.execPath,
    "test",
    "--timeout",
    "600000",
    "--coverage",
    "--coverage-reporter=lcov",
    "--coverage-dir=coverage",
    "--only-failures",
    ...folders.map((folder) => `./${folder}`),
  ]);
  const report = Bun.file(`${root}/coverage/lcov.info`);
  if (!(await report.exists())) throw new Refusal("bun test wrote no coverage report");
  const show = (name: string, { found, hit }: Lines) =>
    console.log(
      `${name.padEnd(28)}${`${hit}/${found}`.padStart(12)}${`${((100 * hit) / Math.max(1, found)).toFixed(1)} %`.padStart(10)}`,
    );
  const files = readLcov(await report.text());
  const rooms = [...byRoom(files)].sort(([a], [b]) => a.localeCompare(b));
  console.log(`\n${"room".padEnd(28)}${"lines".padStart(12)}${"covered".padStart(10)}`);
  for (const [name, lines] of rooms) show(name, lines);
  console.log("\nleast covered files");
  const share = ([, { found, hit }]: [string, Lines]) => hit / Math.max(1, found);
  for (const [path, lines] of [...files].sort((a, b) => share(a) - share(b)).slice(0, 8))
    show(path.replace(/^.*src\//, ""), lines);
  return code;
}

if (import.meta.main) await script(main);
