/** `etcdctl lock` on the same name: other programs' locks exclude us and ours exclude them, by etcd's own client. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { type EtcdCluster, startEtcd } from "../world/etcd.ts";
import type { Machine } from "../world/machine.ts";
import { PATIENCE_MS, until } from "../world/wait.ts";
import { deadline, type Fleet, withFleet } from "./fleet.ts";

let etcd: EtcdCluster;
beforeAll(async () => {
  etcd = await startEtcd({ members: 3 });
}, 60_000);
afterAll(async () => await etcd.stop());

interface Etcdctl {
  /** The key that it holds the lock by, once it does. */
  readonly key: string | undefined;
  /** When it was told so, ms. */
  readonly at: number;
  /** Gives the lock back, as a person does with Ctrl-C. */
  release(): Promise<void>;
}

/** `etcdctl lock NAME` on the name of this machine's group. */
function etcdctlLock(fleet: Fleet, machine: Machine): Etcdctl {
  const name = machine.line.slice(0, -1);
  const env = { PATH: Bun.env.PATH ?? "", ETCDCTL_API: "3", ETCDCTL_ENDPOINTS: etcd.endpoints.join(",") };
  const lock = Bun.spawn(["etcdctl", "lock", "--ttl=5", name], { env, stdout: "pipe", stderr: "ignore" });
  let key: string | undefined;
  let at = Number.POSITIVE_INFINITY;
  void (async () => {
    for await (const chunk of lock.stdout) {
      at = Date.now();
      key = new TextDecoder().decode(chunk).trim();
    }
  })();
  const end = async (signal: NodeJS.Signals) => {
    lock.kill(signal);
    await lock.exited;
  };
  fleet.defer(() => end("SIGKILL"));
  return {
    get key() {
      return key;
    },
    get at() {
      return at;
    },
    release: () => end("SIGINT"),
  };
}

test.concurrent(
  "a machine reboots under somebody else's `etcdctl lock`",
  () =>
    withFleet(etcd.endpoints, 120_000, async (fleet) => {
      const a = fleet.add("a");
      const lock = etcdctlLock(fleet, a);
      await until("etcdctl to have the lock", () => lock.key, PATIENCE_MS);
      a.start();
      await a.comesTo("lock_unavailable");
      // It would be down in two seconds if it did not wait; the lock is held on for longer than every TTL.
      await until("a to be asked for health again and again", () => a.notes("health-end").length >= 8, PATIENCE_MS);
      expect(a.notes("command")).toEqual([]);
      expect((await a.run("status")).code).toBe(4);
      expect(JSON.parse((await a.run("queue", "--json")).stdout)).toMatchObject([
        { place: 1, node: null, phase: "foreign", in_turn: false },
        { place: 2, node: "a", phase: "queued" },
      ]);
      const released = Date.now();
      await lock.release();
      await a.comesTo("verified");
      const [down] = (await fleet.verdict()).downs;
      expect(down!.from).toBeGreaterThanOrEqual(released);
      expect(down!.from - released).toBeLessThan(5_000);
    }),
  deadline(120_000),
);

test.concurrent(
  "`etcdctl lock` gets the lock while a machine is down, or jumps ahead of one that waits",
  () =>
    withFleet(etcd.endpoints, 120_000, async (fleet) => {
      // Longer down than every lease of it lives.
      const a = fleet.add("a", { bootMs: 10_000 });
      const b = fleet.add("b");
      a.start();
      await a.noted("down");
      const lock = etcdctlLock(fleet, a);
      await fleet.history.seen(
        "etcdctl to be in line",
        ({ key, deleted, value }) => key.startsWith(a.line) && !deleted && value === "",
      );
      b.start();
      await fleet.queued(b);
      await a.comesTo("verified");
      await until("etcdctl to have the lock", () => lock.key, PATIENCE_MS);
      await b.comesTo("lock_unavailable");
      // Behind it in line: b waits for a program that knows nothing of Rota, until that is done.
      const held = b.notes("health-end").length;
      await until(
        "b to be asked for health again and again",
        () => b.notes("health-end").length >= held + 7,
        PATIENCE_MS,
      );
      expect(b.notes("command")).toEqual([]);
      await lock.release();
      await b.comesTo("verified");
      const { downs } = await fleet.verdict();
      expect(downs.map(({ node }) => node)).toEqual(["a", "b"]);
      expect(lock.at).toBeGreaterThanOrEqual(downs[0]!.to);
      expect(downs[1]!.from).toBeGreaterThan(lock.at);
    }),
  deadline(120_000),
);
