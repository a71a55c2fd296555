/** What has to be true of a fleet whose machines went down one at a time, from four witnesses: etcd, the power switch, the journals, the store while one is down. */
import { expect } from "bun:test";
import { until } from "../world/wait.ts";
import { bootsByJournal, type Entry, LINE, LOCK_TTL_SEC, logOf, NAMESPACE } from "./coordinator.ts";
import { type Change, overlaps, type Turn, turnsIn } from "./history.ts";
import type { Boot, Host } from "./host.ts";
import type { World } from "./world.ts";

/** A machine that was down, and whom etcd held to be in a turn at that moment. */
export interface Seen {
  readonly down: string;
  readonly inTurn: readonly string[];
}

/** Where a test begins. */
export interface Mark {
  readonly revision: bigint;
  /** The boot that each host was in. */
  readonly boots: ReadonlyMap<Host, number>;
  readonly seen: Seen[];
}

interface Span {
  readonly node: string;
  readonly from: number;
  readonly to: number;
}

/** Keys of the line as they are now, oldest first. */
export function inLine(world: World): (Change & { readonly node: string; readonly permanent: boolean })[] {
  return [...world.history.now.values()]
    .filter((change) => change.key.startsWith(LINE))
    .map((change) => ({ ...change, node: nodeOf(change), permanent: change.lease === "0" }));
}

function nodeOf(change: Change): string {
  return (JSON.parse(change.value ?? "{}") as { readonly node: string }).node;
}

/** Nobody is in line, everybody is up, and says so to the others from this very boot. */
export async function calm(world: World, ms = 60_000): Promise<void> {
  const well = (host: Host) => {
    const { now } = world.history;
    const health = JSON.parse(now.get(`${NAMESPACE}/cluster_health/${host.name}`)?.value ?? "{}") as {
      healthy?: boolean;
    };
    return (
      host.on && host.boot.ended === undefined && health.healthy === true && aliveBoot(world, host) === host.boot.id
    );
  };
  const quiet = () => inLine(world).length === 0 && world.hosts.every(well);
  await until("a calm fleet: nobody in line, everybody up and well", quiet, ms);
}

/** The boot in which the daemon of a host shows itself alive. */
export function aliveBoot(world: World, host: Host): string | undefined {
  const alive = [...world.history.now.values()].find(
    (change) => change.key.includes("/alive/") && nodeOf(change) === host.name,
  );
  return alive && (JSON.parse(alive.value ?? "{}") as { readonly boot_id: string }).boot_id;
}

/** Begins a test on a calm fleet: from here on the store is asked at the beginning and at the end of every time that a machine is down. */
export async function begin(world: World): Promise<Mark> {
  await calm(world);
  const seen: Seen[] = [];
  for (const host of world.hosts)
    host.whileDown = async () => void seen.push({ down: host.name, inTurn: await world.inTurn(LINE) });
  const boots = new Map(world.hosts.map((host) => [host, host.boots.length - 1]));
  return { revision: (await world.revision()) + 1n, boots, seen };
}

/** The turns since then. */
export function turnsSince(world: World, mark: Mark): Turn[] {
  return turnsIn(world.history.since(mark.revision), LINE, NAMESPACE);
}

/** The boots of a host since then, the one it was in included. */
export function bootsSince(host: Host, mark: Mark): Boot[] {
  return host.boots.slice(mark.boots.get(host) ?? 0);
}

/** Waits for as long as a lease of the line lives that nobody keeps alive: whoever held something by a lease before has lost it. */
export async function leasesLapse(world: World): Promise<void> {
  const granted = (await world.etcd.post("/v3/lease/grant", { TTL: LOCK_TTL_SEC })) as { readonly ID: string };
  const key = `/canary/${granted.ID}`;
  await world.etcd.post("/v3/kv/put", { key: btoa(key), value: "", lease: granted.ID });
  await until("a canary", () => world.history.now.has(key));
  await until("leases to lapse", () => !world.history.now.has(key), (LOCK_TTL_SEC + 10) * 1000);
}

/** Holds everything that was seen since `mark` against "one at a time, each proven healthy before the next". Resolves to the turns. */
export async function prove(world: World, mark: Mark): Promise<Turn[]> {
  // Everything that has happened is in the history.
  const last = await world.revision();
  await until("the end of the history", () => (world.history.changes.at(-1)?.revision ?? 0n) >= last);

  // etcd: never two permanent keys, and each given up before the next one was taken.
  const turns = turnsSince(world, mark);
  expect(overlaps(turns)).toEqual([]);
  expect(turns.filter((turn) => turn.to === undefined)).toEqual([]);

  // Whenever a machine was down, etcd held exactly this one to be in its turn.
  for (const { down, inTurn } of mark.seen) expect(inTurn).toEqual([down]);

  // Every boot that ended, ended in a turn that was taken in it or in an earlier one that is not proven yet.
  for (const host of world.hosts) {
    const taken = turns.filter((turn) => turn.node === host.name).map((turn) => turn.bootId);
    for (const boot of bootsSince(host, mark).filter(({ ended }) => ended?.how === "rebooted"))
      expect(taken).toContain(boot.id);
  }

  // The power switch, and the journals: no two machines down at one time.
  expect(meeting(world.hosts.flatMap((host) => downByPower(host, mark)))).toEqual([]);
  const journals = await Promise.all(world.hosts.map((host) => downByJournal(host, mark)));
  expect(meeting(journals.flat())).toEqual([]);

  // The logs: the script passed before the next machine said that it goes down.
  await proveVerifiedBefore(world, turns);
  return turns;
}

function downByPower(host: Host, mark: Mark): Span[] {
  const boots = bootsSince(host, mark);
  return boots.slice(1).map((boot, index) => {
    const { ended } = boots[index]!;
    return { node: host.name, from: ended?.at ?? 0, to: boot.startedAt };
  });
}

async function downByJournal(host: Host, mark: Mark): Promise<Span[]> {
  const mine = bootsSince(host, mark).map(({ id }) => bare(id));
  const spans = (await bootsByJournal(host)).filter(({ boot }) => mine.includes(boot));
  spans.sort((a, b) => a.first - b.first);
  // The witness is heard only if it saw every boot.
  expect(spans.map(({ boot }) => boot)).toEqual(mine);
  return spans.slice(1).map((next, index) => ({ node: host.name, from: spans[index]!.last, to: next.first }));
}

/** Pairs of spans of different machines that touch. */
function meeting(spans: readonly Span[]): [Span, Span][] {
  return spans.flatMap((a, index) =>
    spans
      .slice(index + 1)
      .filter((b) => a.node !== b.node && a.from <= b.to && b.from <= a.to)
      .map((b): [Span, Span] => [a, b]),
  );
}

async function proveVerifiedBefore(world: World, turns: readonly Turn[]): Promise<void> {
  const logs = new Map<string, Entry[]>();
  for (const host of world.hosts) logs.set(host.name, await logOf(host));
  for (const [index, next] of turns.entries()) {
    const goes = (logs.get(next.node) ?? []).filter(
      ({ boot, event, fields }) =>
        boot === bare(next.bootId) && event === "run_outcome" && fields["status"] === "rebooting",
    );
    const at = goes.at(-1)?.at;
    if (at === undefined) throw new Error(`${next.node} never said that it goes down in boot ${next.bootId}`);
    for (const before of turns.slice(0, index)) {
      const proofs = (logs.get(before.node) ?? []).filter(
        ({ event, fields }) =>
          event === "post_reboot_health" && fields["lock_id"] === before.turnId && fields["healthy"] === true,
      );
      // A turn that came to nothing was not followed by a boot, so there is nothing to prove.
      const rebooted = turns.findLast(({ bootId }) => bootId === before.bootId) === before;
      if (!rebooted) continue;
      expect(proofs).toHaveLength(1);
      expect(proofs[0]?.boot).not.toBe(bare(before.bootId));
      expect(proofs[0]?.at).toBeLessThan(at);
    }
  }
}

/** A boot id as the journal writes it. */
export function bare(bootId: string): string {
  return bootId.replaceAll("-", "");
}

/** Runs a test; when it fails, what the machines and etcd saw is told first. */
export async function told(world: World, work: () => Promise<void>): Promise<void> {
  try {
    await work();
  } catch (error) {
    console.error(await story(world));
    throw error;
  }
}

async function story(world: World): Promise<string> {
  const lines: string[] = ["the line and the turns, by etcd:"];
  const { changes } = world.history;
  for (const { revision, key, value, lease } of changes.filter((change) => change.key.startsWith(LINE)).slice(-30)) {
    const phase = value === undefined ? "deleted" : `${value} ${lease === "0" ? "PERMANENT" : "leased"}`;
    lines.push(`  ${revision} ${key.slice(LINE.length)} ${phase}`);
  }
  for (const host of world.hosts) {
    lines.push(`${host.name}, ${host.on ? "on" : "off"}:`);
    for (const { id, startedAt, ended } of host.boots.slice(-4)) {
      const end = ended === undefined ? "now" : `${new Date(ended.at).toISOString()} ${ended.how}`;
      lines.push(`  boot ${id} from ${new Date(startedAt).toISOString()} to ${end}`);
    }
    const said = host.on ? await logOf(host).catch((error: unknown) => String(error)) : "";
    if (typeof said === "string") lines.push(`  ${said}`);
    else
      for (const { at, boot, event, message, fields } of said.slice(-25))
        lines.push(
          `  ${new Date(at / 1000).toISOString()} ${boot.slice(0, 8)} ${event} ${message} ${JSON.stringify(fields)}`,
        );
  }
  return lines.join("\n");
}
