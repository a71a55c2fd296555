/** What a daemon with nothing to do costs its host: the built executable on a real etcd, with the default pace and with a fast one. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { root } from "../scripts/steps.ts";
import { type EtcdCluster, startEtcd } from "../test/world/etcd.ts";
import type { Measurement, Options } from "./parts/figures.ts";
import { cpuOf, type Memory, memoryOf } from "./parts/process.ts";

/** From the start to the first sample: the first pass and what it leaves behind are over. */
const WARM_UP_MS = 8_000;

interface Sample extends Memory {
  /** % of one core. */
  readonly cpu: number;
  /** The same for the scripts that it runs. */
  readonly scripts: number;
  readonly callsPerMinute: number;
}

interface Pace {
  readonly label: string;
  readonly settings: Readonly<Record<string, unknown>>;
}

const PACES: readonly Pace[] = [
  { label: "defaults (a pass every 60 s)", settings: {} },
  { label: "fast (a pass every second)", settings: { check_interval_sec: 1, health_publish_interval_sec: 1 } },
];

/** Memory and CPU of an idle daemon. */
export async function measure(options: Options): Promise<Measurement> {
  const folder = mkdtempSync(join(tmpdir(), "rota-bench-"));
  const rows: { label: string; figures: number[] }[] = [];
  const samples: Sample[] = [];
  const etcd = await startEtcd();
  try {
    for (const pace of PACES) {
      options.say(`idle: ${options.seconds} s with ${pace.label}`);
      const sample = await watch(etcd, folder, pace, options.seconds);
      samples.push(sample);
      const { rss, pss, privateDirty, privateClean, anonymous, cpu, scripts, callsPerMinute } = sample;
      rows.push({
        label: pace.label,
        figures: [rss, pss, privateDirty, anonymous, privateClean, cpu, scripts, callsPerMinute],
      });
    }
  } finally {
    await etcd.stop();
    rmSync(folder, { recursive: true, force: true });
  }
  const [idle] = samples as [Sample];
  return {
    name: "idle",
    title: `An idle daemon on etcd, watched for ${options.seconds} s (MB, % of one core)`,
    columns: ["RSS", "PSS", "private dirty", "anonymous", "private clean", "CPU %", "scripts' CPU %", "calls/min"],
    rows,
    aims: [
      { what: "RSS", value: idle.rss, unit: "MB", most: 50 },
      { what: "private (dirty)", value: idle.privateDirty, unit: "MB", most: 12 },
      { what: "CPU", value: idle.cpu, unit: "% of a core", most: 0.2 },
    ],
    notes: [
      "Private dirty is what the daemon has written and nobody else can use: what it really takes from the host.",
      "Private clean are pages of the executable's file. They count as private only because one process runs it, and the kernel drops them when it needs room.",
      "The executable is read anew for each daemon, as after a boot; right after a build or a copy RSS is 5 MB more, all of it clean.",
      "/proc counts CPU in ticks of 10 ms: one tick in 60 s is 0.017 %.",
    ],
  };
}

async function watch(etcd: EtcdCluster, folder: string, pace: Pace, seconds: number): Promise<Sample> {
  const [endpoint = ""] = etcd.endpoints;
  const state = mkdtempSync(join(folder, "node-"));
  const config = join(state, "config.yaml");
  writeFileSync(join(state, "machine-id"), new Bun.CryptoHasher("md5").update(state).digest("hex"));
  const settings = {
    node_name: `bench-${pace.label.split(" ", 1)[0]}`,
    reboot_required_detectors: [{ type: "file", path: join(state, "reboot-required") }],
    health_script: "/bin/true",
    etcd_endpoints: [endpoint],
    state_dir: state,
    machine_id_file: join(state, "machine-id"),
    kill_switch_file: join(state, "disable"),
    ...pace.settings,
  };
  // JSON is YAML too.
  writeFileSync(config, JSON.stringify(settings));
  const argv = [`${root}/dist/rota-linux-${process.arch}`, "reboot", "run", "--config", config, "--log-format", "json"];
  const log = Bun.file(join(state, "log"));
  forgetFile(argv[0] ?? "");
  const child = Bun.spawn(argv, {
    stdin: "ignore",
    stdout: "ignore",
    stderr: log,
    env: { PATH: process.env.PATH ?? "" },
  });
  try {
    await Bun.sleep(WARM_UP_MS);
    const [before, callsBefore] = [cpuOf(child.pid), await calls(endpoint)];
    const began = performance.now();
    await Bun.sleep(seconds * 1000);
    const spent = (performance.now() - began) / 1000;
    const [after, callsAfter] = [cpuOf(child.pid), await calls(endpoint)];
    if (child.exitCode !== null) throw new Error(`the daemon ended: ${await log.text()}`);
    return {
      ...memoryOf(child.pid),
      cpu: (100 * (after.own - before.own)) / spent,
      scripts: (100 * (after.children - before.children)) / spent,
      callsPerMinute: Math.round((60 * (callsAfter - callsBefore)) / spent),
    };
  } finally {
    child.kill("SIGTERM");
    await child.exited;
  }
}

/**
 * Drops what the kernel keeps in memory of a file. A daemon starts at boot and takes in only the pages that it touches; beside the whole
 * file, freshly built or just read, the kernel maps more around each of them (5 to 8 MB of RSS).
 */
function forgetFile(path: string): void {
  const { exitCode, stderr } = Bun.spawnSync(["dd", `if=${path}`, "iflag=nocache", "count=0"], { stderr: "pipe" });
  if (exitCode !== 0) throw new Error(`dd: ${stderr}`);
}

/** How many calls this etcd has been sent, streams counted once. */
async function calls(endpoint: string): Promise<number> {
  const text = await (await fetch(`${endpoint}/metrics`)).text();
  const counts = [...text.matchAll(/^grpc_server_started_total\{[^}]*\} (\S+)$/gm)].map((match) => Number(match[1]));
  return counts.reduce((sum, count) => sum + count, 0);
}
