/** Who stands where in the line, whatever is written in its keys. */
import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import type { KeyValue } from "../store/store.ts";
import { keyspace, namespacePrefix, normalLockKey, readTurnValue, type TurnValue } from "./keys.ts";
import { placeInWords, position, readLine } from "./line.ts";

const space = keyspace("/rota/lock");

const value = (slots: number, more: Partial<TurnValue> = {}): string =>
  JSON.stringify({
    schema: 1,
    node: "n",
    pid: 1,
    turn_id: "t",
    machine: "m",
    boot_id: "b",
    slots,
    phase: "queued",
    reason: "r",
    queued_at: "2026-01-01T00:00:00.000Z",
    ...more,
  });

const kv = (name: string, create: number, text: string, lease = "5"): KeyValue => ({
  key: space.line + name,
  value: text,
  createRevision: String(create),
  modRevision: String(create),
  version: "1",
  lease,
});

describe("the keys of the line", () => {
  test("direct children with a hexadecimal name, oldest first by create-revision as a number", () => {
    const line = readLine(space, [
      kv("b", 100, value(1)),
      kv("a", 99, value(1)),
      kv("c", 9, value(1)),
      kv("sub/1f", 1, value(1)),
      kv("XYZ", 2, value(1)),
      kv("AB", 3, value(1)),
      kv("", 4, value(1)),
    ]);
    expect(line.map(({ key }) => key.slice(space.line.length))).toEqual(["c", "a", "b"]);
  });

  test("a key without a lease is permanent", () => {
    const line = readLine(space, [kv("a", 1, value(1), "0"), kv("b", 2, value(1), "77")]);
    expect(line.map(({ permanent }) => permanent)).toEqual([true, false]);
  });

  test.each([
    ["not JSON", "garbage"],
    ["nothing", ""],
    ["an array", "[]"],
    ["null", "null"],
    ["a later schema", value(1).replace('"schema":1', '"schema":2')],
    ["no machine", value(1).replace('"machine":"m",', "")],
    ["a machine that is no text", value(1).replace('"machine":"m"', '"machine":7')],
    ["an unknown phase", value(1).replace('"phase":"queued"', '"phase":"resting"')],
    ["no slots", value(1).replace('"slots":1,', "")],
    ["slots 0", value(0)],
    ["slots -1", value(-1)],
    ["slots 1.5", value(1.5)],
    ["slots as text", value(1).replace('"slots":1', '"slots":"9"')],
  ])("%s is a foreign value", (_, text) => {
    expect(readTurnValue(text)).toBeUndefined();
    expect(readLine(space, [kv("a", 1, text)])[0]).toMatchObject({ key: `${space.line}a` });
    expect(readLine(space, [kv("a", 1, text)])[0]?.value).toBeUndefined();
  });
});

describe("position", () => {
  const line = (...slots: (number | undefined)[]) =>
    readLine(
      space,
      slots.map((n, i) => kv((i + 10).toString(16), i + 1, n === undefined ? "foreign" : value(n))),
    );
  const owners = (...slots: (number | undefined)[]) =>
    slots.map((_, i) => position(line(...slots), `${space.line}${(i + 10).toString(16)}`)?.owns);

  test("who is not in the line has none", () => {
    expect(position(line(1), `${space.line}ff`)).toBeUndefined();
  });

  test.each([
    ["one slot: the first", [1, 1, 1], [true, false, false]],
    ["two slots: the first two", [2, 2, 2], [true, true, false]],
    ["a foreign key ahead allows one", [undefined, 2, 9], [true, false, false]],
    ["a foreign key behind changes nothing", [3, 3, undefined], [true, true, false]],
    ["my own number counts", [3, 1, 3], [true, false, false]],
    ["the smallest number ahead counts", [3, 2, 3, 3], [true, true, false, false]],
    ["more slots than contenders", [9, 9], [true, true]],
  ])("%s", (_, slots, expected) => {
    expect(owners(...slots)).toEqual(expected);
  });

  test("says how many are ahead, and who", () => {
    const at = position(line(2, 2, 3), `${space.line}c`);
    expect(at).toMatchObject({ ahead: 2, slots: 2, owns: false });
    expect(at?.before.map(({ key }) => key)).toEqual([`${space.line}a`, `${space.line}b`]);
  });

  test("owning never becomes untrue while keys ahead go and keys behind come, and never more own than any owner allows", () => {
    const slot = fc.option(fc.integer({ min: 1, max: 4 }), { nil: undefined });
    fc.assert(
      fc.property(fc.array(slot, { minLength: 1, maxLength: 8 }), fc.nat(), slot, (slots, pick, late) => {
        const before = line(...slots);
        const owns = before.filter(({ key }) => position(before, key)?.owns);
        // By the smallest number that any owner was written with.
        const least = Math.min(...owns.map(({ value: v }) => v?.slots ?? 1));
        expect(owns.length).toBeLessThanOrEqual(least);
        const gone = pick % before.length;
        const newcomer = readLine(space, [kv("fff", 999, late === undefined ? "?" : value(late))]);
        const after = [...before.filter((_, i) => i !== gone), ...newcomer];
        for (const { key } of owns) if (key !== before[gone]?.key) expect(position(after, key)?.owns).toBe(true);
      }),
    );
  });
});

test("places in words", () => {
  const words = [0, 1, 2, 3, 4, 5, 9, 10, 11, 12, 20, 21, 22, 23, 100, 110, 111];
  expect(words.map((ahead) => placeInWords(ahead).replace(" in line", ""))).toEqual(
    "first second third fourth fifth 6th 10th 11th 12th 13th 21st 22nd 23rd 24th 101st 111th 112th".split(" "),
  );
});

describe("keys", () => {
  test.each([
    ["a", "/a"],
    ["//a/b/", "/a/b"],
    [" /a ", "/a"],
  ])("lock_key %p is %p", (text, key) => {
    expect(normalLockKey(text)).toEqual({ key });
  });

  test.each(["", "/", "  ", "/a//b", "/a b", "/ä", "/nodes", "/nodes/x", "/turns", "/stop", "cluster_health/x"])(
    "lock_key %p is refused",
    (text) => {
      expect(normalLockKey(text)).toHaveProperty("problem");
    },
  );

  test("names that only begin like a reserved one are free", () => {
    expect(normalLockKey("/nodes2")).toEqual({ key: "/nodes2" });
    expect(normalLockKey("/stopper")).toEqual({ key: "/stopper" });
  });

  test("a key of the line is named by its lease in hexadecimal, as etcd's own mutex does", () => {
    expect(space.contender("7587862094081254000")).toBe(
      "/rota/lock/694d7cbf3dac5270".replace(/[^/]+$/, 7587862094081254000n.toString(16)),
    );
    expect(space.contender("255")).toBe("/rota/lock/ff");
  });

  test("one group's metadata never lies in another's ranges", () => {
    const names = ["/a", "/a/cooldown", "/a/b", "/a/ghosts/x", "/turns2", "/a%2Fb"];
    const spaces = names.map(keyspace);
    for (const one of spaces)
      for (const other of spaces) {
        if (one === other) continue;
        const keys = [other.fresh("t"), other.ended("t"), `${other.cooldown}t`, `${other.ghosts}m`, `${other.alive}m`];
        for (const key of [...keys, other.stops[1]])
          for (const [from, to] of [
            [one.cooldown, one.cooldownEnd],
            [one.ghosts, one.ghostsEnd],
            [one.alive, one.aliveEnd],
            [one.line, one.lineEnd],
          ] as const)
            expect(key >= from && key < to, `${key} in ${from}`).toBe(false);
      }
  });

  test.each([
    ["", ""],
    ["/", ""],
    ["prod", "/prod"],
    [" /a/b/ ", "/a/b"],
  ])("namespace %p is the prefix %p", (text, prefix) => {
    expect(namespacePrefix(text)).toBe(prefix);
  });
});
