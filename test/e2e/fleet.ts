/** A fleet for one test: its directory, its namespace, its machines and etcd's history of them; all of it gone when the test is over. */
import { expect } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Change, followHistory, type History } from "../world/history.ts";
import { Machine, type MachineSpec } from "../world/machine.ts";
import { startUplink, type Uplink } from "../world/uplink.ts";
import { PATIENCE_MS, until } from "../world/wait.ts";
import { executable } from "./executable.ts";
import { judge, type Verdict } from "./verdict.ts";

const LOCK_KEY = "/cluster/lock";
/** For cleaning up, after the deadline of a test's own work and before Bun's. */
const CLEANUP_MS = 20_000;

type Options = Partial<Omit<MachineSpec, "name" | "executable" | "direct" | "namespace">>;

export interface Fleet {
  readonly namespace: string;
  readonly dir: string;
  readonly history: History;
  readonly machines: readonly Machine[];
  /** Adds a machine; its daemon does not run yet. */
  add(name: string, options?: Options): Machine;
  /** The `times`-th put of a machine's key in the line, and of a permanent one. */
  queued(machine: Machine, times?: number): Promise<Change>;
  fenced(machine: Machine, times?: number): Promise<Change>;
  /** A machine's own way to the store, that can be disturbed; for `endpoints`. */
  uplink(): Promise<Uplink>;
  /** Whatever must be ended with the test. */
  defer(work: () => Promise<unknown> | unknown): void;
  /** Judges what has happened so far; fails the test when something must not have happened. */
  verdict(slots?: number): Promise<Verdict>;
}

/**
 * Gives `work` a fleet on these endpoints, ends everything that it started, and tells the whole story when it fails. Use as the body of a
 * test whose deadline is `deadline(ms)`.
 */
export async function withFleet(
  endpoints: readonly string[],
  ms: number,
  work: (fleet: Fleet) => Promise<void>,
): Promise<void> {
  const program = await executable();
  const dir = mkdtempSync(join(tmpdir(), "rota-e2e-"));
  const namespace = `/e2e/${dir.slice(-6)}`;
  const history = followHistory(endpoints, `${namespace}/`);
  const machines: Machine[] = [];
  const deferred: (() => Promise<unknown> | unknown)[] = [];
  const nth = async (what: string, times: number, wanted: (change: Change) => boolean) =>
    await until(what, () => history.changes.filter(wanted)[times - 1], PATIENCE_MS);
  const fleet: Fleet = {
    namespace,
    dir,
    history,
    machines,
    add(name, options) {
      const base = { name, executable: program, direct: endpoints, endpoints, namespace, lockKey: LOCK_KEY };
      const machine = new Machine(join(dir, name), { ...base, ...options });
      machines.push(machine);
      return machine;
    },
    queued: (machine, times = 1) => nth(`${machine.name} to be in line`, times, (change) => isPut(change, machine)),
    fenced: (machine, times = 1) =>
      nth(`${machine.name} to be fenced`, times, (change) => isPut(change, machine) && !change.leased),
    async uplink() {
      const uplink = await startUplink(endpoints);
      deferred.push(() => uplink.stop());
      return uplink;
    },
    defer: (each) => void deferred.push(each),
    async verdict(slots) {
      await history.settle();
      const found = judge(machines, history.changes, slots);
      expect(found.faults).toEqual([]);
      return found;
    },
  };
  let late: Timer | undefined;
  try {
    const over = new Promise<never>((_, reject) => {
      late = setTimeout(() => reject(new Error(`the test took longer than ${ms} ms`)), ms);
    });
    await Promise.race([work(fleet), over]);
  } catch (error) {
    console.error(story(machines, history));
    throw error;
  } finally {
    clearTimeout(late);
    const ends = [...machines.map((machine) => () => machine.close()), ...deferred.reverse(), () => history.stop()];
    const failed = (await Promise.allSettled(ends.map(async (end) => await end()))).filter(
      (end) => end.status === "rejected",
    );
    rmSync(dir, { recursive: true, force: true });
    if (failed.length > 0) console.error("cleaning up:", ...failed.map((end) => end.reason));
  }
}

function isPut({ key, deleted, value }: Change, { line, name }: Machine): boolean {
  return !deleted && key.startsWith(line) && value.includes(`"node":"${name}"`);
}

/** Stands in the fence of this machine's group as it goes over the wire, and in no other request of a daemon: the key that marks its youth. */
export function fenceWords(machine: Machine): string {
  return words(machine, "fresh");
}

/** Stands in the end of a turn, and in no other request of a daemon: the note that it may have to take away. */
export function endWords(machine: Machine): string {
  return words(machine, "ended");
}

function words({ spec: { namespace, lockKey } }: Machine, room: string): string {
  const key = `${namespace}/turns/${encodeURIComponent(lockKey.slice(1))}/${room}/`;
  // Keys travel in base64, three bytes in four characters; what is left over depends on what follows.
  return Buffer.from(key.slice(0, key.length - (key.length % 3))).toString("base64");
}

/** Bun's deadline for a test whose fleet has `ms`. */
export function deadline(ms: number): number {
  return ms + CLEANUP_MS;
}

/** Everything that was noted, logged and written, by time: for whoever has to find out why a test failed. */
function story(machines: readonly Machine[], history: History): string {
  const lines: (readonly [number, string])[] = [];
  for (const machine of machines) {
    for (const note of machine.notes())
      lines.push([note.at, `${machine.name} * ${note.what} ${note.subject} ${note.value} (${note.boot})`]);
    for (const { ts, event, message, fields } of machine.log())
      lines.push([
        Date.parse(ts),
        `${machine.name}   ${event} ${message ?? ""} ${JSON.stringify(fields).slice(0, 200)}`,
      ]);
  }
  for (const { at, revision, key, deleted, leased, value } of history.changes)
    lines.push([at, `etcd ${revision} ${deleted ? "DELETE" : leased ? "put" : "PUT"} ${key} ${value.slice(0, 120)}`]);
  return lines
    .sort(([a], [b]) => a - b)
    .slice(-400)
    .map(([at, text]) => `${new Date(at).toISOString().slice(11, 23)} ${text}`)
    .join("\n");
}
