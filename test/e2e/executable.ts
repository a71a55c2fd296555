/** The executable under test: the one that the test run has built, or dist/'s, built first if it is missing or older than the sources. */
import { statSync } from "node:fs";
import { join } from "node:path";
import { Glob } from "bun";

const root = join(import.meta.dir, "../..");

/** The path of an executable that is as new as the sources. */
export async function executable(): Promise<string> {
  const given = Bun.env["ROTA_EXECUTABLE"];
  if (given !== undefined && given !== "") return given;
  const path = join(root, "dist", `rota-linux-${process.arch}`);
  const built = changedAt(path);
  const sources = [...new Glob("src/**/*.ts").scanSync({ cwd: root }), "package-lock.json", "scripts/build.ts"];
  if (built !== undefined && sources.every((source) => (changedAt(join(root, source)) ?? 0) <= built)) return path;
  const build = Bun.spawn([process.execPath, "scripts/build.ts", "--host"], { cwd: root, stdout: "ignore" });
  if ((await build.exited) !== 0) throw new Error("the executable cannot be built; see above");
  return path;
}

function changedAt(path: string): number | undefined {
  return statSync(path, { throwIfNoEntry: false })?.mtimeMs;
}
