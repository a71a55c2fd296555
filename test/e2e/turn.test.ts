/** One machine at a time, through slow boots, sick machines and machines that never return: the built executable on a real etcd. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { type EtcdCluster, startEtcd } from "../world/etcd.ts";
import { PATIENCE_MS, until } from "../world/wait.ts";
import { deadline, withFleet } from "./fleet.ts";

let etcd: EtcdCluster;
beforeAll(async () => {
  etcd = await startEtcd({ members: 3 });
}, 60_000);
afterAll(async () => await etcd.stop());

test.concurrent(
  "a second node goes down while the first is still booting: it waits through a boot three times as long as the lock's TTL",
  () =>
    withFleet(etcd.endpoints, 120_000, async (fleet) => {
      const config = { lock_ttl_sec: 10 };
      const a = fleet.add("a", { config, bootMs: 30_000 });
      const b = fleet.add("b", { config });
      a.start();
      await fleet.queued(a);
      b.start();
      await a.comesTo("verified");
      await b.comesTo("verified");
      const { downs } = await fleet.verdict();
      expect(downs.map(({ node }) => node)).toEqual(["a", "b"]);
      const [first, second] = downs;
      expect(first!.to - first!.from).toBeGreaterThan(30_000);
      // The hand-over does not wait for any lease to run out.
      expect(second!.from - first!.to).toBeLessThan(5_000);
    }),
  deadline(120_000),
);

test.concurrent(
  "a bad kernel takes the fleet down: a node that comes back sick holds the line, and the line goes on when it is healed",
  () =>
    withFleet(etcd.endpoints, 120_000, async (fleet) => {
      const [a, b] = [fleet.add("a"), fleet.add("b")];
      a.start();
      await fleet.queued(a);
      b.start();
      await a.noted("down");
      a.flag("sick", true);
      const asked = () => a.notes("health-end").filter((note) => note.subject === "post-reboot");
      // Longer than the TTL of every lease, and asked again and again.
      await until("the sick node to be asked again and again", () => asked().length >= 8, PATIENCE_MS);
      expect(asked().every((note) => note.value === "1")).toBe(true);
      expect(a.outcomes("recovering")).toBe(1);
      expect(b.notes("command")).toEqual([]);
      const status = await b.run("status", "--json");
      expect(status.code).toBe(4);
      expect(JSON.parse(status.stdout).line).toMatchObject({ holder: "a", ahead: 1 });
      const [row] = JSON.parse((await b.run("queue", "--json")).stdout);
      expect(row).toMatchObject({ node: "a", phase: "recovering", in_turn: true, daemon: "back" });
      const healed = Date.now();
      a.flag("sick", false);
      await a.comesTo("verified");
      await b.comesTo("verified");
      const { downs } = await fleet.verdict();
      expect(downs.map(({ node }) => node)).toEqual(["a", "b"]);
      expect(downs[0]!.to).toBeGreaterThanOrEqual(healed);
    }),
  deadline(120_000),
);

test.concurrent(
  "a dead node is replaced by the next one that dies: the fleet halts until an operator releases it, and then counts it as down until proven",
  () =>
    withFleet(etcd.endpoints, 150_000, async (fleet) => {
      const [a, b, c] = [fleet.add("a"), fleet.add("b"), fleet.add("c")];
      a.staysDown = true;
      a.start();
      await fleet.queued(a);
      b.start();
      await fleet.queued(b);
      c.start();
      await a.noted("off");
      // Everything that a's daemon kept alive runs out; the turn does not.
      await fleet.history.seen(
        "a's sign of life to end",
        ({ key, deleted }) => deleted && key.includes("/alive/"),
        PATIENCE_MS,
      );
      const refused = await b.run("release", "--node", "a", "--reason", "too early");
      expect(refused).toMatchObject({ code: 3 });
      expect((await b.run("release", "--node", "a")).code).toBe(64);
      const release = async () => (await b.run("release", "--node", "a", "--reason", "the mainboard died")).code === 0;
      await until("the release to be accepted", release, 90_000);
      const released = Date.now();
      await b.comesTo("verified");
      await c.comesTo("verified");
      a.boot();
      await a.comesTo("verified");
      const { downs, fenced } = await fleet.verdict();
      expect(fenced).toEqual(["a", "b", "c"]);
      const [, second] = downs.toSorted((x, y) => x.from - y.from);
      expect(second!.from).toBeGreaterThan(released - 5_000);
      // It proved itself before anything else: no place in line before that.
      const back = a.notes("on").at(-1)!.at;
      const proven = downs.find((down) => down.node === "a")!.to;
      const again = fleet.history.changes.filter(
        (change) => change.key.startsWith(a.line) && !change.deleted && change.value.includes('"node":"a"'),
      );
      expect(again.filter((change) => change.at > back && change.at < proven)).toEqual([]);
    }),
  deadline(150_000),
);

test.concurrent(
  "a dead node stops the fleet for ever where policy says otherwise: after max_hold_sec its turn is taken over",
  () =>
    withFleet(etcd.endpoints, 180_000, async (fleet) => {
      const config = { max_hold_sec: 5 };
      const [a, b] = [fleet.add("a", { config }), fleet.add("b", { config })];
      a.staysDown = true;
      a.start();
      await fleet.queued(a);
      b.start();
      await b.comesTo("verified", 1, 120_000);
      expect(b.log("takeover")).toHaveLength(1);
      a.boot();
      await a.comesTo("verified");
      const { fenced } = await fleet.verdict();
      expect(fenced).toEqual(["a", "b"]);
    }),
  deadline(180_000),
);

test.concurrent(
  "one ghost after the other is taken over until nobody is left: while one is not accounted for, the next holds the line",
  () =>
    withFleet(etcd.endpoints, 180_000, async (fleet) => {
      const config = { max_hold_sec: 2 };
      const [a, b] = [fleet.add("a", { config }), fleet.add("b", { config })];
      const group = `${fleet.namespace}/turns/${encodeURIComponent("cluster/lock")}`;
      const mark = { key: btoa(`${group}/ghosts/earlier`) };
      await etcd.post("/v3/kv/put", { ...mark, value: btoa("{}") });
      a.staysDown = true;
      a.start();
      await fleet.queued(a);
      b.start();
      await until("b to see a ghost", () => b.log("ghost").length > 0, PATIENCE_MS);
      // From here on nothing but the earlier ghost stands against a takeover, and b looks every second.
      const young = ({ key, deleted }: { key: string; deleted: boolean }) =>
        deleted && key.startsWith(`${group}/fresh/`);
      const { at } = await fleet.history.seen("the youth of a's turn to end", young, 90_000);
      await until("b to have had ten more looks", () => Date.now() - at > 10_000, PATIENCE_MS);
      expect(b.log("takeover")).toEqual([]);
      expect(b.notes("command")).toEqual([]);
      await etcd.post("/v3/kv/deleterange", mark);
      await b.comesTo("verified");
      expect(b.log("takeover")).toHaveLength(1);
      a.boot();
      await a.comesTo("verified");
      await fleet.verdict();
    }),
  deadline(180_000),
);

test.concurrent(
  "more than slots allow are down together, or fewer than could be",
  () =>
    withFleet(etcd.endpoints, 120_000, async (fleet) => {
      const machines = ["a", "b", "c", "d", "e"].map((name) =>
        fleet.add(name, { config: { slots: 2 }, bootMs: 2_000, wants: 2 }),
      );
      for (const machine of machines) machine.start();
      await Promise.all(machines.map((machine) => machine.comesTo("verified", 2, 100_000)));
      const { downs } = await fleet.verdict(2);
      expect(downs).toHaveLength(10);
      const beside = downs.filter((down) =>
        downs.some((other) => other !== down && other.from < down.from && down.from < other.to),
      );
      expect(beside.length).toBeGreaterThan(3);
    }),
  deadline(120_000),
);

test.concurrent(
  "somebody jumps the queue: five nodes are served first come, first served, through twenty rounds",
  () =>
    withFleet(etcd.endpoints, 170_000, async (fleet) => {
      const names = ["a", "b", "c", "d", "e"];
      const machines = names.map((name) => fleet.add(name, { wants: 20, bootMs: 0 }));
      for (const machine of machines) machine.start();
      await Promise.all(machines.map((machine) => machine.comesTo("verified", 20, 160_000)));
      const { downs, faults } = await fleet.verdict();
      expect(faults).toEqual([]);
      expect(downs).toHaveLength(100);
      // The verdict has compared each fence with the line; here it is once more in plain words: served in the order of arrival.
      const created = (change: { key: string; create: number; deleted: boolean; leased: boolean }) =>
        change.key.startsWith(machines[0]!.line) && !change.deleted && !change.leased ? [change.create] : [];
      const arrivals = fleet.history.changes.flatMap(created);
      expect(arrivals).toHaveLength(100);
      expect(arrivals).toEqual(arrivals.toSorted((x, y) => x - y));
    }),
  deadline(170_000),
);

test.concurrent(
  "one group waits for another: nodes with different lock keys take their turns side by side",
  () =>
    withFleet(etcd.endpoints, 120_000, async (fleet) => {
      const [web1, web2] = ["web-1", "web-2"].map((name, i) =>
        fleet.add(name, { lockKey: "/web/lock", bootMs: i === 0 ? 12_000 : 0 }),
      );
      const [db1, db2] = ["db-1", "db-2"].map((name) => fleet.add(name, { lockKey: "/db/lock", bootMs: 1_000 }));
      web1!.start();
      await web1!.noted("down");
      for (const machine of [web2!, db1!, db2!]) machine.start();
      await Promise.all([db1!, db2!].map((machine) => machine.comesTo("verified")));
      expect(web1!.notes("on")).toEqual([]);
      await Promise.all([web1!, web2!].map((machine) => machine.comesTo("verified")));
      await fleet.verdict();
    }),
  deadline(120_000),
);
