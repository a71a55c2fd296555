/** The commands beside the daemon, by their exit codes and by what they leave in the store: the built executable on a real etcd. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { appendFileSync } from "node:fs";
import { type EtcdCluster, startEtcd } from "../world/etcd.ts";
import type { Machine } from "../world/machine.ts";
import { PATIENCE_MS, until } from "../world/wait.ts";
import { deadline, withFleet } from "./fleet.ts";

let etcd: EtcdCluster;
// Nothing else runs on it, so that its revision tells whether a command has written.
beforeAll(async () => {
  etcd = await startEtcd({ members: 3 });
}, 60_000);
afterAll(async () => await etcd.stop());

/** What the store holds, as far as writing and deleting go: its revision and its leases. */
async function state(): Promise<string> {
  const range = (await etcd.post("/v3/kv/range", { key: btoa("/") })) as { header: { revision: string } };
  const leases = (await etcd.post("/v3/lease/leases", {})) as { leases?: { ID: string }[] };
  return JSON.stringify([range.header.revision, (leases.leases ?? []).map(({ ID }) => ID).sort()]);
}

/** The exit code and the first line of `status` on a machine, which must have changed nothing. */
async function status(machine: Machine, ...words: string[]): Promise<{ code: number; line: string }> {
  const before = await state();
  const { code, stdout } = await machine.run("status", ...words);
  expect(await state()).toBe(before);
  return { code, line: stdout.split("\n")[0] ?? "" };
}

test(
  "a command that only looks changes something, or its exit code says the wrong thing",
  () =>
    withFleet(etcd.endpoints, 120_000, async (fleet) => {
      const [a, b] = [fleet.add("a"), fleet.add("b")];
      expect((await a.run("validate-config")).code).toBe(0);
      expect(await status(a)).toEqual({ code: 0, line: "a: ready - every gate is open" });
      a.flag("sick", true);
      expect(await status(a)).toEqual({ code: 3, line: "a: health_blocked - pre-lock exit 1" });
      expect(await status(a, "--skip-health")).toMatchObject({ code: 0 });
      a.flag("sick", false);
      a.flag("disable", true);
      expect(await status(a)).toMatchObject({ code: 5 });
      a.flag("disable", false);
      a.satisfy();
      expect(await status(a)).toEqual({ code: 0, line: "a: no_action - no detector wants a reboot" });
      a.want();
      const before = await state();
      const empty = await a.run("queue");
      expect(empty).toMatchObject({ code: 0 });
      expect(JSON.parse((await a.run("queue", "--json")).stdout)).toEqual([]);
      expect((await a.run("release", "--node", "b")).code).toBe(64);
      expect((await a.run("release", "--reason", "x")).code).toBe(64);
      expect(await a.run("release", "--node", "b", "--reason", "x")).toMatchObject({ code: 1 });
      expect((await a.run("simulate")).code).toBe(0);
      expect(await state()).toBe(before);

      // The same looks while somebody holds the turn: everything that b is told comes from the store.
      a.staysDown = true;
      a.start();
      await a.noted("off");
      await fleet.history.seen(
        "a's sign of life to end",
        ({ key, deleted }) => deleted && key.includes("/alive/"),
        PATIENCE_MS,
      );
      await until("a's other leases to end", async () => JSON.parse(await state())[1].length <= 1, PATIENCE_MS);
      expect(await status(b)).toEqual({ code: 4, line: "b: lock_unavailable - second in line, behind a" });
      expect(await status(a)).toMatchObject({ code: 0, line: expect.stringContaining("a: rebooting") });
      const held = await state();
      expect((await b.run("queue")).stdout).toMatch(/1 +a +rebooting +\d+s +silent/);
      expect(await state()).toBe(held);
      a.boot();
      await a.comesTo("verified");
      await fleet.verdict();
    }),
  deadline(120_000),
);

test(
  "a single pass or a dry run reboots the machine, or stays in line",
  () =>
    withFleet(etcd.endpoints, 120_000, async (fleet) => {
      const [a, b] = [fleet.add("a"), fleet.add("b")];
      const once = await a.run("run", "--once");
      expect(once.code).toBe(0);
      expect(once.stdout).toContain("outcome: ready");
      expect(once.stdout).toContain("ready outcome reached; run without --once to execute the reboot command");
      a.flag("sick", true);
      expect(await a.run("run", "--once")).toMatchObject({
        code: 3,
        stdout: expect.stringContaining("health_blocked"),
      });
      a.flag("sick", false);
      a.flag("disable", true);
      expect((await a.run("run", "--once")).code).toBe(5);
      a.flag("disable", false);
      a.satisfy();
      expect((await a.run("run", "--once")).stdout).toContain("outcome: no_action");
      a.want();
      // Somebody else has the turn.
      b.flag("hold-post-lock", true);
      b.start();
      await b.asked("post-lock");
      expect(await a.run("run", "--once")).toMatchObject({
        code: 4,
        stdout: expect.stringContaining("lock_unavailable"),
      });
      b.flag("hold-post-lock", false);
      await b.comesTo("verified");
      expect(await b.stopDaemon()).toBe(0);
      expect(a.notes("command")).toEqual([]);
      const left = fleet.history.changes.filter(
        ({ key, value }) => key.startsWith(a.line) && value.includes('"node":"a"'),
      );
      expect(left.every((change) => change.leased)).toBe(true);

      // A dry run stays up, finds the machine ready again and again, and is in nobody's way.
      appendFileSync(a.configFile, "dry_run: true\n");
      a.start();
      await until("two passes that would have rebooted", () => readies(fleet.history.changes, a) >= 2, PATIENCE_MS);
      expect(a.pid).toBeDefined();
      b.want();
      b.start();
      await b.comesTo("verified", 2);
      // Stopped while it waits for somebody it would say so by its exit code.
      const last = () => a.log("run_outcome").at(-1)?.fields["status"];
      await until("a to be first in line again", () => last() === "ready", PATIENCE_MS);
      expect(await a.stopDaemon()).toBe(0);
      expect(a.notes("command")).toEqual([]);
      await fleet.verdict();

      // What run would refuse is refused by all, with 2.
      appendFileSync(a.configFile, "lock_tll_sec: 5\n");
      for (const command of [["validate-config"], ["status"], ["run", "--once"], ["queue"]])
        expect(await a.run(...command)).toMatchObject({ code: 2, stderr: expect.stringContaining("lock_ttl_sec") });
    }),
  deadline(120_000),
);

/** How often a dry run has come to own the turn and given it back. */
function readies(changes: readonly { key: string; value: string; deleted: boolean }[], machine: Machine): number {
  return changes.filter(
    ({ key, value }) =>
      key.startsWith(machine.line) && value.includes('"node":"a"') && value.includes('"phase":"owned"'),
  ).length;
}
