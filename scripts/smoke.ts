/** The built executable, tried as somebody would who has just copied it to a machine: `bun scripts/smoke.ts`. */
import { copyFileSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { type Count, countLine, root, script } from "./steps.ts";

interface Ended {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** What each try does and what it must show. */
const TRIES: Readonly<Record<string, (folder: string) => string | undefined>> = {
  "answers to its four names": (folder) => {
    for (const name of ["rota", "reboot-coordinator", "lab", "clusterctl"]) {
      const ended = start(folder, [name, "version"]);
      if (ended.code !== 0 || !ended.stdout.startsWith(`${name} `)) return told(name, ended);
    }
    return undefined;
  },
  "is called through PATH too": (folder) => {
    const ended = start(folder, ["sh", "-c", "reboot-coordinator version"], { PATH: `${folder}:${process.env.PATH}` });
    return ended.stdout.startsWith("reboot-coordinator ") ? undefined : told("reboot-coordinator", ended);
  },
  "tells its version as JSON": (folder) => {
    const { version, commit } = JSON.parse(start(folder, ["rota", "version", "--json"]).stdout);
    return /^\d+\.\d+/.test(version) && commit !== "" ? undefined : `version ${version}, commit ${commit}`;
  },
  "refuses what it does not know with 64": (folder) => {
    const ended = start(folder, ["rota", "versoin"]);
    return ended.code === 64 && ended.stderr.includes('did you mean "rota version"?') ? undefined : told("rota", ended);
  },
  "takes nothing from the folder it stands in": (folder) => {
    writeFileSync(`${folder}/.env`, "FORCE_COLOR=1\n");
    writeFileSync(`${folder}/bunfig.toml`, 'preload = ["./evil.ts"]\n');
    writeFileSync(`${folder}/evil.ts`, 'console.log("evil");\n');
    const ended = start(folder, ["rota", "help"]);
    return ended.code === 0 && !ended.stdout.includes("evil") && !ended.stdout.includes("\u001b")
      ? undefined
      : told("rota", ended);
  },
  "finds the example config valid, and says what is not there": (folder) => {
    // The example names a health script that a machine which has just got the package does not have yet.
    const example = readFileSync(`${root}/examples/config.yaml`, "utf8");
    const config = `${folder}/config.yaml`;
    // Nor does every container have a machine id.
    writeFileSync(`${folder}/machine-id`, "0123456789abcdef0123456789abcdef\n");
    const mine = `\nmachine_id_file: ${folder}/machine-id\n`;
    writeFileSync(config, example.replaceAll("/etc/reboot-coordinator/", `${folder}/`) + mine);
    const check = () => start(folder, ["reboot-coordinator", "validate-config", "--config", config]);
    const without = check();
    if (without.code !== 2 || !without.stderr.includes("health_script")) return told("reboot-coordinator", without);
    writeFileSync(`${folder}/health.sh`, "#!/bin/sh\n", { mode: 0o755 });
    const ended = check();
    return ended.code === 0 ? undefined : told("reboot-coordinator", ended);
  },
};

function start(
  folder: string,
  argv: readonly [string, ...string[]],
  env: Readonly<Record<string, string>> = {},
): Ended {
  const [program, ...rest] = argv;
  const path = program === "sh" ? "/bin/sh" : `${folder}/${program}`;
  const ended = Bun.spawnSync([path, ...rest], { cwd: folder, env: { PATH: "/usr/bin:/bin", ...env } });
  return { code: ended.exitCode, stdout: ended.stdout.toString(), stderr: ended.stderr.toString() };
}

function told(name: string, { code, stdout, stderr }: Ended): string {
  return `${name} ended with ${code}: ${(stdout + stderr).trim().slice(0, 500)}`;
}

async function main(): Promise<number> {
  const folder = mkdtempSync(`${tmpdir()}/rota-smoke-`);
  const count: { -readonly [K in keyof Count]: Count[K] } = { passed: 0, failed: 0 };
  try {
    copyFileSync(`${root}/dist/rota-linux-${process.arch}`, `${folder}/executable`);
    for (const name of ["rota", "reboot-coordinator", "lab", "clusterctl"])
      symlinkSync("executable", `${folder}/${name}`);
    for (const [name, attempt] of Object.entries(TRIES)) {
      const fault = attempt(folder);
      count[fault === undefined ? "passed" : "failed"]++;
      console.log(`${fault === undefined ? "good" : "BAD "}  ${name}${fault === undefined ? "" : `\n      ${fault}`}`);
    }
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
  console.log(`\n${countLine(count)}`);
  return count.failed === 0 ? 0 : 1;
}

if (import.meta.main) await script(main);
