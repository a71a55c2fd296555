/** The newest revision of the store that a machine has seen, in memory and on its disk: how a restore from a backup is noticed. */
import { describe, expect, test } from "bun:test";
import { faultOf } from "../../test/world/engine.ts";
import type { Memory, SeenRecord } from "./ports.ts";
import { Seen } from "./seen.ts";

function disk(seen?: SeenRecord) {
  const writes: SeenRecord[] = [];
  let now = seen;
  const memory: Memory = {
    loadTurn: async () => undefined,
    saveTurn: async () => undefined,
    loadSeen: async () => now,
    saveSeen: async (record) => {
      now = record;
      writes.push(record);
    },
  };
  return { memory, writes };
}
const at = (revision: string, storeId = "s1") => ({ storeId, revision });

describe("observe", () => {
  test("the same and newer revisions are fine; they are compared as numbers", async () => {
    const seen = new Seen(disk().memory);
    for (const revision of ["9", "9", "10", "99", "100", "9223372036854775807"]) await seen.observe(at(revision));
    expect((await faultOf(seen.observe(at("9223372036854775806")))).kind).toBe("store.restored");
  });

  test("an older one is a restore, also when the newer was seen before the last start", async () => {
    const { memory } = disk(at("500"));
    const fault = await faultOf(new Seen(memory).observe(at("499")));
    expect(fault.kind).toBe("store.restored");
    expect(fault.message).toContain("at revision 499, but this node has seen 500: it was restored from a backup");
    await new Seen(memory).observe(at("500"));
  });

  test("another store's name is said with it", async () => {
    const fault = await faultOf(new Seen(disk(at("500")).memory).observe(at("3", "s2")));
    expect(fault.message).toContain("and it calls itself another store");
  });

  test("it is noticed again and again until it is accepted", async () => {
    const { memory, writes } = disk(at("500"));
    const seen = new Seen(memory);
    await faultOf(seen.observe(at("3")));
    await faultOf(seen.observe(at("4")));
    expect(writes).toEqual([]);
    await seen.accept(at("4"));
    await seen.observe(at("5"));
    expect(writes).toEqual([at("4")]);
    await new Seen(memory).observe(at("4"));
  });
});

test("save writes what has moved, and nothing twice", async () => {
  const { memory, writes } = disk();
  const seen = new Seen(memory);
  await seen.save();
  expect(writes).toEqual([]);
  await seen.observe(at("7"));
  await seen.save();
  await seen.save();
  await seen.observe(at("7"));
  await seen.save();
  expect(writes).toEqual([at("7")]);
  await seen.observe(at("8"));
  await seen.save();
  expect(writes).toEqual([at("7"), at("8")]);
});
