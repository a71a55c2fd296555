/** What changes while the turn is owned already, programs that misbehave, and a reboot that does not happen: the built executable. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { processesWithEnv } from "../../src/kernel/exec.ts";
import { type EtcdCluster, startEtcd } from "../world/etcd.ts";
import type { Machine } from "../world/machine.ts";
import { PATIENCE_MS, until } from "../world/wait.ts";
import { deadline, withFleet } from "./fleet.ts";

let etcd: EtcdCluster;
beforeAll(async () => {
  etcd = await startEtcd({ members: 3 });
}, 60_000);
afterAll(async () => await etcd.stop());

const LATE: readonly (readonly [
  fault: string,
  outcome: string,
  close: (a: Machine) => void,
  open: (a: Machine) => void,
])[] = [
  [
    "a kill switch that appears during post-lock health comes too late",
    "kill_switch_active",
    (a) => a.flag("disable", true),
    (a) => a.flag("disable", false),
  ],
  [
    "a reboot that nobody wants any more since post-lock health happens all the same",
    "recheck_cleared",
    (a) => a.satisfy(),
    (a) => a.want(),
  ],
];

for (const [fault, outcome, close, open] of LATE)
  test.concurrent(
    fault,
    () =>
      withFleet(etcd.endpoints, 120_000, async (fleet) => {
        const [a, b] = [fleet.add("a"), fleet.add("b")];
        a.flag("hold-post-lock", true);
        a.start();
        await a.asked("post-lock");
        b.start();
        await fleet.queued(b);
        close(a);
        a.flag("hold-post-lock", false);
        await a.comesTo(outcome);
        await b.comesTo("verified");
        expect(a.notes("command")).toEqual([]);
        const { fenced } = await fleet.verdict();
        expect(fenced).toEqual(["b"]);
        open(a);
        await a.comesTo("verified");
        await fleet.verdict();
      }),
    deadline(120_000),
  );

test.concurrent(
  "SIGTERM while the reboot command runs gives the turn away, or ends the command",
  () =>
    withFleet(etcd.endpoints, 120_000, async (fleet) => {
      const config = { reboot_grace_sec: 12 };
      // Its first reboot never comes: the command drains, and drains.
      const reboot = 'if [ ! -e "$dir/drained" ]; then : > "$dir/drained"; echo $$ > "$dir/command.pid"; sleep 500; fi';
      const a = fleet.add("a", { config, reboot });
      const b = fleet.add("b", { config });
      a.start();
      await fleet.queued(a);
      b.start();
      await fleet.queued(b);
      const command = await a.noted("command");
      const pid = await until(
        "the command's pid",
        () => Number(read(`${a.dir}/command.pid`)) || undefined,
        PATIENCE_MS,
      );
      expect(await a.stopDaemon("SIGTERM")).toBe(0);
      expect(alive(pid)).toBe(true);
      const permanent = () =>
        fleet.history.changes.findLast(
          (change) => change.key.startsWith(a.line) && change.value.includes('"node":"a"'),
        );
      expect(permanent()).toMatchObject({ deleted: false, leased: false });
      // The next daemon of the same boot: the machine may go down any moment. It ends the command, waits out the grace, and gives up.
      a.start();
      const ended = await until("the orphaned command to be ended", () => !alive(pid) && Date.now(), PATIENCE_MS);
      const gone = await fleet.history.seen(
        "a's turn to end",
        ({ key, deleted }) => deleted && key.startsWith(a.line),
        PATIENCE_MS,
      );
      expect(gone.at - command.at).toBeGreaterThanOrEqual(12_000);
      expect(ended).toBeLessThan(gone.at);
      expect(a.outcomes("reboot_failed")).toBeGreaterThan(0);
      expect(b.notes("command").every((note) => note.at > gone.at - 1_000)).toBe(true);
      await b.comesTo("verified");
      await a.comesTo("verified");
      const { fenced } = await fleet.verdict();
      expect(fenced).toEqual(["a", "b", "a"]);
      // Nobody counts down to a cooldown for a reboot that has not happened, and b did not wait for more than the grace.
      expect(b.notes("command")[0]!.at - gone.at).toBeLessThan(5_000);
    }),
  deadline(120_000),
);

test.concurrent(
  "a health script that hangs, ignores SIGTERM and leaves a grandchild with its pipe hangs the daemon, and peers think it well",
  () =>
    withFleet(etcd.endpoints, 120_000, async (fleet) => {
      const config = { health_timeout_sec: 3 };
      const hang = `if [ -e "$dir/hang" ]; then
  trap '' TERM
  ( trap '' TERM; sleep 300; sleep 300 ) &
  sleep 300; sleep 300; sleep 300
fi`;
      const a = fleet.add("a", { config, health: hang, wants: 0 });
      a.start();
      const published = async (healthy: boolean) =>
        await fleet.history.seen(
          `a to be published as ${healthy ? "well" : "unwell"}`,
          ({ key, value }) => key === `${fleet.namespace}/cluster_health/a` && value.includes(`"healthy":${healthy}`),
          PATIENCE_MS,
        );
      await published(true);
      a.flag("hang", true);
      const begun = await until("the script to hang", () => processesOf(a).length >= 4 && Date.now(), PATIENCE_MS);
      const first = a.notes("health-start").length;
      const unwell = await published(false);
      expect(JSON.parse(unwell.value)).toMatchObject({ healthy: false, reason: "timeout" });
      // Timeout, SIGTERM, SIGKILL: within timeout + 5 s, as everything that it had started.
      expect(unwell.at - begun).toBeLessThan(8_000);
      a.flag("hang", false);
      await until(
        "the next script to run",
        () => a.notes("health-end").length > 0 && a.notes("health-start").length > first,
      );
      await until("nothing but the daemon to be left", () => processesOf(a).length <= 1, PATIENCE_MS);
    }),
  deadline(120_000),
);

test.concurrent(
  "a health script that prints 500 MB swells the daemon",
  () =>
    withFleet(etcd.endpoints, 120_000, async (fleet) => {
      const config = { health_timeout_sec: 60, lock_ttl_sec: 61 };
      const flood = 'if [ -e "$dir/flood" ]; then head -c 500000000 /dev/zero; : > "$dir/flooded"; fi';
      const a = fleet.add("a", { config, health: flood, wants: 0 });
      a.start();
      await until("some quiet passes", () => a.notes("health-end").length >= 3, PATIENCE_MS);
      const pid = a.pid!;
      const before = peakMiB(pid);
      a.flag("flood", true);
      await until("the flood to be over", () => read(`${a.dir}/flooded`) !== undefined, PATIENCE_MS);
      a.flag("flood", false);
      const passes = a.notes("health-end").length;
      await until("the daemon to go on", () => a.notes("health-end").length > passes + 1, PATIENCE_MS);
      expect(a.pid).toBe(pid);
      expect(peakMiB(pid) - before).toBeLessThan(8);
    }),
  deadline(120_000),
);

/** Everything that runs on a machine, its daemon included. */
function processesOf(machine: Machine): readonly number[] {
  return processesWithEnv("ROTA_TEST_MACHINE", machine.dir).map(({ pid }) => pid);
}

function alive(pid: number): boolean {
  return /^State:\s+[^ZX]/m.test(read(`/proc/${pid}/status`) ?? "");
}

/** The most memory that a process has ever had, in MiB. */
function peakMiB(pid: number): number {
  return Number(/^VmHWM:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1]) / 1024;
}

function read(file: string): string | undefined {
  try {
    return readFileSync(file, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
}
