/** The rule of the line: who stands where, and who owns a turn. PURE. */
import { compare64, type KeyValue } from "../store/store.ts";
import { type Contender, type Keyspace, readContender } from "./keys.ts";

/** All contenders of a group as of one revision, oldest first. */
export type Line = readonly Contender[];

/** The contenders among the keys that were read below the line, oldest first. */
export function readLine(space: Pick<Keyspace, "line">, kvs: readonly KeyValue[]): Line {
  return kvs
    .map((kv) => readContender(space, kv))
    .filter((contender) => contender !== undefined)
    .sort((a, b) => compare64(a.create, b.create));
}

export interface Position {
  /** Contenders ahead: 0 means first in line. */
  readonly ahead: number;
  /** Smallest number of slots that the key itself and those ahead of it were written with. */
  readonly slots: number;
  readonly owns: boolean;
  /** The keys ahead, oldest first. */
  readonly before: Line;
}

/**
 * Where `key` stands; undefined when it is not in the line. It owns when fewer keys are ahead than the smallest `slots` among
 * them and itself. A key that is foreign or unreadable allows one only. Keys ahead can only go, so owning never becomes untrue.
 */
export function position(line: Line, key: string): Position | undefined {
  const at = line.findIndex((contender) => contender.key === key);
  if (at < 0) return undefined;
  const slots = Math.min(...line.slice(0, at + 1).map((contender) => contender.value?.slots ?? 1));
  return { ahead: at, slots, owns: at < slots, before: line.slice(0, at) };
}

/** "first in line", "third in line", "12th in line". */
export function placeInWords(ahead: number): string {
  const place = ahead + 1;
  const words = ["first", "second", "third", "fourth", "fifth"];
  const tens = place % 100 >= 11 && place % 100 <= 13;
  const suffix = tens ? "th" : (["th", "st", "nd", "rd"][place % 10] ?? "th");
  return `${words[ahead] ?? place + suffix} in line`;
}
