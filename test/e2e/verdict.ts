/**
 * The verdict on a fleet, from two witnesses that know nothing of each other: what the scripts of the machines noted, and what etcd's
 * own history says. Never more machines between the start of the reboot command and proven health than there are slots, and no command
 * without a permanent key of its own.
 */
import type { Change } from "../world/history.ts";
import type { Note } from "../world/machine.ts";

/** What the verdict asks of a machine. */
export interface Witness {
  readonly name: string;
  /** Keys of its group's line begin with it. */
  readonly line: string;
  notes(): readonly Note[];
  lineAtCommand(turnId: string): { kvs?: readonly { key: string; value: string; lease?: number }[] } | undefined;
}

/** One time down: from the start of the reboot command to the end of the first health script that passed in phase post-reboot. */
export interface Down {
  readonly node: string;
  readonly line: string;
  readonly turnId: string;
  readonly from: number;
  /** Infinity: not verified (yet). */
  readonly to: number;
  /** Somebody ended the turn before the machine had proven itself: from then on it does not count. */
  readonly excusedAt: number;
}

/** The time of one key in the line. */
interface Stay {
  readonly key: string;
  readonly create: number;
  /** The latest words in it. */
  node: string;
  turnId: string;
  permanent: boolean;
  /** Revisions at which it became permanent. */
  readonly fences: Change[];
}

export interface Verdict {
  readonly downs: readonly Down[];
  /** The nodes in the order of their fences. */
  readonly fenced: readonly string[];
  /** Everything that must not have happened, in words. Empty: all is well. */
  readonly faults: readonly string[];
}

/** Judges all groups that these machines are in. `slots`: how many of a group may be down at once. */
export function judge(machines: readonly Witness[], changes: readonly Change[], slots = 1): Verdict {
  const downs = machines.flatMap((machine) => downsOf(machine, changes));
  const lines = [...new Set(machines.map((machine) => machine.line))];
  const replays = lines.map((line) => replay(line, changes, slots));
  const faults = [
    ...replays.flatMap((each) => each.faults),
    ...machines.flatMap((machine) =>
      commandFaults(
        machine,
        replays.find((each) => each.line === machine.line),
      ),
    ),
    ...lines.flatMap((line) =>
      overlaps(
        downs.filter((down) => down.line === line),
        slots,
      ),
    ),
    ...lines.flatMap((line) => unproven(line, downs, changes)),
  ];
  return { downs, fenced: replays.flatMap((each) => each.order), faults };
}

function downsOf(machine: Witness, changes: readonly Change[]): Down[] {
  const { name, line } = machine;
  return machine.notes().flatMap((note, index, all) => {
    if (note.what !== "command") return [];
    const proof = all.slice(index).find(isProof);
    const ended = changes.find((change) => !change.deleted && change.key.endsWith(`/ended/${note.subject}`));
    const times = { from: note.at, to: proof?.at ?? Number.POSITIVE_INFINITY };
    return [{ node: name, line, turnId: note.subject, ...times, excusedAt: ended?.at ?? Number.POSITIVE_INFINITY }];
  });
}

function isProof(note: Note): boolean {
  return note.what === "health-end" && note.subject === "post-reboot" && note.value === "0";
}

interface Replay {
  readonly line: string;
  readonly stays: readonly Stay[];
  readonly order: readonly string[];
  readonly faults: readonly string[];
}

/** Goes through the line revision by revision: ranks at every fence, permanent keys at every moment. */
function replay(line: string, changes: readonly Change[], slots: number): Replay {
  const now = new Map<string, Stay>();
  const stays: Stay[] = [];
  const order: string[] = [];
  const faults: string[] = [];
  for (const change of changes) {
    if (!change.key.startsWith(line) || !/^[0-9a-f]+$/.test(change.key.slice(line.length))) continue;
    if (change.deleted) {
      now.delete(change.key);
      continue;
    }
    const value = fields(change.value);
    const stay = now.get(change.key) ?? newStay(change);
    if (!now.has(change.key)) stays.push(stay);
    now.set(change.key, stay);
    stay.node = value["node"] ?? stay.node;
    stay.turnId = value["turn_id"] ?? stay.turnId;
    const fenced = !change.leased && !stay.permanent;
    stay.permanent = !change.leased;
    if (!fenced) continue;
    stay.fences.push(change);
    order.push(stay.node);
    const ahead = [...now.values()].filter((other) => other.create < stay.create);
    const where = `at revision ${change.revision}`;
    if (ahead.length >= slots)
      faults.push(`${stay.node} was fenced ${where} behind ${ahead.map((other) => other.node || "?").join(", ")}`);
    if (value["phase"] !== "rebooting") faults.push(`${stay.node} is permanent ${where} in phase ${value["phase"]}`);
    const holders = [...now.values()].filter((other) => other.permanent);
    if (holders.length > slots)
      faults.push(`${holders.map((other) => other.node).join(" and ")} hold permanent keys together ${where}`);
  }
  return { line, stays, order, faults };
}

function newStay(change: Change): Stay {
  return { key: change.key, create: change.create, node: "", turnId: "", permanent: false, fences: [] };
}

/** Each command needs a fence of its own, made before it, and the permanent key that it found in the store when it started. */
function commandFaults(machine: Witness, line: Replay | undefined): string[] {
  const faults: string[] = [];
  const used = new Map<string, number>();
  for (const { what, subject: turnId } of machine.notes()) {
    if (what !== "command") continue;
    const fences = (line?.stays ?? []).filter((stay) => stay.turnId === turnId).flatMap((stay) => stay.fences);
    const count = (used.get(turnId) ?? 0) + 1;
    used.set(turnId, count);
    const says = `${machine.name} started its reboot command (turn ${turnId})`;
    if (fences.length < count) faults.push(`${says} ${count} times with ${fences.length} fences`);
    const found = machine.lineAtCommand(turnId);
    if (found === undefined) continue; // the store did not answer the script; the history has answered above
    const mine = (found.kvs ?? []).find((kv) => fields(base64(kv.value))["turn_id"] === turnId);
    if (mine === undefined) faults.push(`${says} while it had no key in the line`);
    else if ((mine.lease ?? 0) !== 0) faults.push(`${says} while its key still had a lease`);
  }
  return faults;
}

/** More machines down at once than there are slots. */
function overlaps(downs: readonly Down[], slots: number): string[] {
  const end = (down: Down) => Math.min(down.to, down.excusedAt);
  return downs.flatMap((down) => {
    const also = downs.filter((other) => other !== down && other.from <= down.from && down.from < end(other));
    if (also.length < slots) return [];
    return [`${[down, ...also].map((each) => each.node).join(" and ")} were down together at ${time(down.from)}`];
  });
}

/** A turn whose command ran must not end before its machine has proven itself, unless somebody ended it by name. */
function unproven(line: string, downs: readonly Down[], changes: readonly Change[]): string[] {
  const faults: string[] = [];
  const turns = new Map<string, string>();
  for (const change of changes) {
    if (!change.key.startsWith(line)) continue;
    if (!change.deleted) {
      turns.set(change.key, fields(change.value)["turn_id"] ?? "");
      continue;
    }
    const turnId = turns.get(change.key);
    const down = downs.filter((each) => each.turnId === turnId && each.from <= change.at).at(-1);
    if (down !== undefined && down.to > change.at && down.excusedAt === Number.POSITIVE_INFINITY)
      faults.push(`the turn of ${down.node} ended at ${time(change.at)}, before it had proven itself`);
  }
  return faults;
}

/** The text fields of a JSON object; none for anything else. */
function fields(text: string): Record<string, string | undefined> {
  try {
    const value: unknown = JSON.parse(text);
    if (typeof value !== "object" || value === null) return {};
    return Object.fromEntries(Object.entries(value).filter(([, field]) => typeof field === "string"));
  } catch {
    return {}; // `etcdctl lock` leaves its key empty
  }
}

function base64(text: string): string {
  return Buffer.from(text, "base64").toString("utf8");
}

function time(ms: number): string {
  return new Date(ms).toISOString().slice(11, 23);
}
