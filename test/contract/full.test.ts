/** A real etcd whose space is used up: it refuses puts and leases, takes deletes, and so a verified turn can still be ended. */
import { expect, test } from "bun:test";
import { realClock } from "../../src/kernel/clock.ts";
import { Fault } from "../../src/kernel/errors.ts";
import { openEtcd } from "../../src/store/etcd.ts";
import { keyspace } from "../../src/turn/keys.ts";
import { endTurnWithoutRoom } from "../../src/turn/recover.ts";
import { startEtcd } from "../world/etcd.ts";

const kindOf = (work: Promise<unknown>) =>
  work.then(
    () => "done",
    (error: unknown) => (error instanceof Fault ? error.kind : String(error)),
  );

test("a verified turn is ended on a full etcd", async () => {
  const etcd = await startEtcd({ args: ["--quota-backend-bytes=262144"] });
  const clock = realClock();
  const store = openEtcd({ endpoints: etcd.endpoints }, { clock, log: () => undefined });
  try {
    const space = keyspace("/rota/lock");
    const key = space.contender("255");
    const put = await store.txn(
      { label: "put" },
      {
        then: [
          { put: key, value: "in its turn" },
          { put: `${space.health}a`, value: "down" },
        ],
      },
    );
    const filler = "x".repeat(50_000);
    let refused = "done";
    for (let i = 0; i < 100 && refused === "done"; i++)
      refused = await kindOf(store.txn({ label: "fill" }, { then: [{ put: `/filler/${i}`, value: filler }] }));
    expect(refused).toBe("store.refused.full");
    expect(await kindOf(store.grant({ label: "grant" }, 60))).toBe("store.refused.full");
    const self = { node: "a", machine: "m", bootId: "b", pid: 1, slots: 1 };
    const ctx = { store, space, clock, self };
    expect(await endTurnWithoutRoom(ctx, { key, mod: "1" }, "t")).toBe(false);
    expect(await endTurnWithoutRoom(ctx, { key, mod: put.revision }, "t")).toBe(true);
    expect((await store.range({ label: "look" }, key)).kvs).toEqual([]);
    expect((await store.range({ label: "look" }, `${space.health}a`)).kvs).toEqual([]);
  } finally {
    await store.close();
    await etcd.stop();
  }
});
