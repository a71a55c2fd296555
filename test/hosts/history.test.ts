/** The witness of the other tests is held to its word: histories with planted faults, each of which it has to see. */
import { expect, test } from "bun:test";
import { type Change, overlaps, turnsIn } from "./history.ts";

const LINE = "/x/lock/";

function put(revision: number, node: string, lease: string): Change {
  const value = JSON.stringify({ node, turn_id: `turn of ${node}`, boot_id: `boot of ${node}` });
  return { revision: BigInt(revision), key: `${LINE}${node}`, value, lease };
}

function gone(revision: number, node: string): Change {
  return { revision: BigInt(revision), key: `${LINE}${node}`, lease: "0" };
}

function health(revision: number, node: string, record: object): Change {
  return { revision: BigInt(revision), key: `/x/cluster_health/${node}`, value: JSON.stringify(record), lease: "7" };
}

const WELL = { healthy: true, stage: "post-reboot" };
const turns = (changes: readonly Change[]) => turnsIn(changes, LINE, "/x");

test("a turn that begins while another is open is not missed", () => {
  const history = [put(1, "a", "5"), put(2, "a", "0"), put(3, "b", "0"), gone(4, "a"), gone(5, "b")];
  expect(overlaps(turns(history)).map(([a, b]) => [a.node, b.node])).toEqual([["a", "b"]]);
});

test("a turn that never ends is not missed", () => {
  expect(overlaps(turns([put(2, "a", "0"), put(9, "b", "0")]))).toHaveLength(1);
});

test("turns that follow each other are not taken for overlapping, not even at one revision", () => {
  expect(overlaps(turns([put(2, "a", "0"), gone(3, "a"), put(3, "b", "0"), gone(4, "b")]))).toEqual([]);
});

test("a turn ends healthy only by the transaction that says so", () => {
  const end = (...last: Change[]) => turns([put(2, "a", "0"), ...last])[0]?.end;
  expect(end(health(3, "a", WELL), gone(3, "a"))).toBe("healthy");
  expect(end(health(3, "a", WELL), gone(4, "a"))).toBe("deleted");
  expect(end(health(3, "b", WELL), gone(3, "a"))).toBe("deleted");
  expect(end(health(3, "a", { ...WELL, healthy: false }), gone(3, "a"))).toBe("deleted");
  expect(end(health(3, "a", { ...WELL, stage: "monitor" }), gone(3, "a"))).toBe("deleted");
  expect(end(health(3, "a", WELL), put(3, "a", "6"))).toBe("withdrawn");
  expect(end()).toBeUndefined();
});

test("a place in line is not taken for a turn", () => {
  expect(turns([put(1, "a", "5"), put(2, "a", "5"), gone(3, "a")])).toEqual([]);
});
