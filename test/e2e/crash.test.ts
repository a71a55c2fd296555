/** A daemon that dies, or is left without an answer, at the worst moments of its turn: the built executable on a real etcd. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { type EtcdCluster, startEtcd } from "../world/etcd.ts";
import type { Machine } from "../world/machine.ts";
import type { Uplink } from "../world/uplink.ts";
import { PATIENCE_MS, until } from "../world/wait.ts";
import { deadline, endWords, type Fleet, fenceWords, withFleet } from "./fleet.ts";

let etcd: EtcdCluster;
beforeAll(async () => {
  etcd = await startEtcd({ members: 3 });
}, 60_000);
afterAll(async () => await etcd.stop());

/** Everything that was written into the keys of a machine in the line. */
function puts(fleet: Fleet, machine: Machine) {
  return fleet.history.changes.filter(
    ({ key, deleted, value }) => key.startsWith(machine.line) && !deleted && value.includes(`"node":"${machine.name}"`),
  );
}

/** a behind a network of its own and first in line, b waiting behind it. */
async function pair(fleet: Fleet, config = {}): Promise<{ a: Machine; b: Machine; uplink: Uplink }> {
  const uplink = await fleet.uplink();
  const a = fleet.add("a", { endpoints: uplink.endpoints, config });
  const b = fleet.add("b", { config });
  a.flag("hold-post-lock", true);
  a.start();
  await a.asked("post-lock");
  b.start();
  await fleet.queued(b);
  return { a, b, uplink };
}

test.concurrent(
  "a daemon killed before its fence blocks the others, or believes after its restart that it has rebooted",
  () =>
    withFleet(etcd.endpoints, 120_000, async (fleet) => {
      const { a, b } = await pair(fleet);
      const boot = a.bootId;
      await a.killDaemon();
      const killed = Date.now();
      const fence = await fleet.fenced(b);
      // lock_ttl_sec is 6; the line moves within that and five seconds.
      expect(fence.at - killed).toBeLessThan(11_000);
      expect(a.notes("command")).toEqual([]);
      const heard = a.log().length;
      a.flag("hold-post-lock", false);
      a.start();
      await b.comesTo("verified");
      await a.comesTo("verified");
      // Between its restart and its own command there was neither a proof nor an end of a turn.
      const commands = a.notes("command");
      expect(commands.map((note) => note.boot)).toEqual([boot]);
      const before = a
        .log()
        .slice(heard)
        .filter((line) => Date.parse(line.ts) < commands[0]!.at);
      const said = before.filter((line) => line.event === "run_outcome").map((line) => line.fields["status"]);
      expect(said).not.toContain("verified");
      expect(said).not.toContain("recovering");
      const { fenced } = await fleet.verdict();
      expect(fenced).toEqual(["b", "a"]);
    }),
  deadline(120_000),
);

test.concurrent(
  "a daemon killed between its fence and its command runs the command later, or blocks the line: it withdraws",
  () =>
    withFleet(etcd.endpoints, 120_000, async (fleet) => {
      const { a, b, uplink } = await pair(fleet);
      const swallowed = uplink.when(fenceWords(a), "swallow");
      a.flag("hold-post-lock", false);
      await swallowed;
      await fleet.fenced(a);
      await a.killDaemon();
      expect(a.notes("command")).toEqual([]);
      await uplink.set("pass");
      const restarted = Date.now();
      a.start();
      const gone = await fleet.history.seen(
        "a's key to go",
        ({ key, deleted, at }) => deleted && key.startsWith(a.line) && at > restarted,
      );
      expect(gone.at - restarted).toBeLessThan(10_000);
      // b was next: it has its turn before a, which has to get in line again.
      await b.comesTo("verified");
      await a.comesTo("verified");
      const { fenced, downs } = await fleet.verdict();
      expect(fenced).toEqual(["a", "b", "a"]);
      expect(downs.map(({ node }) => node).toSorted()).toEqual(["a", "b"]);
    }),
  deadline(120_000),
);

/** What becomes of a fence whose answer does not come. */
const LOST = [
  ["the store did it and its answer is lost", "swallow"],
  ["it never reaches the store", "deaf"],
  ["it reaches the store late, when nobody waits for it any more", "freeze"],
] as const;

for (const [what, mode] of LOST)
  test.concurrent(
    `an unknown answer to the fence counts as a yes, or leaves a permanent key behind: ${what}`,
    () =>
      withFleet(etcd.endpoints, 120_000, async (fleet) => {
        const { a, b, uplink } = await pair(fleet, { lock_ttl_sec: 20 });
        const lost = uplink.when(fenceWords(a), mode);
        a.flag("hold-post-lock", false);
        await lost;
        const settling = () => a.log("state").some((line) => line.fields["to"] === "settling");
        await until("a to know that it does not know", settling, PATIENCE_MS);
        expect(a.notes("command")).toEqual([]);
        await uplink.set("pass");
        await a.comesTo("verified");
        await b.comesTo("verified");
        const { fenced, downs } = await fleet.verdict();
        expect(downs.map(({ node }) => node)).toEqual(["a", "b"]);
        // A fence that has landed is taken back and keeps its place; the command ran on a later one, with a known answer.
        const twice = ["a", "a", "b"];
        const once = ["a", "b"];
        const possible: Record<typeof mode, string[][]> = { swallow: [twice], deaf: [once], freeze: [once, twice] };
        expect(possible[mode]).toContainEqual([...fenced]);
        expect(new Set(puts(fleet, a).map((change) => change.create)).size).toBe(1);
      }),
    deadline(120_000),
  );

for (const [what, mode] of LOST)
  test.concurrent(
    `an unknown answer to the end of a turn keeps the line waiting, ends it twice, or starts another cooldown: ${what}`,
    () =>
      withFleet(etcd.endpoints, 120_000, async (fleet) => {
        const { a, b, uplink } = await pair(fleet, { min_reboot_interval_sec: 3 });
        const lost = uplink.when(endWords(a), mode);
        a.flag("hold-post-lock", false);
        await lost;
        const wondering = () => a.log("retry").some((line) => line.fields["state"] === "finishing");
        await until("a to know that it does not know", wondering, PATIENCE_MS);
        await uplink.set("pass");
        await a.comesTo("verified");
        await b.comesTo("verified");
        const { fenced, downs } = await fleet.verdict();
        expect(fenced).toEqual(["a", "b"]);
        expect(downs.map(({ node }) => node)).toEqual(["a", "b"]);
        // One pause a turn, and nobody was fenced in it.
        const pauses = fleet.history.changes.filter(({ key }) => key.includes("/cooldown/"));
        const begun = pauses.filter(({ deleted, value }) => !deleted && value.includes('"node":"a"'));
        expect(begun).toHaveLength(1);
        const over = pauses.find(({ deleted, key }) => deleted && key === begun[0]!.key);
        const fence = await fleet.fenced(b);
        expect(over!.revision).toBeLessThan(fence.revision);
      }),
    deadline(120_000),
  );

test.concurrent(
  "a kill switch that appears while the fence is on its way comes too late",
  () =>
    withFleet(etcd.endpoints, 120_000, async (fleet) => {
      const { a, b, uplink } = await pair(fleet);
      const sent = uplink.when(fenceWords(a), "late");
      a.flag("hold-post-lock", false);
      await sent;
      await fleet.fenced(a);
      a.flag("disable", true);
      await uplink.set("pass");
      await a.comesTo("kill_switch_active");
      await b.comesTo("verified");
      expect(a.notes("command")).toEqual([]);
      a.flag("disable", false);
      await a.comesTo("verified");
      const { fenced } = await fleet.verdict();
      expect(fenced).toEqual(["a", "b", "a"]);
    }),
  deadline(120_000),
);

test.concurrent(
  "a daemon that stood still while its fence went through goes on where it was: a yes that is too old is taken back",
  () =>
    withFleet(etcd.endpoints, 120_000, async (fleet) => {
      const { a, b, uplink } = await pair(fleet, { lock_ttl_sec: 30 });
      const sent = uplink.when(fenceWords(a), "late");
      a.flag("hold-post-lock", false);
      await sent;
      process.kill(a.pid!, "SIGSTOP");
      const { at } = await fleet.fenced(a);
      // The answer is there to be read, for longer than a command may follow its fence.
      await uplink.set("pass");
      await until("the yes to be too old", () => Date.now() - at > 10_500);
      process.kill(a.pid!, "SIGCONT");
      await a.comesTo("verified");
      await b.comesTo("verified");
      const { fenced, downs } = await fleet.verdict();
      expect(fenced).toEqual(["a", "a", "b"]);
      expect(downs.map(({ node }) => node)).toEqual(["a", "b"]);
      const second = await fleet.fenced(a, 2);
      expect(second.at).toBeGreaterThan(at + 10_500);
      expect(downs[0]!.from).toBeGreaterThan(at + 10_500);
    }),
  deadline(120_000),
);
