/** turn.json and store.json on a real disk: whole or not at all, whatever a crash leaves behind. */
import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { faultOf } from "../../test/world/engine.ts";
import { fileMemory } from "./memory.ts";
import type { TurnRecord } from "./ports.ts";

let dir = "";
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "rota-memory-"));
});
afterEach(() => {
  chmodSync(dir, 0o700);
  rmSync(dir, { recursive: true, force: true });
});

const record: TurnRecord = {
  schema: 1,
  state: "open",
  turnId: "t1",
  key: "/rota/lock/7f",
  lease: "127",
  create: "40",
  reason: "ein neuer Kernel, ☕",
  queuedAt: "2026-01-01T00:00:00.000Z",
  bootId: "b1",
  storeId: "s1",
  failures: 0,
};
const turnFile = () => join(dir, "turn.json");

describe("turn.json", () => {
  test("not there: nothing is known", async () => {
    expect(await fileMemory(dir).loadTurn()).toBeUndefined();
    expect(await fileMemory(join(dir, "no/such")).loadTurn()).toBeUndefined();
    expect(existsSync(join(dir, "no"))).toBe(false);
  });

  test("what is saved is what another process reads, in every state", async () => {
    const memory = fileMemory(dir);
    for (const more of [{}, { state: "launched", launchedAt: 12.5 }, { state: "closed", failures: 3 }] as const) {
      await memory.saveTurn({ ...record, ...more });
      expect(await fileMemory(dir).loadTurn()).toEqual({ ...record, ...more });
    }
  });

  test("the directory is made on the way, for its owner only; so are the files", async () => {
    const inner = join(dir, "a/b");
    await fileMemory(inner).saveTurn(record);
    expect(statSync(inner).mode & 0o777).toBe(0o700);
    expect(statSync(join(inner, "turn.json")).mode & 0o077).toBe(0);
    expect(readdirSync(inner)).toEqual(["turn.json"]);
  });

  test("what a crash in the middle of a save leaves behind changes nothing", async () => {
    const memory = fileMemory(dir);
    await memory.saveTurn(record);
    for (const rest of ["", '{"schema":1,"sta', "\0\0\0\0"]) {
      writeFileSync(`${turnFile()}.new`, rest);
      expect(await memory.loadTurn()).toEqual(record);
      await memory.saveTurn({ ...record, turnId: "t2" });
      expect(await memory.loadTurn()).toMatchObject({ turnId: "t2" });
      await memory.saveTurn(record);
    }
  });

  test("a shorter record after a longer one is whole", async () => {
    const memory = fileMemory(dir);
    await memory.saveTurn({ ...record, reason: "x".repeat(10_000) });
    await memory.saveTurn(record);
    expect(JSON.parse(readFileSync(turnFile(), "utf8"))).toEqual(record);
  });

  test.each([
    ["empty", ""],
    ["cut off", '{"schema":1,"state":"open"'],
    ["zeros", "\0".repeat(200)],
    ["another schema", JSON.stringify({ ...record, schema: 2 })],
    ["an unknown state", JSON.stringify({ ...record, state: "maybe" })],
    ["a missing field", JSON.stringify({ ...record, bootId: undefined })],
    ["a number for a text", JSON.stringify({ ...record, lease: 127 })],
    ["an array", "[]"],
  ])("%s: nothing is guessed, a person is told what to look at", async (_, text) => {
    writeFileSync(turnFile(), text);
    const fault = await faultOf(fileMemory(dir).loadTurn());
    expect(fault.kind).toBe("memory.unreadable");
    expect(fault.message).toBe(
      `${turnFile()} does not hold what Rota wrote there; look whether a reboot of this machine is under way, and remove the file if none is`,
    );
    expect(readFileSync(turnFile(), "utf8")).toBe(text);
  });

  test("what cannot be read is not the same as nothing", async () => {
    mkdirSync(turnFile());
    const fault = await faultOf(fileMemory(dir).loadTurn());
    expect(fault.kind).toBe("memory.unreadable");
    expect(fault.message).toContain("cannot read");
  });

  test("what cannot be written is a fault with the path, and the old record stays whole", async () => {
    const memory = fileMemory(dir);
    await memory.saveTurn(record);
    // A directory where the new file would have to be: works for root as well, for whom rights mean nothing.
    mkdirSync(`${turnFile()}.new`);
    const fault = await faultOf(memory.saveTurn({ ...record, state: "launched" }));
    expect(fault).toMatchObject({ kind: "memory.unwritable", retry: "later" });
    expect(fault.message).toBe(`cannot write ${turnFile()}; without it no reboot can be asked for`);
    expect(await memory.loadTurn()).toEqual(record);
  });

  test("a state_dir that is a file is a fault, both ways", async () => {
    writeFileSync(join(dir, "file"), "");
    const memory = fileMemory(join(dir, "file"));
    expect((await faultOf(memory.saveTurn(record))).kind).toBe("memory.unwritable");
    expect((await faultOf(memory.loadTurn())).kind).toBe("memory.unreadable");
  });
});

describe("store.json", () => {
  test("keeps the newest revision beside the turn", async () => {
    const memory = fileMemory(dir);
    expect(await memory.loadSeen()).toBeUndefined();
    await memory.saveSeen({ storeId: "s1", revision: "9223372036854775807" });
    await memory.saveTurn(record);
    expect(await fileMemory(dir).loadSeen()).toEqual({ storeId: "s1", revision: "9223372036854775807" });
  });

  test("garbage is a fault", async () => {
    writeFileSync(join(dir, "store.json"), '{"storeId":"s1","revision":5}');
    expect((await faultOf(fileMemory(dir).loadSeen())).kind).toBe("memory.unreadable");
  });
});
