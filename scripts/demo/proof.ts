/** The proof, from what is on record: when was each machine in its turn, by its own log and by the store's history, and do any two overlap? */
import { compare64, type WatchEvent } from "../../src/store/store.ts";
import { readContender } from "../../src/turn/keys.ts";
import { readHealthRecord } from "../../src/turn/roster.ts";
import { type LogLine, SPACE } from "./story.ts";

export interface Witness {
  readonly name: string;
  readonly log: readonly LogLine[];
}

/** One turn, as both witnesses have it. */
export interface Turn {
  readonly node: string;
  readonly boots: readonly [before: string, after: string];
  /** ms since 1970: just before the reboot command was started, and when the health script had said yes. */
  readonly started: number;
  readonly verified: number;
  /** The store's revisions: the turn was made permanent, and was given up. */
  readonly fenced: string;
  readonly ended: string;
}

export interface Proof {
  /** In the order in which they were taken. */
  readonly turns: readonly Turn[];
  /** What speaks against "one at a time, each verified before the next". Empty: proven. */
  readonly faults: readonly string[];
  /** The shortest time between one machine verified and the next command started, ms. */
  readonly leastPause: number;
}

/** Judges the whole demo. */
export function prove(witnesses: readonly Witness[], history: readonly WatchEvent[]): Proof {
  const faults: string[] = [];
  const turns: Turn[] = [];
  for (const { name, log } of witnesses) {
    const own = fromLog(log);
    const stored = fromStore(name, history);
    for (const fault of [own, stored]) if (typeof fault === "string") faults.push(`${name}: ${fault}`);
    if (typeof own !== "string" && typeof stored !== "string") turns.push({ node: name, ...own, ...stored });
  }
  turns.sort((a, b) => compare64(a.fenced, b.fenced));
  for (const [i, next] of turns.entries())
    for (const before of turns.slice(0, i)) faults.push(...overlaps(before, next));
  const pauses = turns.slice(1).map((turn, i) => turn.started - (turns[i]?.verified ?? 0));
  return { turns, faults, leastPause: Math.min(...pauses) };
}

/** What speaks for both having been in their turn at once; `next` has taken its turn later. */
function overlaps(before: Turn, next: Turn): string[] {
  const faults: string[] = [];
  if (compare64(before.ended, next.fenced) >= 0)
    faults.push(
      `in the store, ${next.node} took its turn at revision ${next.fenced}, but that of ${before.node} ended at ${before.ended} only`,
    );
  if (before.verified >= next.started)
    faults.push(
      `by their logs, ${next.node} started its reboot command ${before.verified - next.started} ms before ${before.node} was verified`,
    );
  return faults;
}

/** Two boots, one command in between, and health proven in the second; or what is wrong with that. */
function fromLog(log: readonly LogLine[]): Pick<Turn, "boots" | "started" | "verified"> | string {
  const of = (event: string, field: string, value?: string) =>
    log.filter((line) => line.event === event && (value === undefined || line.fields[field] === value));
  const boots = of("started", "boot_id").map((line) => String(line.fields["boot_id"]));
  const [before, after] = boots;
  if (before === undefined || after === undefined || boots.length > 2 || before === after)
    return `its log tells of the boots ${boots.join(", ") || "(none)"}, and there should be two`;
  const launches = of("state", "to", "launching");
  const [launch] = launches;
  const [proven] = of("state", "to", "finishing");
  if (launch === undefined || launches.length > 1) return `its log tells of ${launches.length} reboot commands`;
  if (proven === undefined || of("run_outcome", "status", "verified").length !== 1)
    return "its log does not say once that it was verified";
  return { boots: [before, after], started: Date.parse(launch.ts), verified: Date.parse(proven.ts) };
}

/** One permanent key, deleted in the transaction that calls its machine healthy; or what is wrong with that. */
function fromStore(name: string, history: readonly WatchEvent[]): Pick<Turn, "fenced" | "ended"> | string {
  const fences = history.filter(({ type, kv }) => {
    if (type !== "put" || !kv.key.startsWith(SPACE.line)) return false;
    const contender = readContender(SPACE, kv);
    return contender?.permanent && contender.value?.node === name;
  });
  const [fence] = fences;
  if (fence === undefined || fences.length > 1) return `the store's history tells of ${fences.length} turns`;
  const fenced = fence.kv.modRevision;
  const end = history.find(
    ({ type, kv }) => type === "delete" && kv.key === fence.kv.key && compare64(kv.modRevision, fenced) > 0,
  );
  if (end === undefined) return "the store's history does not tell of the end of its turn";
  const ended = end.kv.modRevision;
  const health = history.find(({ kv }) => kv.modRevision === ended && kv.key === SPACE.health + name);
  if (!(health && readHealthRecord(health.kv.value)?.healthy))
    return `its turn ended at revision ${ended} without the store calling it healthy`;
  return { fenced, ended };
}
