/** The whole loop of a node on the real engine, hour by hour on a hand-moved clock: the twelve steps, and every moment to die in. */
import { describe, expect, test } from "bun:test";
import { Field } from "../../test/world/engine.ts";
import { TestNode } from "../../test/world/node.ts";
import { Fault } from "../kernel/errors.ts";
import { keyspace } from "../turn/keys.ts";
import { release, showLine } from "../turn/recover.ts";
import { clearStop, setStop } from "../turn/stop.ts";

const away = () => new Fault("store.away", "away", { retry: "later" });
const line = async (field: Field) =>
  (await showLine(field.store, field.space)).map(
    ({ contender: { permanent, value } }) => `${value?.node}${permanent ? "!" : ""}`,
  );

/** A node that wants a reboot, started and at this state. */
async function at(field: Field, name: string, state: string, node = new TestNode(field, name)): Promise<TestNode> {
  node.wants = true;
  node.start();
  await field.clock.until(`${name} in ${state}`, () => node.states.includes(state as never));
  return node;
}

/** The power goes and comes back: another boot, in which no reboot is wanted. */
function reboot(field: Field, node: TestNode, boot = 2): TestNode {
  node.kill();
  const name = node.ports.self.node;
  return node.again(field, { self: { bootId: `boot-${name}-${boot}` } });
}

/** Moments on the way from the line to the fence; `act` is done once, in it. */
const MOMENTS: readonly (readonly [string, (node: TestNode, act: () => void) => void])[] = [
  ["getting in line", (node, act) => node.line.before.set("turn.enter", act)],
  ["the first look at the line", (node, act) => node.line.before.set("turn.line", act)],
  ["writing owned", (node, act) => node.line.before.set("turn.own", act)],
  [
    "the health script under the turn",
    (node, act) => node.during.set("health", () => node.state === "checking" && act()),
  ],
  ["the last snapshot", (node, act) => node.line.before.set("turn.snapshot", () => node.state === "fencing" && act())],
  [
    "the kill switch before the fence",
    (node, act) => node.during.set("quick", () => node.state === "fencing" && act()),
  ],
  ["turn.json before the fence", (node, act) => node.during.set("saveTurn", () => node.state === "fencing" && act())],
  ["the grant of the youth", (node, act) => node.line.before.set("turn.youth", act)],
];

describe("a reboot from end to end", () => {
  test("line, fence, command, another boot, proof, end; the next one goes only then", async () => {
    using field = new Field();
    const a = await at(field, "a", "rebooting");
    expect(a.launched).toHaveLength(1);
    expect(a.disk.turn).toMatchObject({ state: "launched", bootId: "boot-a-1", failures: 0 });
    expect(a.phases.slice(-1)).toEqual(["post-lock"]);
    const b = await at(field, "b", "waiting");
    const back = reboot(field, a);
    back.healthy = false;
    await field.clock.advance(20_000);
    back.start();
    await field.clock.advance(600_000);
    expect(back.outcome).toBe("recovering");
    expect(b.launched).toEqual([]);
    expect(await line(field)).toEqual(["a!", "b"]);
    expect(b.notices.at(-1)?.why).toBe("second in line, behind a (in its turn)");
    back.healthy = true;
    await field.clock.until("a is verified", () => back.notices.some(({ outcome }) => outcome === "verified"));
    expect(back.disk.turn).toMatchObject({ state: "closed", failures: 0 });
    const since = field.clock.monotonic();
    await field.clock.until("b goes", () => b.launched.length > 0);
    expect(field.clock.monotonic() - since).toBeLessThan(5_000);
    expect(await line(field)).toEqual(["b!"]);
  });

  test("nothing wanted: no key, no turn, and peers know that it is well", async () => {
    using field = new Field();
    const a = new TestNode(field, "a");
    a.start();
    await field.clock.advance(300_000);
    expect(a.outcome).toBe("no_action");
    expect(new Set(a.phases)).toEqual(new Set(["monitor"]));
    expect(await line(field)).toEqual([]);
    expect(await field.json(`${field.space.health}a`)).toMatchObject({ healthy: true });
    expect(await field.json(`${field.space.roster}a`)).toMatchObject({ machine: "m-a" });
    expect(await field.json(`${field.space.alive}m-a`)).toMatchObject({ boot_id: "boot-a-1" });
  });

  test("the cooldown holds the next one up for its time, counted from the proof", async () => {
    using field = new Field();
    const settings = { cooldownSec: 120 };
    const a = await at(field, "a", "rebooting", new TestNode(field, "a", { settings }));
    const b = await at(field, "b", "waiting", new TestNode(field, "b", { settings }));
    const back = reboot(field, a);
    back.start();
    await field.clock.until("verified", () => back.outcome === "verified" || back.states.includes("finishing"));
    const since = field.clock.monotonic();
    await field.clock.until("b goes", () => b.launched.length > 0);
    expect(field.clock.monotonic() - since).toBeGreaterThanOrEqual(119_000);
    expect(b.notices.map(({ outcome }) => outcome)).toContain("cooldown_active");
  });
});

describe("before the command, every gate once more", () => {
  test.each([
    [
      "kill switch",
      (node: TestNode) => {
        node.killSwitch = true;
      },
      "kill_switch_active",
    ],
    [
      "health",
      (node: TestNode) => {
        node.healthy = false;
      },
      "health_blocked",
    ],
    [
      "detector",
      (node: TestNode) => {
        node.wants = false;
      },
      "recheck_cleared",
    ],
  ] as const)("%s while it waits: it leaves the line", async (_, change, outcome) => {
    using field = new Field();
    await at(field, "a", "rebooting");
    const b = await at(field, "b", "waiting");
    change(b);
    await field.clock.until("b leaves", () => b.states.includes("leaving"));
    await field.clock.advance(1);
    expect(b.notices.map((notice) => notice.outcome)).toContain(outcome);
    expect(await line(field)).toEqual(["a!"]);
  });

  test.each(["health", "detect", "quick"])("the kill switch during %s under the turn: no command", async (moment) => {
    using field = new Field();
    const a = new TestNode(field, "a");
    a.during.set(moment, () => {
      if (a.state === "checking" || a.state === "fencing") a.killSwitch = true;
    });
    await at(field, "a", "leaving", a);
    expect(a.launched).toEqual([]);
    expect(a.outcome).toBe("kill_switch_active");
  });

  test("a stop set while the health script runs under the turn: no fence, and the place stays", async () => {
    using field = new Field();
    const a = new TestNode(field, "a");
    const stop = { who: "op", why: "incident", now: 0, everywhere: true };
    let set = false;
    a.during.set("health", async () => {
      if (a.state === "checking" && !set) set = await setStop(field.store, field.space, { label: "x" }, stop);
    });
    await at(field, "a", "fencing", a);
    await field.clock.advance(300_000);
    expect(a.launched).toEqual([]);
    expect(a.outcome).toBe("stopped");
    expect(await line(field)).toEqual(["a"]);
    await clearStop(field.store, field.space, { label: "x" }, true);
    await field.clock.until("a goes", () => a.launched.length > 0);
  });

  test("the kill switch between the yes and the command: the turn is withdrawn", async () => {
    using field = new Field();
    const a = new TestNode(field, "a");
    a.line.before.set("turn.fence", () => {
      a.killSwitch = true;
    });
    await at(field, "a", "withdrawing", a);
    await field.clock.advance(2_000);
    expect(a.launched).toEqual([]);
    expect(await line(field)).toEqual([]);
    expect(a.disk.turn).toMatchObject({ state: "closed" });
    expect(await field.json(`${field.space.health}a`)).toMatchObject({ healthy: true });
  });

  test("a yes that is older than its deadline is taken back", async () => {
    using field = new Field();
    const a = new TestNode(field, "a");
    let first = true;
    a.during.set("saveTurn", async () => {
      if (a.state !== "launching" || !first) return;
      first = false;
      await field.clock.sleep(11_000);
    });
    await at(field, "a", "withdrawing", a);
    expect(a.launched).toEqual([]);
    await field.clock.until("the next try", () => a.launched.length > 0);
    expect(a.disk.turn?.state).toBe("launched");
  });

  test("a slow disk or a slow grant before the fence does not use up the youth of the turn", async () => {
    using field = new Field();
    const a = new TestNode(field, "a", { settings: { lockTtlSec: 120 } });
    let first = true;
    a.during.set("saveTurn", async () => {
      if (a.state !== "fencing" || !first) return;
      first = false;
      await field.clock.sleep(55_000);
    });
    let sent = Number.NaN;
    a.line.before.set("turn.fence", () => {
      sent = field.clock.boottime();
    });
    await at(field, "a", "rebooting", a);
    const left = field.engine.leaseInfo((await field.get(field.space.fresh(a.launched[0] ?? "")))?.lease ?? "").ttl;
    expect(left).toBeGreaterThan(50);
    expect(field.clock.boottime() - sent).toBeLessThan(10_000);
  });

  test("a clock that goes back between the yes and the command is no proof of youth", async () => {
    using field = new Field();
    const a = new TestNode(field, "a");
    const boottime = a.ports.clock.boottime;
    (a.ports.clock as { boottime: () => number }).boottime = () =>
      a.state === "launching" && a.launched.length === 0 ? boottime() - 1e9 : boottime();
    await at(field, "a", "withdrawing", a);
    expect(a.launched).toEqual([]);
  });
});

describe("unknown outcomes", () => {
  test.each(["request lost", "answer lost", "late"] as const)(
    "a fence with its %s: never the command on it",
    async (fate) => {
      using field = new Field();
      const a = new TestNode(field, "a");
      a.line.next("turn.fence", fate);
      await at(field, "a", "settling", a);
      expect(a.launched).toEqual([]);
      await field.clock.until("a goes", () => a.launched.length > 0);
      const after = await a.line.deliver();
      expect(after.every(({ succeeded }) => !succeeded)).toBe(true);
      expect(a.line.sent.filter(({ label }) => label === "turn.fence")).toHaveLength(2);
    },
  );

  test("the store away while the fence is settled: it asks until it knows", async () => {
    using field = new Field();
    const a = new TestNode(field, "a");
    a.line.next("turn.fence", "answer lost");
    a.line.next("turn.settle", away(), away(), "answer lost", away());
    await at(field, "a", "withdrawing", a);
    expect(a.launched).toEqual([]);
    await field.clock.until("a goes", () => a.launched.length > 0);
  });

  test("a lost answer to getting in line leaves one key only", async () => {
    using field = new Field();
    const a = new TestNode(field, "a");
    a.line.next("turn.enter", "answer lost", "request lost", "answer lost");
    await at(field, "a", "rebooting", a);
    expect(await line(field)).toEqual(["a!"]);
  });
});

describe("the command comes to nothing", () => {
  test("it fails: the turn is kept through the grace, then given up, and the next try waits", async () => {
    using field = new Field();
    const a = await at(field, "a", "rebooting");
    const b = await at(field, "b", "waiting");
    const since = field.clock.monotonic();
    a.finish({ ok: false, why: "exit code 1" });
    await field.clock.until("b goes", () => b.launched.length > 0);
    expect(field.clock.monotonic() - since).toBeGreaterThan(25_000);
    expect(a.notices.map(({ outcome }) => outcome)).toContain("reboot_failed");
    expect(a.ended).toContain(a.launched[0] ?? "");
    expect(a.disk.turn).toMatchObject({ state: "closed", failures: 1 });
    expect(await field.below(field.space.cooldown)).toEqual([]);
  });

  test("it hangs, and the system may still go down: nothing is given up while it may", async () => {
    using field = new Field();
    const a = await at(field, "a", "rebooting");
    a.down = "a shutdown is scheduled";
    await field.clock.advance(3_600_000);
    expect(await line(field)).toEqual(["a!"]);
    expect(a.notices.at(-1)?.why).toContain("a shutdown is scheduled");
    a.down = undefined;
    a.healthy = false;
    await field.clock.advance(60_000);
    expect(await line(field)).toEqual(["a!"]);
    a.healthy = true;
    await field.clock.until("given up", () => a.disk.turn?.state === "closed");
    await field.clock.advance(1_000);
    expect(await line(field)).toEqual([]);
  });

  test("each failure in a row waits longer, and a turn given back before its command does not make that forgotten", async () => {
    using field = new Field();
    const a = await at(field, "a", "rebooting");
    a.finish({ ok: false, why: "exit code 1" });
    await field.clock.until("given up", () => a.disk.turn?.state === "closed");
    expect(a.disk.turn?.failures).toBe(1);
    a.line.next("turn.fence", "answer lost");
    await field.clock.until("withdrawn", () => a.states.filter((state) => state === "withdrawing").length === 2);
    await field.clock.until("launched again", () => a.launched.length === 2);
    expect(a.disk.turn).toMatchObject({ state: "launched", failures: 1 });
    a.finish({ ok: false, why: "exit code 1" });
    await field.clock.until("given up", () => a.disk.turn?.state === "closed");
    expect(a.disk.turn?.failures).toBe(2);
  });
});

describe("kill -9", () => {
  test.each(MOMENTS)("%s: nothing was taken, and the next start begins anew", async (_, moment) => {
    using field = new Field();
    const a = new TestNode(field, "a");
    let struck = false;
    moment(a, () => {
      struck = true;
      a.kill();
    });
    a.wants = true;
    a.start();
    await field.clock.until("killed", () => struck);
    expect(a.launched).toEqual([]);
    const again = a.again(field);
    await at(field, "a", "rebooting", again);
    expect(again.launched).toHaveLength(1);
    expect(await line(field)).toEqual(["a!"]);
  });

  test("between a fence and its command: withdrawn at the next start in the same boot", async () => {
    using field = new Field();
    const a = new TestNode(field, "a");
    a.during.set("quick", () => {
      if (a.state === "launching") a.kill();
    });
    await at(field, "a", "launching", a);
    await field.clock.advance(1);
    expect(await line(field)).toEqual(["a!"]);
    const again = a.again(field);
    again.start();
    await field.clock.until("withdrawn", () => again.states.includes("steady"));
    expect(again.states).toEqual(["starting", "withdrawing", "leaving", "steady"]);
    expect(again.launched).toEqual([]);
    expect(await line(field)).toEqual([]);
  });

  test("while the command runs: the next start waits out the grace, and ends the command", async () => {
    using field = new Field();
    const a = await at(field, "a", "rebooting");
    a.kill();
    const again = a.again(field);
    again.start();
    await field.clock.advance(20_000);
    expect(again.state).toBe("aftermath");
    expect(again.ended).toContain(a.launched[0] ?? "");
    expect(await line(field)).toEqual(["a!"]);
    await field.clock.until("given up", () => again.disk.turn?.state === "closed");
    expect(again.launched).toEqual([]);
  });

  test("with a fence under way: the lease goes first, and what lands before that is found", async () => {
    for (const landed of [true, false]) {
      using field = new Field();
      const a = new TestNode(field, "a");
      a.line.next("turn.fence", "late");
      a.line.next("turn.settle", away());
      await at(field, "a", "settling", a);
      a.kill();
      if (landed) await a.line.deliver();
      const again = a.again(field);
      again.start();
      await field.clock.until("steady", () => again.states.includes("steady"));
      expect(again.states.includes("withdrawing")).toBe(landed);
      expect(again.launched).toEqual([]);
      expect(again.disk.turn?.state).toBe("closed");
      for (const answer of await a.line.deliver()) expect(answer.succeeded).toBe(false);
      expect(await line(field)).toEqual([]);
    }
  });
});

describe("a turn that somebody else has ended", () => {
  async function releaseAll(field: Field) {
    for (const shown of await showLine(field.store, field.space))
      await release(field.store, field.space, shown, { who: "op", why: "w", at: 0, force: true });
  }

  test("while it was down: health first, and it counts as down until then", async () => {
    using field = new Field();
    const a = await at(field, "a", "rebooting");
    a.kill();
    await field.clock.advance(61_000);
    await releaseAll(field);
    const back = reboot(field, a);
    back.healthy = false;
    back.wants = true;
    back.start();
    await field.clock.advance(120_000);
    expect(back.states).toEqual(["starting", "recovering"]);
    expect(await line(field)).toEqual([]);
    expect(await field.json(`${field.space.health}a`)).toMatchObject({ healthy: false, stage: "turn" });
    back.wants = false;
    back.healthy = true;
    await field.clock.until("verified", () => back.outcome === "verified");
    await field.clock.advance(1_000);
    expect(await field.json(`${field.space.health}a`)).toMatchObject({ healthy: true });
  });

  test("while its command ran in the same boot: as if it still had it, and no queueing", async () => {
    using field = new Field();
    const a = await at(field, "a", "rebooting");
    a.kill();
    await field.clock.advance(61_000);
    await releaseAll(field);
    const again = a.again(field);
    again.wants = true;
    again.down = "a job";
    again.start();
    await field.clock.advance(120_000);
    expect(again.states).toEqual(["starting", "aftermath"]);
    expect(await line(field)).toEqual([]);
    again.down = undefined;
    await field.clock.until("steady", () => again.states.includes("steady"));
    expect(again.disk.turn).toMatchObject({ state: "closed", failures: 1 });
  });

  test("by a takeover, and the machine never was away: once it is well it is no ghost any more", async () => {
    using field = new Field();
    const a = await at(field, "a", "rebooting");
    a.kill();
    const b = await at(field, "b", "rebooting", new TestNode(field, "b", { settings: { maxHoldMs: 300_000 } }));
    b.kill();
    expect(await field.get(`${field.space.ghosts}m-a`)).toBeDefined();
    const again = a.again(field);
    again.healthy = false;
    again.start();
    await field.clock.advance(120_000);
    expect(await field.get(`${field.space.ghosts}m-a`)).toBeDefined();
    again.healthy = true;
    await field.clock.until(
      "no ghost",
      () => again.states.includes("steady") && again.line.sent.some(({ label }) => label === "turn.lay-ghost"),
    );
    await field.clock.advance(1);
    expect(await field.get(`${field.space.ghosts}m-a`)).toBeUndefined();
  });
});

describe("trouble", () => {
  test("the store away at the start and for an hour: it waits, says so, and never reboots without it", async () => {
    using field = new Field();
    const a = new TestNode(field, "a");
    a.line.next("turn.survey", ...Array.from({ length: 400 }, away));
    a.wants = true;
    a.start();
    await field.clock.advance(1_200_000);
    expect(a.states).toEqual(["starting"]);
    expect(a.logs.filter((entry) => entry.startsWith("warn retry")).length).toBeLessThan(12);
    await field.clock.until("a goes", () => a.launched.length > 0, 7_200_000);
    expect(a.logs.some((entry) => entry.startsWith("info recovered"))).toBe(true);
  });

  test("turn.json cannot be written: no fence, and after its deadline the others go on", async () => {
    using field = new Field();
    const a = await at(field, "a", "waiting");
    a.diskFault = new Fault("memory.unwritable", "cannot write turn.json: no space left on device");
    const b = await at(field, "b", "waiting");
    await field.clock.until("b goes", () => b.launched.length > 0, 600_000);
    expect(a.launched).toEqual([]);
    expect(a.line.sent.some(({ label }) => label === "turn.fence")).toBe(false);
  });

  test("turn.json cannot be written after a verified turn: it ends once, with one cooldown, and the others go on", async () => {
    using field = new Field();
    const settings = { cooldownSec: 60 };
    const a = await at(field, "a", "rebooting", new TestNode(field, "a", { settings }));
    a.kill();
    await field.clock.advance(61_000);
    for (const shown of await showLine(field.store, field.space))
      await release(field.store, field.space, shown, { who: "op", why: "w", at: 0, force: true });
    const back = reboot(field, a);
    back.start();
    await field.clock.until("recovering", () => back.states.includes("recovering"));
    back.diskFault = new Fault("memory.unwritable", "cannot write turn.json");
    await field.clock.advance(120_000);
    expect(back.state).toBe("finishing");
    expect(await field.below(field.space.cooldown)).toEqual([]);
    back.diskFault = undefined;
    await field.clock.until("verified", () => back.outcome === "verified");
    expect(back.line.sent.filter(({ label }) => label === "turn.end")).toHaveLength(1);
  });

  test("the lease of the place is lost while a script runs: queue again, at the end", async () => {
    using field = new Field();
    const a = new TestNode(field, "a");
    let first = true;
    a.during.set("health", async () => {
      if (a.state !== "checking" || !first) return;
      first = false;
      for (const { contender } of await showLine(field.store, field.space)) await field.revoke(contender.lease);
      await field.clock.sleep(30_000);
    });
    await at(field, "a", "rebooting", a);
    expect(a.states.filter((state) => state === "joining")).toHaveLength(2);
    expect(await line(field)).toEqual(["a!"]);
  });

  test("a name that another machine uses: refused, out of the line, and taken up again when the name is free", async () => {
    using field = new Field();
    await at(field, "x", "rebooting");
    const a = await at(field, "a", "waiting");
    await field.put(`${field.space.health}a`, JSON.stringify({ node: "a", machine: "m-twin", healthy: true }));
    await field.put(`${field.space.roster}a`, JSON.stringify({ node: "a", machine: "m-twin", group: "/rota/lock" }));
    a.healthy = false;
    await field.clock.until("refused", () => a.states.includes("refused"));
    expect(a.outcome).toBe("name_taken");
    await field.clock.advance(1_000);
    expect(await line(field)).toEqual(["x!"]);
    a.healthy = true;
    await field.delete(`${field.space.health}a`);
    await field.delete(`${field.space.roster}a`);
    await field.clock.until("in line again", () => a.state === "waiting");
  });

  test("a clone with the same machine id and another name: refused", async () => {
    using field = new Field();
    await at(field, "a", "rebooting");
    const clone = new TestNode(field, "clone", { self: { machine: "m-a" } });
    clone.start();
    await field.clock.until("refused", () => clone.states.includes("refused"));
    expect(clone.notices.at(-1)?.why).toContain("a has the same machine id as this machine");
    await field.clock.advance(15_000);
    expect(await line(field)).toEqual(["a!"]);
  });

  test("a bug ends the daemon instead of being tried again", async () => {
    using field = new Field();
    const a = new TestNode(field, "a");
    a.during.set("detect", () => {
      throw new TypeError("undefined is not a function");
    });
    const { over } = a.start();
    await field.clock.advance(1_000);
    await expect(over).rejects.toThrow("undefined is not a function");
  });
});

describe("a store that went back in time", () => {
  test("everything is stopped, once, until an operator says resume", async () => {
    using field = new Field();
    const a = new TestNode(field, "a");
    a.disk = { seen: { storeId: field.engine.clusterId, revision: "999999" } };
    a.wants = true;
    a.start();
    await field.clock.advance(120_000);
    expect(a.states.slice(0, 3)).toEqual(["starting", "halting", "starting"]);
    expect(await field.json(field.space.stops[0])).toMatchObject({ who: "a (rota)" });
    expect(a.launched).toEqual([]);
    expect(a.outcome).toBe("stopped");
    expect(a.logs.some((entry) => entry.startsWith("error store_restored"))).toBe(true);
    await clearStop(field.store, field.space, { label: "x" }, true);
    await field.clock.until("a goes", () => a.launched.length > 0);
  });
});

describe("lock_key was changed", () => {
  const other = keyspace("/rota/other");

  test("while the machine was down: the old turn is ended where it stands", async () => {
    using field = new Field();
    const a = await at(field, "a", "rebooting");
    a.kill();
    const back = a.again(field, { space: other, self: { bootId: "boot-a-2" } });
    back.start();
    await field.clock.until("verified", () => back.outcome === "verified");
    expect(await line(field)).toEqual([]);
  });

  test("while the command ran: the old turn is withdrawn, and nothing is queued beside it before", async () => {
    using field = new Field();
    const a = await at(field, "a", "rebooting");
    a.kill();
    const again = a.again(field, { space: other });
    again.wants = true;
    again.start();
    await field.clock.advance(20_000);
    expect(await field.below(other.line)).toEqual([]);
    await field.clock.until("given up", () => again.disk.turn?.state === "closed");
    await field.clock.advance(1_000);
    expect(await line(field)).toEqual([]);
  });

  test("between fence and command: the old turn is withdrawn", async () => {
    using field = new Field();
    const a = new TestNode(field, "a");
    a.during.set("quick", () => {
      if (a.state === "launching") a.kill();
    });
    await at(field, "a", "launching", a);
    const again = a.again(field, { space: other });
    again.start();
    await field.clock.until("steady", () => again.states.includes("steady"));
    expect(await line(field)).toEqual([]);
  });
});

describe("SIGTERM", () => {
  test.each(MOMENTS)("%s: out of the line at once", async (_, moment) => {
    using field = new Field();
    const a = new TestNode(field, "a");
    moment(a, () => a.stop());
    a.wants = true;
    const { over } = a.start();
    let done = false;
    void over.then(() => {
      done = true;
    });
    await field.clock.until("ended", () => done, 11_000);
    expect(await line(field)).toEqual([]);
    expect(a.launched).toEqual([]);
    expect(await field.below(field.space.alive)).toEqual([]);
    expect(a.disk.turn?.state ?? "closed").toBe("closed");
  });

  test("while it waits behind another: out of the line at once", async () => {
    using field = new Field();
    await at(field, "x", "rebooting");
    const a = await at(field, "a", "waiting");
    expect(await line(field)).toEqual(["x!", "a"]);
    a.stop();
    await field.clock.advance(1_000);
    expect(await line(field)).toEqual(["x!"]);
  });

  test("while the fence is on its way: its answer is waited for, and a yes is given back", async () => {
    using field = new Field();
    const a = new TestNode(field, "a");
    a.line.before.set("turn.fence", () => a.stop());
    await at(field, "a", "fencing", a);
    await field.clock.advance(11_000);
    expect(a.launched).toEqual([]);
    expect(await line(field)).toEqual([]);
    expect(a.disk.turn?.state).toBe("closed");
  });

  test("while the fence is on its way and its answer is lost: settled, then given back", async () => {
    using field = new Field();
    const a = new TestNode(field, "a");
    a.line.before.set("turn.fence", () => a.stop());
    a.line.next("turn.fence", "answer lost");
    await at(field, "a", "fencing", a);
    await field.clock.advance(11_000);
    expect(a.launched).toEqual([]);
    expect(await line(field)).toEqual([]);
  });

  test("between the marker and the command: no command", async () => {
    using field = new Field();
    const a = new TestNode(field, "a");
    a.during.set("saveTurn", () => a.state === "launching" && a.stop());
    await at(field, "a", "launching", a);
    await field.clock.advance(11_000);
    expect(a.launched).toEqual([]);
    expect(await line(field)).toEqual([]);
    expect(a.disk.turn?.state).toBe("closed");
  });

  test.each(["rebooting", "aftermath", "recovering"])("in %s: the turn is kept", async (state) => {
    using field = new Field();
    let a = await at(field, "a", "rebooting");
    if (state === "aftermath") {
      a.down = "a job";
      a.finish({ ok: false, why: "exit 1" });
    }
    if (state === "recovering") {
      a = reboot(field, a);
      a.healthy = false;
      a.start();
    }
    await field.clock.until(state, () => a.state === state);
    a.stop();
    await field.clock.advance(60_000);
    expect(await line(field)).toEqual(["a!"]);
  });

  test("with the store away: given up after a while, and the next start finds what is left", async () => {
    using field = new Field();
    const a = new TestNode(field, "a");
    a.during.set("quick", () => {
      if (a.state !== "launching") return;
      a.line.next("turn.withdraw", ...Array.from({ length: 500 }, away));
      a.stop();
    });
    a.wants = true;
    const { over } = a.start();
    await field.clock.until("stopped", () => a.logs.some((entry) => entry.startsWith("warn left_unfinished")));
    await over;
    expect(await line(field)).toEqual(["a!"]);
    const again = a.again(field);
    again.start();
    await field.clock.until("withdrawn", () => again.states.includes("steady"));
    expect(await line(field)).toEqual([]);
  });
});

describe("a single pass, and a dry run", () => {
  const once = (field: Field, name: string) => new TestNode(field, name, { rules: { mode: "once" } });
  const pass = async (field: Field, node: TestNode) => {
    const { over } = node.start();
    let done = false;
    const end = () => {
      done = true;
    };
    over.then(end, end);
    await field.clock.until("the pass is over", () => done);
    return await over;
  };

  test.each([
    ["nothing wanted", (_: TestNode): void => undefined, "no_action"],
    [
      "wanted",
      (node: TestNode) => {
        node.wants = true;
      },
      "ready",
    ],
    [
      "kill switch",
      (node: TestNode) => {
        node.wants = node.killSwitch = true;
      },
      "kill_switch_active",
    ],
    [
      "sick",
      (node: TestNode) => {
        node.wants = true;
        node.healthy = false;
      },
      "health_blocked",
    ],
    [
      "a detector fails",
      (node: TestNode) => {
        node.detectorErrors = ["d: timeout"];
      },
      "detector_error",
    ],
  ] as const)("%s", async (_, change, outcome) => {
    using field = new Field();
    const a = once(field, "a");
    change(a);
    expect(await pass(field, a)).toBe(outcome);
    // Nobody who runs a single pass waits for the next one.
    expect(field.clock.monotonic()).toBeLessThan(2_000);
    expect(a.launched).toEqual([]);
    expect(await line(field)).toEqual([]);
  });

  test("somebody else has the turn: it does not wait", async () => {
    using field = new Field();
    await at(field, "x", "rebooting");
    const a = once(field, "a");
    a.wants = true;
    expect(await pass(field, a)).toBe("lock_unavailable");
    expect(await line(field)).toEqual(["x!"]);
  });

  test("the store away ends it with that fault", async () => {
    using field = new Field();
    const a = once(field, "a");
    a.line.next("turn.survey", away());
    await expect(pass(field, a)).rejects.toMatchObject({ kind: "store.away" });
  });

  test("a dry run comes to ready, again and again, and takes nothing", async () => {
    using field = new Field();
    const a = new TestNode(field, "a", { rules: { mode: "dry" } });
    await at(field, "a", "leaving", a);
    await field.clock.advance(60_000);
    expect(a.notices.map(({ outcome }) => outcome)).toContain("ready");
    expect(a.launched).toEqual([]);
    expect(a.disk.turn).toBeUndefined();
  });

  test("a dry run still proves a machine that came back: it must not be kept in its turn", async () => {
    using field = new Field();
    const a = await at(field, "a", "rebooting");
    a.kill();
    const back = a.again(field, { rules: { mode: "dry" }, self: { bootId: "boot-a-2" } });
    back.start();
    await field.clock.until("verified", () => back.outcome === "verified");
    expect(await line(field)).toEqual([]);
  });
});
