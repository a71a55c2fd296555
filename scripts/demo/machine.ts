/** A pretended machine: a folder with its identity, its boot, its scripts and its state, a real daemon, and a power switch. */
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type Program, startProgram } from "./program.ts";
import { type LogLine, NAMESPACE } from "./story.ts";

/** How long a machine is without power, ms. */
const DOWN_MS = 1_800;
/** How often the power switch is looked at, ms. */
const LOOK_MS = 20;

export interface MachineOptions {
  readonly name: string;
  /** The demo's folder; the machine gets one in it. */
  readonly demo: string;
  readonly storeUrl: string;
  /** How long it is sick after its reboot, ms; 0: not at all. */
  readonly sickMs: number;
  /** Each line of the daemon's log. */
  readonly heard: (line: LogLine) => void;
  /** Off when nothing runs any more, on when the daemon is about to start. */
  readonly power: (on: boolean, at: number) => void;
  readonly mended: (at: number) => void;
  /** Something that must not happen. */
  readonly trouble: (what: string) => void;
}

export class Machine {
  readonly name: string;
  readonly logFile: string;
  readonly #dir: string;
  readonly #options: MachineOptions;
  #daemon: Program | undefined;

  constructor(options: MachineOptions) {
    this.name = options.name;
    this.#options = options;
    this.#dir = join(options.demo, options.name);
    this.logFile = join(this.#dir, "daemon.log");
    mkdirSync(this.#dir);
    this.#write("machine-id", crypto.randomUUID().replaceAll("-", ""));
    this.#write("reboot-required", "the kernel was updated");
    this.#write("health.sh", HEALTH, 0o755);
    this.#write("reboot.sh", REBOOT, 0o755);
    this.#write("config.yaml", this.#config());
  }

  /** Comes up: a new boot id, and the daemon. */
  boot(): void {
    const { demo, heard, trouble } = this.#options;
    this.#write("boot-id", crypto.randomUUID());
    const words = ["reboot", "run", "--config", join(this.#dir, "config.yaml"), "--log-level", "debug"];
    this.#daemon = startProgram({
      what: `the daemon of ${this.name}`,
      words,
      demo,
      logFile: this.logFile,
      heard,
      trouble,
    });
  }

  /** Plays firmware and init system until `signal` aborts: whenever the reboot command was run, down, and up again in another boot. */
  async attend(signal: AbortSignal): Promise<void> {
    const { power } = this.#options;
    while (!signal.aborted) {
      await Bun.sleep(LOOK_MS);
      if (!existsSync(join(this.#dir, "power-off"))) continue;
      await this.#daemon?.stop();
      power(false, Date.now());
      await Bun.sleep(DOWN_MS);
      if (signal.aborted) return;
      this.#remove("power-off", "reboot-required");
      this.#fallSick(signal);
      power(true, Date.now());
      this.boot();
    }
  }

  async stop(): Promise<void> {
    await this.#daemon?.stop();
  }

  kill(): void {
    this.#daemon?.kill();
  }

  /** Resolves when the daemon has ended. */
  get ended(): Promise<unknown> {
    return this.#daemon?.ended ?? Promise.resolve();
  }

  /** Its log, as it lies on disk. */
  log(): LogLine[] {
    const lines = readFileSync(this.logFile, "utf8").split("\n");
    return lines.filter((line) => line.startsWith("{")).map((line) => JSON.parse(line) as LogLine);
  }

  #fallSick(signal: AbortSignal): void {
    const { sickMs, mended } = this.#options;
    if (sickMs === 0) return;
    this.#write("sick", "");
    void Bun.sleep(sickMs).then(() => {
      if (signal.aborted) return;
      this.#remove("sick");
      mended(Date.now());
    });
  }

  #write(file: string, text: string, mode = 0o644): void {
    writeFileSync(join(this.#dir, file), `${text}\n`, { mode });
  }

  #remove(...files: readonly string[]): void {
    for (const file of files) rmSync(join(this.#dir, file));
  }

  /** YAML; JSON is a part of it. */
  #config(): string {
    const inside = (file: string) => join(this.#dir, file);
    const config = {
      node_name: this.name,
      machine_id_file: inside("machine-id"),
      boot_id_file: inside("boot-id"),
      state_dir: inside("state"),
      reboot_required_detectors: [{ type: "file", name: "marker", path: inside("reboot-required") }],
      health_script: inside("health.sh"),
      reboot_command: [inside("reboot.sh")],
      kill_switch_file: inside("disable"),
      etcd_endpoints: [this.#options.storeUrl],
      etcd_namespace: NAMESPACE,
      check_interval_sec: 1,
      health_timeout_sec: 10,
      lock_ttl_sec: 15,
      reboot_grace_sec: 60,
      backoff_min_sec: 1,
      backoff_max_sec: 2,
    };
    return JSON.stringify(config, null, 2);
  }
}

/** It takes a moment under the turn and after the reboot, as real ones do. */
const HEALTH = `#!/bin/sh
# Is this machine well? A file called "sick" says no.
case "$RC_PHASE" in
  post-lock) sleep 0.5 ;;
  post-reboot) sleep 0.8 ;;
esac
if [ -e "\${0%/*}/sick" ]; then
  echo "no web server" >&2
  exit 1
fi`;

const REBOOT = `#!/bin/sh
# In the place of "shutdown -r now": tells whoever plays the power switch.
echo "$ROTA_TURN_ID" > "\${0%/*}/power-off"`;
