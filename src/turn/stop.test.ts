/** The stop: set once, taken back by hand or by time, and never by the next one. */
import { describe, expect, test } from "bun:test";
import { Field } from "../../test/world/engine.ts";
import { clearStop, setStop, stopGate } from "./stop.ts";

const label = { label: "stop" };
const stop = { who: "op@desk", why: "incident", now: 0, everywhere: true };

describe("a stop", () => {
  test("is set once; a second one changes nothing, and leaves no lease behind", async () => {
    using field = new Field();
    expect(await setStop(field.store, field.space, label, stop)).toBe(true);
    const first = await field.get(field.space.stops[0]);
    expect(first?.lease).toBe("0");
    expect(await setStop(field.store, field.space, label, { ...stop, why: "other", forSec: 60 })).toBe(false);
    expect(await field.get(field.space.stops[0])).toEqual(first);
    expect(field.engine.leases()).toEqual([]);
  });

  test("for a time ends by itself", async () => {
    using field = new Field();
    await setStop(field.store, field.space, label, { ...stop, forSec: 60 });
    expect(await field.json(field.space.stops[0])).toEqual({
      who: "op@desk",
      why: "incident",
      since: "1970-01-01T00:00:00.000Z",
      until: "1970-01-01T00:01:00.000Z",
    });
    await field.clock.advance(59_000);
    expect(await field.get(field.space.stops[0])).toBeDefined();
    await field.clock.advance(2_000);
    expect(await field.get(field.space.stops[0])).toBeUndefined();
  });

  test("of the group and of everybody are two", async () => {
    using field = new Field();
    await setStop(field.store, field.space, label, { ...stop, everywhere: false });
    expect(await clearStop(field.store, field.space, label, true)).toBe(false);
    expect(await field.get(field.space.stops[1])).toBeDefined();
    expect(await clearStop(field.store, field.space, label, false)).toBe(true);
    expect(await clearStop(field.store, field.space, label, false)).toBe(false);
  });

  test.each([
    ["garbage", "stop!", "stopped by ? since ?: ?"],
    ["nothing", "", "stopped by ? since ?: ?"],
    ["the wrong kinds", '{"who":1,"why":[],"since":null}', "stopped by ? since ?: ?"],
  ])("that holds %s is a stop", (_, value, why) => {
    const kv = { key: "/stop", value, createRevision: "1", modRevision: "1", version: "1", lease: "0" };
    expect(stopGate([kv])).toEqual({ name: "stop", open: false, why });
  });
});
