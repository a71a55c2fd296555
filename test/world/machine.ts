/**
 * A machine of a test fleet: a directory that holds its identity, its boot, its scripts and its state, and the built executable as its
 * daemon. Its reboot command ends everything that runs on it; after a while it comes up in another boot and starts its daemon again.
 */
import { closeSync, existsSync, mkdirSync, openSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { processesWithEnv } from "../../src/kernel/exec.ts";
import { PATIENCE_MS, until } from "./wait.ts";

/** In the environment of everything that runs on a machine. */
const MACHINE_VARIABLE = "ROTA_TEST_MACHINE";
/** How often the world looks whether a machine is on its way down, ms. */
const LOOK_MS = 15;

export interface MachineSpec {
  readonly name: string;
  readonly executable: string;
  /** What the machine's daemon is told. */
  readonly endpoints: readonly string[];
  /** Where its scripts reach the store, past any proxy. */
  readonly direct: readonly string[];
  readonly namespace: string;
  readonly lockKey: string;
  /** Overrides or adds top-level keys of the configuration, as YAML. */
  readonly config?: Readonly<Record<string, string | number | boolean>>;
  /** From the end of everything to the start of the daemon in the next boot. */
  readonly bootMs?: number;
  /** How many reboots it wants. */
  readonly wants?: number;
  /** Lines of shell in the health script, after its start was noted and before its verdict; may `exit`. */
  readonly health?: string;
  /** Lines of shell in the reboot command, before it takes the machine down. */
  readonly reboot?: string;
}

/** What scripts of a machine, and the world, have noted. */
export interface Note {
  /** ms since 1970, as the machine's own script read the clock. */
  readonly at: number;
  /** "command", "health-start", "health-end", "down", "off", "on", "daemon". */
  readonly what: string;
  /** Of the machine, when it was noted. */
  readonly boot: string;
  /** Of "command": the turn. Of health: the phase. */
  readonly subject: string;
  /** Of "health-end": the exit code; of "daemon": the pid. */
  readonly value: string;
}

/** One line of the daemon's JSON log. */
export interface LogLine {
  readonly ts: string;
  readonly level: string;
  readonly event: string;
  readonly message?: string;
  readonly fields: Readonly<Record<string, unknown>>;
}

/** How a command ended. */
export interface Ended {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

export class Machine {
  readonly spec: MachineSpec;
  readonly dir: string;
  /** While true, it does not come up again after going down. */
  staysDown = false;
  #left: number;
  #boots = 0;
  #process: Bun.Subprocess | undefined;
  #closed = false;
  readonly #attending: Promise<void>;
  #broken: unknown;

  constructor(dir: string, spec: MachineSpec) {
    this.spec = spec;
    this.dir = dir;
    this.#left = spec.wants ?? 1;
    mkdirSync(join(dir, "seen"), { recursive: true });
    writeFileSync(join(dir, "machine-id"), `${crypto.randomUUID().replaceAll("-", "")}\n`);
    this.#newBoot();
    if (this.#left > 0) this.want();
    writeFileSync(join(dir, "health.sh"), this.#healthScript(), { mode: 0o755 });
    writeFileSync(join(dir, "reboot.sh"), this.#rebootScript(), { mode: 0o755 });
    writeFileSync(this.configFile, this.#config());
    this.#attending = this.#attend().catch((error: unknown) => {
      this.#broken = error;
    });
  }

  get name(): string {
    return this.spec.name;
  }

  get configFile(): string {
    return join(this.dir, "config.yaml");
  }

  /** Keys of the line of this machine's group begin with it. */
  get line(): string {
    return `${this.spec.namespace}${this.spec.lockKey}/`;
  }

  get pid(): number | undefined {
    return this.#process?.exitCode === null && this.#process.signalCode === null ? this.#process.pid : undefined;
  }

  get bootId(): string {
    return readFileSync(join(this.dir, "boot-id"), "utf8").trim();
  }

  /** Starts the daemon. */
  start(): void {
    if (this.pid !== undefined) throw new Error(`the daemon of ${this.name} runs already`);
    const log = openSync(join(this.dir, "daemon.log"), "a");
    const argv = [this.spec.executable, "reboot", "run", "--config", this.configFile, "--log-level", "debug"];
    this.#process = Bun.spawn([...argv, "--log-format", "json"], {
      cwd: this.dir,
      env: this.#env(),
      stdin: "ignore",
      stdout: log,
      stderr: log,
    });
    closeSync(log);
    this.#note("daemon", "", String(this.#process.pid));
  }

  /** SIGKILL to the daemon alone: what it has started goes on. */
  async killDaemon(): Promise<void> {
    this.#process?.kill("SIGKILL");
    await this.#process?.exited;
  }

  /** A signal to the daemon; resolves to its exit code. */
  async stopDaemon(signal: NodeJS.Signals = "SIGTERM"): Promise<number> {
    const process = this.#process;
    if (process === undefined) throw new Error(`${this.name} has no daemon`);
    process.kill(signal);
    return await until(`the daemon of ${this.name} to end`, () => ended(process), PATIENCE_MS);
  }

  /** Runs a command of the executable on this machine, with its configuration. */
  async run(...words: readonly string[]): Promise<Ended> {
    const argv = [this.spec.executable, "reboot", ...words, "--config", this.configFile];
    const run = Bun.spawn(argv, { cwd: this.dir, env: this.#env(), stdin: "ignore", stdout: "pipe", stderr: "pipe" });
    const [stdout, stderr, code] = await Promise.all([
      new Response(run.stdout).text(),
      new Response(run.stderr).text(),
      run.exited,
    ]);
    return { code, stdout, stderr };
  }

  /** A power cut: nothing runs any more. */
  async cut(): Promise<void> {
    await this.killDaemon();
    await until(
      `everything on ${this.name} to end`,
      () => {
        const left = processesWithEnv(MACHINE_VARIABLE, this.dir);
        for (const { pid } of left) kill(pid);
        return left.length === 0;
      },
      PATIENCE_MS,
    );
    rmSync(join(this.dir, "down"), { force: true });
    this.#note("off");
  }

  /** Comes up in another boot. */
  boot(): void {
    if (this.#closed) return;
    this.#left--;
    if (this.#left <= 0) this.satisfy();
    this.#newBoot();
    this.#note("on");
    this.start();
  }

  /** The machine needs (another) reboot. */
  want(): void {
    this.#left = Math.max(1, this.#left);
    writeFileSync(join(this.dir, "reboot-required"), "");
  }

  /** The machine needs no reboot any more. */
  satisfy(): void {
    rmSync(join(this.dir, "reboot-required"), { force: true });
  }

  /** Puts a file in the machine's directory or takes it away: "disable" is the kill switch, "sick" fails health, "hold-PHASE" holds it. */
  flag(name: string, there: boolean): void {
    if (there) writeFileSync(join(this.dir, name), "");
    else rmSync(join(this.dir, name), { force: true });
  }

  /** What has happened on it, oldest first. */
  notes(what?: string): Note[] {
    const text = read(join(this.dir, "notes"));
    const notes = text.split("\n").flatMap((line) => {
      const [at, kind = "", boot = "", subject = "", value = ""] = line.split(" ");
      return at ? [{ at: Number(at) / 1000, what: kind, boot, subject, value }] : [];
    });
    return what === undefined ? notes : notes.filter((note) => note.what === what);
  }

  /** Its daemon's log, of all boots. */
  log(event?: string): LogLine[] {
    const lines = read(join(this.dir, "daemon.log"))
      .split("\n")
      .flatMap((line) => (line.startsWith("{") && line.endsWith("}") ? [JSON.parse(line) as LogLine] : []));
    return event === undefined ? lines : lines.filter((line) => line.event === event);
  }

  /** How often its daemon has come to this outcome anew. */
  outcomes(status: string): number {
    const said = new RegExp(`"event":"run_outcome".*"status":"${status}"`);
    return read(join(this.dir, "daemon.log"))
      .split("\n")
      .filter((line) => said.test(line)).length;
  }

  /** Waits until its daemon has come to this outcome anew `times` times. */
  async comesTo(status: string, times = 1, ms = PATIENCE_MS): Promise<void> {
    await until(`${this.name} to come to "${status}" (${times})`, () => this.outcomes(status) >= times, ms);
  }

  /** Waits until its health script was started in this phase. */
  async asked(phase: string): Promise<void> {
    const started = () => this.notes("health-start").some((note) => note.subject === phase);
    await until(`${this.name} to be asked in phase ${phase}`, started, PATIENCE_MS);
  }

  /** Waits until something was noted on it `times` times. */
  async noted(what: string, times = 1, ms = PATIENCE_MS): Promise<Note> {
    const wanted = () => this.notes(what)[times - 1];
    return await until(`${this.name} to note "${what}" (${times})`, wanted, ms);
  }

  /** What the store held in the line when this turn's command started; undefined when the store did not answer it. */
  lineAtCommand(turnId: string): { kvs?: { key: string; value: string; lease?: number }[] } | undefined {
    const text = read(join(this.dir, "seen", turnId));
    return text.trim() === "" ? undefined : JSON.parse(text);
  }

  /** Ends everything that runs on it, for good. */
  async close(): Promise<void> {
    this.#closed = true;
    await this.#attending;
    await this.cut();
    if (this.#broken !== undefined) throw this.#broken;
  }

  async #attend(): Promise<void> {
    while (!this.#closed) {
      await Bun.sleep(LOOK_MS);
      if (!existsSync(join(this.dir, "down"))) continue;
      await this.cut();
      if (this.staysDown) continue;
      const end = Date.now() + (this.spec.bootMs ?? 300);
      while (Date.now() < end && !this.#closed) await Bun.sleep(Math.min(100, Math.max(1, end - Date.now())));
      this.boot();
    }
  }

  #newBoot(): void {
    writeFileSync(join(this.dir, "boot-id"), `boot-${++this.#boots}-${crypto.randomUUID().slice(0, 8)}\n`);
  }

  #note(what: string, subject = "", value = ""): void {
    const line = `${Date.now() * 1000} ${what} ${this.bootId} ${subject} ${value}\n`;
    writeFileSync(join(this.dir, "notes"), line, { flag: "a" });
  }

  #env(): Record<string, string> {
    return { PATH: Bun.env.PATH ?? "", LC_ALL: "C", [MACHINE_VARIABLE]: this.dir };
  }

  #healthScript(): string {
    return `#!/bin/bash
dir='${this.dir}'
boot=$(<"$dir/boot-id")
note() { echo "\${EPOCHREALTIME/./} $1 $boot $RC_PHASE $2" >> "$dir/notes"; }
note health-start
while [ -e "$dir/hold-$RC_PHASE" ]; do sleep 0.02; done
check() (
:
${this.spec.health ?? ""}
[ ! -e "$dir/sick" ]
)
check
code=$?
note health-end $code
exit $code
`;
  }

  #rebootScript(): string {
    const endpoints = this.spec.direct.join(",");
    return `#!/bin/bash
dir='${this.dir}'
echo "\${EPOCHREALTIME/./} command $(<"$dir/boot-id") $ROTA_TURN_ID" >> "$dir/notes"
ETCDCTL_API=3 etcdctl --endpoints='${endpoints}' --command-timeout=3s get --prefix '${this.line}' -w json \\
  > "$dir/seen/$ROTA_TURN_ID" 2> "$dir/seen/error"
${this.spec.reboot ?? ""}
echo "\${EPOCHREALTIME/./} down $(<"$dir/boot-id") $ROTA_TURN_ID" >> "$dir/notes"
: > "$dir/down"
sleep 1000
`;
  }

  #config(): string {
    const { name, endpoints, namespace, lockKey, config } = this.spec;
    const values = {
      node_name: name,
      machine_id_file: join(this.dir, "machine-id"),
      boot_id_file: join(this.dir, "boot-id"),
      state_dir: join(this.dir, "state"),
      reboot_required_detectors: JSON.stringify([{ type: "file", path: join(this.dir, "reboot-required") }]),
      health_script: join(this.dir, "health.sh"),
      kill_switch_file: join(this.dir, "disable"),
      reboot_command: JSON.stringify([join(this.dir, "reboot.sh")]),
      etcd_endpoints: JSON.stringify(endpoints),
      etcd_namespace: namespace,
      lock_key: lockKey,
      check_interval_sec: 1,
      backoff_min_sec: 1,
      backoff_max_sec: 3,
      lock_ttl_sec: 6,
      health_timeout_sec: 5,
      reboot_grace_sec: 60,
      ...config,
    };
    return Object.entries(values)
      .map(([key, value]) => `${key}: ${value}\n`)
      .join("");
  }
}

/** undefined while it runs; a process ended by a signal has the code that a shell would give it. */
function ended(process: Bun.Subprocess): number | undefined {
  if (process.signalCode !== null) return 128;
  return process.exitCode ?? undefined;
}

function kill(pid: number): void {
  try {
    process.kill(pid, "SIGKILL");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error; // ended by itself meanwhile
  }
}

function read(file: string): string {
  return existsSync(file) ? readFileSync(file, "utf8") : "";
}
