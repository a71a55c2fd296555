/** Three real machines with systemd, a network, a real etcd: who goes down, when, and what the others do meanwhile. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { until } from "../world/wait.ts";
import * as rota from "./coordinator.ts";
import type { Host } from "./host.ts";
import * as proof from "./proof.ts";
import { World } from "./world.ts";

const MAKE_MS = 700_000;
const TEST_MS = 150_000;
/** Longer than any lease lives that a machine held when it went down. */
const SLOW_BOOT_MS = (rota.LOCK_TTL_SEC + 3) * 1000;

let world: World;

beforeAll(async () => {
  world = await World.make({
    hosts: ["n1", "n2", "n3"],
    lay: rota.layCoordinator,
    prepare: (host, etcd) => rota.configure(host, etcd.endpoints, rota.REBOOT),
  });
  await Promise.all(world.hosts.map((host) => host.powerOn()));
}, MAKE_MS);

afterAll(async () => await world?.close(), 60_000);

/** A test that begins with all machines up, well, and without a wish. */
function onThree(name: string, work: (mark: proof.Mark) => Promise<void>): void {
  test(
    name,
    () =>
      proof.told(world, async () => {
        for (const host of world.hosts) {
          rota.allOff(host);
          host.rebootMs = 0;
          await world.lan.cable(host.name, "up");
        }
        await work(await proof.begin(world));
      }),
    TEST_MS,
  );
}

/** The one that is in its turn, with the reboot command running. */
async function holder(not: readonly Host[] = []): Promise<Host> {
  const next = () => world.hosts.find((host) => !not.includes(host) && host.on && rota.commandRuns(host));
  const host = await until("a machine to run its reboot command", next, 40_000);
  expect(await world.inTurn(rota.LINE)).toEqual([host.name]);
  return host;
}

/** Does something to the first machine that goes down, while it is down. The answer tells which one it was. */
function atFirstDown(act: (host: Host) => void | Promise<void>): () => Host | undefined {
  let first: Host | undefined;
  for (const host of world.hosts) {
    const look = host.whileDown;
    host.whileDown = async () => {
      if (first === undefined) {
        first = host;
        await act(host);
      }
      await look?.();
    };
  }
  return () => first;
}

/** The machine that was first to go down, in its next boot. */
async function cameBack(down: () => Host | undefined, mark: proof.Mark): Promise<Host> {
  const back = () => {
    const host = down();
    return host !== undefined && proof.bootsSince(host, mark).length > 1 && host;
  };
  return await until("a machine to go down and come back", back, 40_000);
}

/** What the daemon of a host has said in its present boot. */
async function newsOf(host: Host): Promise<rota.Entry[]> {
  return (await rota.logOf(host)).filter(({ boot }) => boot === proof.bare(host.boot.id));
}

/** How often the script has refused the machine since it came back. */
async function refusals(host: Host): Promise<number> {
  return (await newsOf(host)).filter(
    ({ event, fields }) => event === "post_reboot_health" && fields["healthy"] === false,
  ).length;
}

const others = (host: Host) => world.hosts.filter((other) => other !== host);
const wantAll = () => {
  for (const host of world.hosts) rota.wantReboot(host);
};

/** None of these has gone down since the test began. */
function stillUp(hosts: readonly Host[], mark: proof.Mark): void {
  for (const host of hosts)
    expect([host.name, proof.bootsSince(host, mark).length, host.on]).toEqual([host.name, 1, true]);
}

/** All three have had their reboot, in one more boot than the test began with, and the whole story is in order. */
async function allRebooted(mark: proof.Mark): Promise<Awaited<ReturnType<typeof proof.prove>>> {
  const once = () => world.hosts.every((host) => proof.bootsSince(host, mark).length > 1);
  await until("all machines to have rebooted", once, 90_000);
  await proof.calm(world);
  return await proof.prove(world, mark);
}

onThree(
  "two machines down at once, when all want to reboot and each takes longer to boot than a lease lives",
  async (mark) => {
    for (const host of world.hosts) host.rebootMs = SLOW_BOOT_MS;
    const before = world.hosts.map((host) => host.boot.id);
    wantAll();
    const turns = await allRebooted(mark);
    expect(turns.map(({ node }) => node).sort()).toEqual(["n1", "n2", "n3"]);
    expect(turns.map(({ end }) => end)).toEqual(["healthy", "healthy", "healthy"]);
    for (const [index, host] of world.hosts.entries()) {
      const boots = proof.bootsSince(host, mark);
      expect(boots.map(({ ended }) => ended?.how)).toEqual(["rebooted", undefined]);
      expect(boots.map(({ id }) => id)).toEqual([before[index]!, host.boot.id]);
      expect(turns.find(({ node }) => node === host.name)?.bootId).toBe(before[index]!);
    }
    // Each was seen down twice: when its power went off, and just before it came on again.
    expect(mark.seen).toHaveLength(6);
  },
);

onThree("a machine that comes back sick lets the next one go", async (mark) => {
  const down = atFirstDown((host) => rota.turnOn(host, "sick"));
  wantAll();
  const first = await cameBack(down, mark);
  await proof.leasesLapse(world);
  await until(`${first.name} to be found sick again and again`, async () => (await refusals(first)) >= 3);
  expect(await world.inTurn(rota.LINE)).toEqual([first.name]);
  stillUp(others(first), mark);
  const queue = await others(first)[0]!.run(["reboot-coordinator", "queue", "--json"]);
  const rows = JSON.parse(queue) as readonly { readonly node: string; readonly in_turn: boolean }[];
  expect(rows.map(({ in_turn }) => in_turn)).toEqual([true, false, false]);
  expect(rows[0]?.node).toBe(first.name);

  const healed = await world.revision();
  rota.turnOff(first, "sick");
  const turns = await allRebooted(mark);
  expect(turns.map(({ end }) => end)).toEqual(["healthy", "healthy", "healthy"]);
  expect(turns[0]?.node).toBe(first.name);
  expect(turns[0]!.to!).toBeGreaterThan(healed);
});

onThree(
  "a machine that comes back without a network lets the next one go, or one in line without a network goes",
  async (mark) => {
    const down = atFirstDown((host) => world.lan.cable(host.name, "down"));
    wantAll();
    const first = await cameBack(down, mark);
    const waits = async () => (await newsOf(first)).some(({ event }) => event === "retry");
    await until(`${first.name} to look for the store`, waits, 40_000);
    // The next in line loses its place together with its network, and nobody the turn.
    const [next, last] = proof
      .inLine(world)
      .slice(1)
      .map(({ node }) => world.host(node)) as [Host, Host];
    await world.lan.cable(next.name, "down");
    const left = () => proof.inLine(world).every(({ node }) => node !== next.name);
    await until(`${next.name} to lose its place`, left, (rota.LOCK_TTL_SEC + 10) * 1000);
    await proof.leasesLapse(world);
    expect(await world.inTurn(rota.LINE)).toEqual([first.name]);
    stillUp(others(first), mark);

    await world.lan.cable(first.name, "up");
    const gone = () => proof.turnsSince(world, mark).find(({ node }) => node === last.name)?.end === "healthy";
    await until(`${last.name} to have had its turn`, gone, 40_000);
    stillUp([next], mark);
    await world.lan.cable(next.name, "up");
    const turns = await allRebooted(mark);
    expect(turns.map(({ node, end }) => [node, end])).toEqual([first, last, next].map(({ name }) => [name, "healthy"]));
  },
);

onThree("a power cut at the fence, while going down, or while being verified lets the next one go", async (mark) => {
  await useTheLongCommand();
  for (const host of world.hosts) rota.turnOn(host, "hold-command");
  wantAll();
  const turnsOf = (host: Host) => proof.turnsSince(world, mark).filter(({ node }) => node === host.name);
  const proven = (host: Host) => until(`${host.name} to be proven`, () => turnsOf(host)[0]?.end === "healthy", 30_000);
  const cut = async (host: Host) => {
    await host.cutPower();
    await proof.leasesLapse(world);
    // etcd looks for lapsed leases now and then, so the canary may be found before a lease that is a little older.
    await until(`${host.name} to be silent`, () => proof.aliveBoot(world, host) === undefined, 5_000);
    expect(await world.inTurn(rota.LINE)).toEqual([host.name]);
  };

  const first = await holder();
  await cut(first);
  stillUp(others(first), mark);
  rota.turnOff(first, "hold-command");
  await first.powerOn();
  await proven(first);

  const second = await holder([first]);
  rota.turnOn(second, "linger");
  rota.turnOff(second, "hold-command");
  await until(`${second.name} to be going down`, () => rota.lingers(second));
  // Its own daemon sees it too, and does not give the turn up when its time for going down is over.
  const waits = async () =>
    (await rota.logOf(second)).some(({ message }) => message.includes("the system may still go down"));
  await until(`${second.name} to wait for the end of it`, waits, 20_000);
  expect(await world.inTurn(rota.LINE)).toEqual([second.name]);
  await cut(second);
  rota.turnOff(second, "linger");
  await second.powerOn();
  await proven(second);

  const third = await holder([first, second]);
  third.whileDown = async () => rota.turnOn(third, "sick");
  rota.turnOff(third, "hold-command");
  await until(
    `${third.name} to be found sick`,
    async () => third.boots.length > mark.boots.get(third)! + 1 && (await refusals(third)) > 0,
    30_000,
  );
  await cut(third);
  await third.powerOn();
  await until(`${third.name} to be found sick after the cut too`, async () => (await refusals(third)) > 0, 30_000);
  expect(await world.inTurn(rota.LINE)).toEqual([third.name]);
  rota.turnOff(third, "sick");

  const turns = await allRebooted(mark);
  expect(turns.map(({ node, end }) => [node, end])).toEqual(
    [first, second, third].map(({ name }) => [name, "healthy"]),
  );
  expect(proof.bootsSince(first, mark).map(({ ended }) => ended?.how)).toEqual(["cut", undefined]);
  expect(proof.bootsSince(second, mark).map(({ ended }) => ended?.how)).toEqual(["cut", undefined]);
  expect(proof.bootsSince(third, mark).map(({ ended }) => ended?.how)).toEqual(["rebooted", "cut", undefined]);
});

onThree(
  "a coordinator that is restarted or stopped, in line or in its turn, lets a second machine go",
  async (mark) => {
    await useTheLongCommand();
    for (const host of world.hosts) rota.turnOn(host, "hold-command");
    wantAll();
    const systemctl = (host: Host, verb: string) => host.run(["systemctl", verb, rota.UNIT]);
    const keyOf = (host: Host) => proof.inLine(world).find(({ node }) => node === host.name)?.key;

    // In line: whoever is restarted goes to the end, whoever is stopped leaves, without waiting for a lease to lapse.
    const first = await holder();
    const [second, third] = (
      await until("three in line", () => proof.inLine(world).length === 3 && proof.inLine(world))
    )
      .slice(1)
      .map(({ node }) => world.host(node)) as [Host, Host];
    const place = keyOf(second);
    await systemctl(second, "restart");
    await until(
      `${second.name} at the end of the line`,
      () => proof.inLine(world)[2]?.node === second.name && keyOf(second) !== place,
    );
    await systemctl(third, "stop");
    await until(`${third.name} out of the line`, () => keyOf(third) === undefined, 2_000);
    expect(await world.inTurn(rota.LINE)).toEqual([first.name]);
    await systemctl(third, "start");
    await until(`${third.name} in line again`, () => proof.inLine(world)[2]?.node === third.name);

    // In its turn, restarted: the turn stays until it is sure that the command does not take the machine down any more.
    const fence = proof.turnsSince(world, mark)[0]!;
    await systemctl(first, "restart");
    stillUp(world.hosts, mark);
    const next = await holder([first]);
    expect(next).toBe(second);
    const came = proof.turnsSince(world, mark)[0]!;
    expect([came.turnId, came.bootId]).toEqual([fence.turnId, first.boot.id]);
    expect(came.to!).toBeLessThanOrEqual(proof.turnsSince(world, mark)[1]!.from);
    expect((await rota.logOf(first)).map(({ message }) => message)).toContain("waiting until reboot_grace_sec is over");

    // In its turn, stopped: it keeps the turn although nothing of it is alive.
    await systemctl(second, "stop");
    await until(`${second.name} to be silent`, () => proof.aliveBoot(world, second) === undefined);
    await proof.leasesLapse(world);
    expect(await world.inTurn(rota.LINE)).toEqual([second.name]);
    stillUp(world.hosts, mark);
    for (const host of world.hosts) rota.turnOff(host, "hold-command");
    await systemctl(second, "start");

    const turns = await allRebooted(mark);
    expect(turns.slice(0, 2).map(({ node }) => node)).toEqual([first.name, second.name]);
    expect(turns.filter(({ end }) => end !== "healthy")).toEqual([]);
    expect(
      turns
        .slice(2)
        .map(({ node }) => node)
        .sort(),
    ).toEqual(["n1", "n2", "n3"]);
    for (const host of world.hosts)
      expect(proof.bootsSince(host, mark).map(({ ended }) => ended?.how)).toEqual(["rebooted", undefined]);
  },
);

/** The reboot command that a test can hold. */
async function useTheLongCommand(): Promise<void> {
  for (const host of world.hosts) {
    rota.configure(host, world.etcd.endpoints, rota.GO);
    await host.run(["systemctl", "restart", rota.UNIT]);
  }
  await proof.calm(world);
}
