/** An etcd that loses its leader, its quorum, or is not there yet: the built executable, each test with a cluster of its own. */
import { expect, test } from "bun:test";
import { type EtcdCluster, startEtcd } from "../world/etcd.ts";
import type { Machine } from "../world/machine.ts";
import { PATIENCE_MS, until } from "../world/wait.ts";
import { deadline, type Fleet, fenceWords, withFleet } from "./fleet.ts";

/** A fleet on three members of its own. */
async function withCluster(ms: number, work: (fleet: Fleet, etcd: EtcdCluster) => Promise<void>): Promise<void> {
  const etcd = await startEtcd({ members: 3 });
  try {
    await withFleet(etcd.endpoints, ms, (fleet) => work(fleet, etcd));
  } finally {
    await etcd.stop();
  }
}

/** When the leader dies: each brings a to the moment, kills, and lets a go on. */
const MOMENTS: Readonly<
  Record<string, (a: Machine, b: Machine, fleet: Fleet, kill: () => Promise<void>) => Promise<void>>
> = {
  "while a machine gets in line": async (a, b, _fleet, kill) => {
    a.flag("hold-pre-lock", true);
    a.start();
    b.start();
    await a.asked("pre-lock");
    a.flag("hold-pre-lock", false);
    await kill();
  },
  "during post-lock health": async (a, b, fleet, kill) => {
    a.flag("hold-post-lock", true);
    a.start();
    await a.asked("post-lock");
    b.start();
    await fleet.queued(b);
    await kill();
    a.flag("hold-post-lock", false);
  },
};

for (const [moment, act] of Object.entries(MOMENTS))
  test.concurrent(
    `a leader that is killed ${moment} brings two down together, or the line to a halt`,
    () =>
      withCluster(120_000, async (fleet, etcd) => {
        const [a, b] = [fleet.add("a"), fleet.add("b")];
        await act(a, b, fleet, async () => await (await etcd.leader()).kill());
        const killed = Date.now();
        await Promise.all([a, b].map((machine) => machine.comesTo("verified")));
        const { downs } = await fleet.verdict();
        expect(downs.map(({ node }) => node).toSorted()).toEqual(["a", "b"]);
        expect(Date.now() - killed).toBeLessThan(45_000);
        expect([a, b].map((machine) => machine.notes("daemon").length)).toEqual([2, 2]);
      }),
    deadline(120_000),
  );

test.concurrent(
  "a leader that is killed with the fence in its hands brings two down together, or the line to a halt",
  () =>
    withCluster(120_000, async (fleet, etcd) => {
      const leader = await etcd.leader();
      const uplink = await fleet.uplink();
      // a talks to the leader first, so that the fence is on its way to it.
      const at = etcd.endpoints.indexOf(leader.endpoint);
      const endpoints = [...uplink.endpoints.slice(at), ...uplink.endpoints.slice(0, at)];
      const [a, b] = [fleet.add("a", { endpoints }), fleet.add("b")];
      a.flag("hold-post-lock", true);
      a.start();
      await a.asked("post-lock");
      b.start();
      await fleet.queued(b);
      const sent = uplink.when(fenceWords(a), "swallow");
      a.flag("hold-post-lock", false);
      await sent;
      await leader.kill();
      await uplink.set("pass");
      await Promise.all([a, b].map((machine) => machine.comesTo("verified")));
      const { downs } = await fleet.verdict();
      expect(downs.map(({ node }) => node).toSorted()).toEqual(["a", "b"]);
    }),
  deadline(120_000),
);

test.concurrent(
  "without a quorum somebody reboots, or daemons give up: for 30 s nobody does, then everybody goes on",
  () =>
    withCluster(150_000, async (fleet, etcd) => {
      const machines = ["a", "b", "c"].map((name) => fleet.add(name));
      const [a] = machines;
      a!.flag("hold-post-lock", true);
      for (const machine of machines) {
        machine.start();
        await fleet.queued(machine);
      }
      await a!.asked("post-lock");
      const lost = [etcd.members[0]!, etcd.members[1]!];
      await Promise.all(lost.map((member) => member.kill()));
      a!.flag("hold-post-lock", false);
      const pids = machines.map((machine) => machine.pid);
      // The fault lasts this long; there is nothing to wait for.
      await Bun.sleep(30_000);
      expect(machines.flatMap((machine) => machine.notes("command"))).toEqual([]);
      expect(machines.map((machine) => machine.pid)).toEqual(pids);
      // It says that it cannot know, soon, instead of hanging.
      const before = Date.now();
      expect((await a!.run("status")).code).toBe(1);
      expect(Date.now() - before).toBeLessThan(15_000);
      await Promise.all(lost.map((member) => member.start()));
      await Promise.all(machines.map((machine) => machine.comesTo("verified")));
      await fleet.verdict();
    }),
  deadline(170_000),
);

test.concurrent(
  "a store that comes 20 s after the daemons finds none of them left, or in need of a restart",
  () =>
    withCluster(120_000, async (fleet, etcd) => {
      await Promise.all(etcd.members.map((member) => member.kill()));
      const machines = ["a", "b"].map((name) => fleet.add(name));
      for (const machine of machines) machine.start();
      const pids = machines.map((machine) => machine.pid);
      // The fault lasts this long; there is nothing to wait for.
      await Bun.sleep(20_000);
      expect(machines.map((machine) => machine.pid)).toEqual(pids);
      expect(machines.flatMap((machine) => machine.notes("command"))).toEqual([]);
      // It has said so, and not on every try.
      for (const machine of machines) {
        const said = machine.log("retry").filter((line) => line.level === "warn");
        expect(said.length).toBeGreaterThan(0);
        expect(said.length).toBeLessThan(10);
      }
      const back = Date.now();
      await Promise.all(etcd.members.map((member) => member.start()));
      await until(
        "the first command",
        () => machines.some((machine) => machine.notes("command").length > 0),
        PATIENCE_MS,
      );
      expect(Date.now() - back).toBeLessThan(30_000);
      await Promise.all(machines.map((machine) => machine.comesTo("verified")));
      await fleet.verdict();
    }),
  deadline(140_000),
);
