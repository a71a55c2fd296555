/** Builds the executable into dist/: `bun scripts/build.ts [x64] [arm64] [--host]`, all of them without arguments. */
import { mkdirSync, rmSync, statSync, symlinkSync } from "node:fs";
import { capture, Refusal, root, run, script, seconds } from "./steps.ts";

/** What npm calls the runtime of each architecture that we build for. */
const RUNTIMES = { x64: "@oven/bun-linux-x64", arm64: "@oven/bun-linux-aarch64" } as const;
type Arch = keyof typeof RUNTIMES;

const OTHER_NAMES = ["rota", "reboot-coordinator", "lab", "clusterctl"];

async function main(): Promise<number> {
  const asked = process.argv.slice(2).map((word) => (word === "--host" ? process.arch : word));
  const unknown = asked.find((word) => !(word in RUNTIMES));
  if (unknown !== undefined)
    throw new Refusal(`no build for "${unknown}"; there are ${Object.keys(RUNTIMES).join(", ")}`);
  const archs = (asked.length > 0 ? asked : Object.keys(RUNTIMES)) as Arch[];
  const { version, commit } = await describe();
  mkdirSync(`${root}/dist`, { recursive: true });
  for (const arch of archs) {
    const start = performance.now();
    const outfile = `dist/rota-linux-${arch}`;
    await compile(arch, outfile, version, commit);
    const size = (statSync(`${root}/${outfile}`).size / 2 ** 20).toFixed(1);
    console.log(
      `${outfile}: ${version}${commit && ` (${commit})`}, ${size} MiB, ${seconds(performance.now() - start)}`,
    );
  }
  if (process.platform === "linux" && archs.includes(process.arch as Arch)) linkNames(`rota-linux-${process.arch}`);
  return 0;
}

async function compile(arch: Arch, outfile: string, version: string, commit: string): Promise<void> {
  const native = process.platform === "linux" && process.arch === arch;
  const code = await run([
    process.execPath,
    "build",
    "--compile",
    `--target=bun-linux-${arch}`,
    `--compile-executable-path=${native ? process.execPath : await runtime(arch)}`,
    // Bytecode saves the parsing at every start, chunks keep what a command does not use out of its memory.
    "--bytecode",
    "--format=esm",
    "--splitting",
    "--minify",
    // What a daemon does once a minute is not worth compiling: 6 MB less of RSS, and less time on a core. `rota serve` takes it back.
    "--compile-jit-policy=1000",
    // Names of classes and functions stand in logs and stack traces.
    "--keep-names",
    // A daemon of root takes its settings from its config file and from nothing that lies in the folder it was started in.
    "--no-compile-autoload-dotenv",
    "--no-compile-autoload-bunfig",
    "--no-compile-autoload-tsconfig",
    "--no-compile-autoload-package-json",
    "--define",
    `ROTA_VERSION=${JSON.stringify(version)}`,
    "--define",
    `ROTA_COMMIT=${JSON.stringify(commit)}`,
    "src/main.ts",
    "--outfile",
    outfile,
  ]);
  if (code !== 0) throw new Refusal(`bun build ended with exit code ${code}`);
}

/** VERSION, or package.json's; with the commit where there is one, "-dirty" when the tree differs from it. */
async function describe(): Promise<{ version: string; commit: string }> {
  const { version } = (await Bun.file(`${root}/package.json`).json()) as { version: string };
  const git = await capture(["git", "describe", "--always", "--dirty", "--exclude=*", "--abbrev=9"]).catch(
    () => undefined,
  );
  const commit = git?.code === 0 ? git.stdout.trim() : "";
  return { version: process.env.VERSION || version, commit };
}

/** The runtime of another architecture, by npm and checked against the lock file; kept in .cache/. */
async function runtime(arch: Arch): Promise<string> {
  const name = RUNTIMES[arch];
  const version = Bun.version;
  const folder = `.cache/${name.replace("/", "-").slice(1)}-${version}`;
  const path = `${root}/${folder}/package/bin/bun`;
  if (await Bun.file(path).exists()) return path;
  const refuse = (why: string): never => {
    throw new Refusal(
      `The runtime for ${arch} (${name} ${version}) is missing and could not be had through npm: ${why}`,
    );
  };
  const lock = (await Bun.file(`${root}/package-lock.json`).json()) as {
    packages: Record<string, { version: string; integrity: string } | undefined>;
  };
  const locked = lock.packages[`node_modules/${name}`];
  if (locked?.version !== version) return refuse(`package-lock.json has ${locked?.version ?? "none"}`);
  console.log(`Fetching the runtime for ${arch} with npm`);
  mkdirSync(`${root}/${folder}`, { recursive: true });
  const npm = process.platform === "win32" ? "npm.cmd" : "npm";
  const pack = await capture([npm, "pack", `${name}@${version}`, "--json", "--pack-destination", folder]);
  if (pack.code !== 0) return refuse(pack.stderr.trim().split("\n").slice(0, 3).join(" "));
  const archive = `${root}/${folder}/${packedName(pack.stdout)}`;
  const digest = new Bun.CryptoHasher("sha512").update(await Bun.file(archive).arrayBuffer()).digest("base64");
  if (`sha512-${digest}` !== locked.integrity) {
    rmSync(archive);
    return refuse("what came does not have the checksum of package-lock.json");
  }
  const tar = await capture(["tar", "-xzf", archive, "-C", folder]);
  rmSync(archive);
  return tar.code === 0 ? path : refuse(tar.stderr.trim());
}

/** The file name in npm's answer: a list up to npm 11, an object keyed by name after it. */
export function packedName(json: string): string {
  const answer: unknown = JSON.parse(json);
  const [first] = Object.values(answer as Record<string, { filename?: unknown }>);
  if (typeof first?.filename !== "string") throw new Refusal("npm pack did not say what it wrote");
  // npm 9 names a scoped package with its slash, but writes it with a dash.
  return first.filename.replace(/^@/, "").replace("/", "-");
}

/** The names the executable answers to, beside it, for trying them out. */
function linkNames(executable: string): void {
  for (const name of OTHER_NAMES) {
    rmSync(`${root}/dist/${name}`, { force: true });
    symlinkSync(executable, `${root}/dist/${name}`);
  }
}

if (import.meta.main) await script(main);
