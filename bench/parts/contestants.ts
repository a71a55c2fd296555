/** The processes that wait for one lock, in each of the ways that are compared, and the moment at which each of them is let on. */
import { mkdirSync, mkdtempSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { root } from "../../scripts/steps.ts";

/** A process in line. */
export interface Contestant {
  /** When it said that it is its turn, on this process' monotonic clock. */
  readonly owner: Promise<number>;
  /** The key that it has in the line; only of those that say it. */
  key(): string | undefined;
  /** Lets it read the line again, as it would by itself within half a minute. */
  relist(): void;
  /** Ends it, and what it has started. */
  end(): Promise<void>;
}

/** One way of waiting. */
export interface Kind {
  readonly label: string;
  /** Lock names, one for each line: each kind has lines of its own. */
  readonly lock: string;
  /** Every other hand-over is to one that has read the line since it became the next. */
  readonly relists?: true;
  start(): Contestant;
}

/** Where a kind may put its files, and the etcd it asks. */
export interface Ground {
  readonly folder: string;
  readonly endpoint: string;
  readonly lock: string;
}

/** Rota's own line, watch and rule, without the rest of the daemon. */
export function rotaWaiters({ endpoint, lock }: Ground): Kind {
  let count = 0;
  return {
    label: "rota",
    lock,
    relists: true,
    start: () =>
      contestant([process.execPath, `${root}/bench/parts/waiter.ts`, endpoint, lock, `w${count++}`], {
        owner: "owner\n",
      }),
  };
}

/** `etcdctl lock NAME`, which reads its key once more, prints it and holds the lock. */
export function etcdctlWaiters({ endpoint, lock }: Ground): Kind {
  return {
    label: "etcdctl lock NAME",
    lock,
    start: () => contestant(["etcdctl", "--endpoints", endpoint, "lock", lock], { owner: `${lock}/` }),
  };
}

/** `etcdctl lock NAME CMD`, with a command that says so and stays, as a reboot would. */
export function etcdctlCommands({ endpoint, lock, folder }: Ground): Kind {
  const said = join(folder, "said");
  writeFileSync(said, "owner\n");
  // Prints the file and stays: the quickest program to do so, so that little of it is in the figure.
  const command = ["tail", "-f", said];
  return {
    label: "etcdctl lock NAME CMD",
    lock,
    start: () => contestant(["etcdctl", "--endpoints", endpoint, "lock", lock, "--", ...command], { owner: "owner\n" }),
  };
}

/** The built daemon, told that it needs a reboot; its health script keeps it where it owns and has not been fenced. */
export function rotaDaemons({ endpoint, lock, folder }: Ground): Kind {
  const script = join(folder, "health.sh");
  writeFileSync(script, '#!/bin/sh\n[ "$RC_PHASE" != post-lock ] || exec sleep 600\n', { mode: 0o755 });
  let count = 0;
  return {
    label: "rota reboot run (whole daemon)",
    lock,
    start() {
      const name = `d${count++}`;
      const state = mkdtempSync(join(folder, `${name}-`));
      const config = join(state, "config.yaml");
      mkdirSync(state, { recursive: true });
      writeFileSync(join(state, "machine-id"), new Bun.CryptoHasher("md5").update(name).digest("hex"));
      const settings = {
        node_name: name,
        reboot_required_detectors: [{ type: "file", path: config }],
        health_script: script,
        health_timeout_sec: 900,
        lock_ttl_sec: 1000,
        etcd_endpoints: [endpoint],
        lock_key: lock,
        state_dir: state,
        machine_id_file: join(state, "machine-id"),
        reboot_command: ["/bin/true"],
        kill_switch_file: join(state, "disable"),
      };
      writeFileSync(config, JSON.stringify(settings));
      const options = ["--config", config, "--dry-run", "--log-level", "debug", "--log-format", "json"];
      return contestant([`${root}/dist/rota-linux-${process.arch}`, "reboot", "run", ...options], {
        owner: '"to":"owning"',
        on: "stderr",
      });
    },
  };
}

interface Signs {
  readonly owner: string;
  readonly on?: "stdout" | "stderr";
}

/** Starts a process in a group of its own and listens for its signs. */
function contestant(argv: readonly string[], signs: Signs): Contestant {
  const on = signs.on ?? "stdout";
  const child = Bun.spawn([...argv], {
    detached: true,
    stdin: "ignore",
    stdout: on === "stdout" ? "pipe" : "ignore",
    // etcdctl tells of its end, which is ours to give.
    stderr: on === "stderr" ? "pipe" : "ignore",
    env: { PATH: process.env.PATH ?? "", ETCDCTL_API: "3" },
  });
  const owner = Promise.withResolvers<number>();
  let text = "";
  void (async () => {
    const decoder = new TextDecoder();
    for await (const chunk of child[on] as ReadableStream<Uint8Array>) {
      const now = performance.now();
      text += decoder.decode(chunk, { stream: true });
      if (text.includes(signs.owner)) owner.resolve(now);
    }
  })();
  return {
    owner: owner.promise,
    key: () => /^key (\S+)$/m.exec(text)?.[1],
    relist: () => child.kill("SIGUSR2"),
    async end() {
      // A daemon ends its health script, which leads a group of its own, by itself when it is asked to end.
      endGroup(child.pid, "SIGTERM");
      await Promise.race([child.exited, Bun.sleep(3000)]);
      endGroup(child.pid, "SIGKILL");
      await child.exited;
    },
  };
}

/** The group led by a process that we have started. */
function endGroup(leader: number, signal: NodeJS.Signals): void {
  try {
    process.kill(-leader, signal);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
  }
}
