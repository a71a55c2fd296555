/** One contender in a process of its own, by the code the daemon has for it: `bun bench/parts/waiter.ts ENDPOINT LOCK_KEY NAME`. */
import { writeSync } from "node:fs";
import { isoTime, realClock } from "../../src/kernel/clock.ts";
import { openEtcd } from "../../src/store/etcd.ts";
import type { TurnContext } from "../../src/turn/context.ts";
import { keyspace } from "../../src/turn/keys.ts";
import { LeaseKeeper } from "../../src/turn/live.ts";
import { enter, LineWatch, writeOwned } from "../../src/turn/queue.ts";

const [endpoint = "", lockKey = "", node = ""] = process.argv.slice(2);
/** As the daemon's defaults. */
const TTL_SEC = 90;
const RELIST_MS = 30_000;

const clock = realClock();
const store = openEtcd({ endpoints: [endpoint] }, { clock, log: () => undefined });
const self = { node, machine: `bench-${node}`, bootId: "bench", pid: process.pid, slots: 1 };
const ctx: TurnContext = { store, space: keyspace(lockKey), clock, self };
const lease = await store.grant({ label: "turn.lease" }, TTL_SEC);
const keeper = new LeaseKeeper(ctx, lease, TTL_SEC, "turn.keep");
const place = await enter(ctx, { turnId: clock.uuid(), reason: "bench", queuedAt: isoTime(clock.now()) }, lease);
writeSync(1, `key ${place.key}\n`);
const watch = new LineWatch(ctx, place);
// Stands for the half minute after which a waiter reads the line again by itself.
let again = new AbortController();
process.on("SIGUSR2", () => again.abort());
for (let waitMs = 0; ; ) {
  try {
    const { position } = await watch.next(waitMs, AbortSignal.any([keeper.dead, again.signal]));
    if (position === undefined) throw new Error("the key of this waiter is gone");
    if (position.owns) break;
    waitMs = RELIST_MS;
  } catch (error) {
    if (!again.signal.aborted) throw error;
    again = new AbortController();
    waitMs = 0;
  }
}
// The first use of process.stdout loads what streams are made of, which takes 5 to 10 ms and is not what is measured.
writeSync(1, "owner\n");
if (await writeOwned(ctx, place)) writeSync(1, "owned\n");
keeper.stop();
