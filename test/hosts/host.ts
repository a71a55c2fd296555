/** One Linux machine with a systemd of its own that boots, reboots, powers off, and loses its power. */
import { closeSync, existsSync, mkdirSync, openSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { until } from "../world/wait.ts";
import type { Guard } from "./guard.ts";
import type { Lan } from "./lan.ts";
import { attempt, CLEAN_ENV, type Ended, run } from "./run.ts";

/** systemd-nspawn ends with it when the machine inside has rebooted. */
const REBOOTED = 133;
const BOOT_MS = 60_000;
const OUTER_BOOT_ID = "/proc/sys/kernel/random/boot_id";

/** One boot of a machine, seen from outside. Times are ms since 1970. */
export interface Boot {
  /** What the machine itself reads as its boot id. */
  readonly id: string;
  readonly startedAt: number;
  /** Its pid 1. */
  readonly init: number;
  readonly ended?: { readonly at: number; readonly how: "rebooted" | "off" | "cut" };
}

export interface HostSpec {
  readonly name: string;
  /** Last number of its address. */
  readonly number: number;
  /** File trees that it is made of, the uppermost first. None of them is written. */
  readonly layers: readonly string[];
  /** A folder for everything that is its own. */
  readonly dir: string;
  /** Unique on this machine; names control groups. */
  readonly machine: string;
}

export class Host {
  readonly name: string;
  readonly address: string;
  /** Its disk, seen from outside: /etc, /var and all that outlives a boot, whether or not it runs. */
  readonly disk: string;
  /** Every boot so far, the last one last. */
  readonly boots: Boot[] = [];
  /** From the end of one boot to the beginning of the next, when it reboots: firmware and boot loader. */
  rebootMs = 0;
  /** Called when a boot has ended by a reboot, and again when the next is about to begin. */
  whileDown: (() => Promise<void>) | undefined;
  readonly #guard: Guard;
  readonly #spec: HostSpec;
  readonly #namespace: string;
  readonly #groups: readonly string[];
  /** Resolves when it is off; rejects when what it is run by failed. */
  #life: Promise<void> = Promise.resolve();
  #on = false;
  #cut = false;

  private constructor(guard: Guard, spec: HostSpec, lan: Lan, namespace: string, groups: readonly string[]) {
    this.#guard = guard;
    this.#spec = spec;
    this.#namespace = namespace;
    this.#groups = groups;
    this.name = spec.name;
    this.address = lan.address(spec.number);
    this.disk = `${spec.dir}/disk`;
  }

  /** Makes the machine; it is off. */
  static async make(guard: Guard, lan: Lan, spec: HostSpec): Promise<Host> {
    const groups = hierarchies().map((hierarchy) => `${hierarchy}/${spec.machine}`);
    for (const path of groups) await guard.owes({ what: "group", path });
    await makeDisk(guard, spec);
    // Owed last, so undone first: what runs in the namespace holds disk and groups.
    const namespace = await lan.attach(spec.name, spec.number);
    const host = new Host(guard, spec, lan, namespace, groups);
    host.write("/etc/machine-id", `${crypto.randomUUID().replaceAll("-", "")}\n`);
    host.write("/etc/hostname", `${spec.name}\n`);
    host.write("/etc/hosts", `127.0.0.1 localhost\n${host.address} ${spec.name}\n`);
    return host;
  }

  get on(): boolean {
    return this.#on;
  }

  /** The boot that it is in, or that it was in last. */
  get boot(): Boot {
    const boot = this.boots.at(-1);
    if (boot === undefined) throw new Error(`${this.name} was never started`);
    return boot;
  }

  /** Switches it on; resolves when the kernel has handed over to its init. From then on it reboots by itself whenever it wants to. */
  async powerOn(): Promise<void> {
    if (this.#on) throw new Error(`${this.name} is on already`);
    this.#on = true;
    this.#cut = false;
    const before = this.boots.length;
    const life = this.#live();
    this.#life = life;
    life.catch(() => undefined); // told to whoever waits for it next
    await Promise.race([life, until(`${this.name} to boot`, () => this.boots.length > before, BOOT_MS)]);
  }

  /** Takes its power away: nothing in it is asked or told. (What it wrote to disk is there, also what it did not sync.) */
  async cutPower(): Promise<void> {
    if (!this.#on) return await this.#life;
    this.#cut = true;
    const { init, ended } = this.boot;
    if (ended === undefined) process.kill(init, "SIGKILL");
    await this.#life;
  }

  /** Runs a command inside, as root. Resolves to how it ended. */
  async attempt(argv: readonly string[], ms?: number): Promise<Ended> {
    return await attempt(["nsenter", "-t", String(this.boot.init), "-a", ...argv], ms);
  }

  /** Runs a command inside that must end well; resolves to what it printed. */
  async run(argv: readonly string[], ms?: number): Promise<string> {
    return await run(["nsenter", "-t", String(this.boot.init), "-a", ...argv], ms);
  }

  /** Writes a file on its disk. */
  write(path: string, text: string, mode = 0o644): void {
    mkdirSync(dirname(this.disk + path), { recursive: true });
    writeFileSync(this.disk + path, text, { mode });
  }

  remove(path: string): void {
    rmSync(this.disk + path, { recursive: true, force: true });
  }

  /** A path as processes in it see it, its /run and /proc too; only while it is on. */
  inside(path: string): string {
    return `/proc/${this.boot.init}/root${path}`;
  }

  async #live(): Promise<void> {
    try {
      for (;;) {
        const how = await this.#bootOnce();
        if (how !== "rebooted" || this.#cut) return;
        await this.whileDown?.();
        await Bun.sleep(this.rebootMs);
        await this.whileDown?.();
        if (this.#cut) return;
      }
    } finally {
      this.#on = false;
    }
  }

  /** From power on to the end of this boot. */
  async #bootOnce(): Promise<"rebooted" | "off" | "cut"> {
    for (const path of this.#groups) mkdirSync(path, { recursive: true });
    const logFile = `${this.#spec.dir}/console.log`;
    const log = openSync(logFile, "a");
    // Its own control groups: machines that share one would end each other's processes.
    const enter = 'for group in "$@"; do echo $$ > "$group/cgroup.procs"; done';
    const child = Bun.spawn(["sh", "-c", `${enter}; exec ${this.#nspawn()}`, "sh", ...this.#groups], {
      // Out of the reach of a Ctrl-C: the guardian ends it.
      detached: true,
      env: CLEAN_ENV,
      stdin: "ignore",
      stdout: log,
      stderr: log,
    });
    closeSync(log);
    await this.#guard.owesProcess(child.pid);
    const boot: { -readonly [K in keyof Boot]: Boot[K] } = await this.#booted(child, logFile);
    this.boots.push(boot);
    await this.#guard.owesProcess(boot.init).catch(() => undefined); // ended already
    if (this.#cut) process.kill(boot.init, "SIGKILL");
    const code = await child.exited;
    const how = this.#cut ? "cut" : code === REBOOTED ? "rebooted" : "off";
    boot.ended = { at: Date.now(), how };
    if (how === "off" && code !== 0) throw new Error(`${this.name} ended with ${code}: ${tail(logFile)}`);
    return how;
  }

  #nspawn(): string {
    const { machine } = this.#spec;
    const isolation = `--network-namespace-path=/run/netns/${this.#namespace} --register=no --keep-unit`;
    const nothing = "--settings=no --link-journal=no --resolv-conf=off --timezone=off --console=pipe";
    return `systemd-nspawn --boot --directory=${this.disk} --machine=${machine} --hostname=${this.name} ${isolation} ${nothing}`;
  }

  /** Waits until it has a boot id of its own, which comes before its init. */
  async #booted(child: Bun.Subprocess, logFile: string): Promise<Boot> {
    const outer = readFileSync(OUTER_BOOT_ID, "utf8").trim();
    const found = await until(
      `a boot id in ${this.name}`,
      () => {
        if (child.exitCode !== null) return "ended";
        const children = readFileSync(`/proc/${child.pid}/task/${child.pid}/children`, "utf8").trim().split(" ");
        for (const init of children.map(Number).filter(Boolean)) {
          const id = readFileSync(`/proc/${init}/root${OUTER_BOOT_ID}`, "utf8").trim();
          if (id !== outer && id !== this.boots.at(-1)?.id) return { id, init, startedAt: Date.now() };
        }
        return undefined;
      },
      BOOT_MS,
    );
    if (found === "ended") throw new Error(`systemd-nspawn ended with ${child.exitCode}: ${tail(logFile)}`);
    return found;
  }
}

function tail(file: string): string {
  return readFileSync(file, "utf8").trim().split("\n").slice(-12).join("\n");
}

/** The control group hierarchies that systemd keeps its units in. */
function hierarchies(): string[] {
  const unified = existsSync("/sys/fs/cgroup/cgroup.procs");
  const found = unified ? ["/sys/fs/cgroup"] : ["/sys/fs/cgroup/systemd", "/sys/fs/cgroup/unified"].filter(existsSync);
  if (found.length === 0) throw new Error("no control groups under /sys/fs/cgroup; systemd hosts cannot run here");
  return found;
}

/** The layers as one tree that can be written, without writing to them: an overlay, or where there can be none, a copy. */
async function makeDisk(guard: Guard, { dir, layers }: HostSpec): Promise<void> {
  const disk = `${dir}/disk`;
  for (const name of ["disk", "upper", "work"]) mkdirSync(`${dir}/${name}`, { recursive: true });
  await guard.owes({ what: "mount", path: disk });
  const options = `lowerdir=${layers.join(":")},upperdir=${dir}/upper,workdir=${dir}/work`;
  const mounted = await attempt(["mount", "-t", "overlay", "-o", options, "overlay", disk]);
  if (mounted.code === 0) return;
  for (const layer of layers.toReversed()) await run(["cp", "-a", "--reflink=auto", `${layer}/.`, disk], 120_000);
}
