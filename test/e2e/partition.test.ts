/** A machine behind a network that freezes both ways and delivers late, at any moment up to its fence: the built executable on a real etcd. */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { type EtcdCluster, startEtcd } from "../world/etcd.ts";
import { deadline, type Fleet, fenceWords, withFleet } from "./fleet.ts";

let etcd: EtcdCluster;
beforeAll(async () => {
  etcd = await startEtcd({ members: 3 });
}, 60_000);
afterAll(async () => await etcd.stop());

test.concurrent(
  "a machine that is cut off during post-lock health reboots when the network is back, although another has its turn",
  () =>
    withFleet(etcd.endpoints, 120_000, async (fleet) => {
      const uplink = await fleet.uplink();
      const a = fleet.add("a", { endpoints: uplink.endpoints });
      const b = fleet.add("b", { bootMs: 4_000 });
      a.flag("hold-post-lock", true);
      a.start();
      await a.asked("post-lock");
      b.start();
      await fleet.queued(b);
      await uplink.set("freeze");
      // Its health passes while it is cut off; all that is missing is the fence.
      a.flag("hold-post-lock", false);
      await b.noted("down");
      // Everything that a has sent since arrives now, while b is down.
      await uplink.set("pass");
      await b.comesTo("verified");
      await a.comesTo("verified");
      const { fenced, downs } = await fleet.verdict();
      expect(fenced).toEqual(["b", "a"]);
      expect(downs.map(({ node }) => node).toSorted()).toEqual(["a", "b"]);
    }),
  deadline(120_000),
);

/** A generator of numbers in [0, 1) that gives the same for the same seed (mulberry32). */
function chance(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Where a cut may begin: at a moment by the clock, at the request before the fence, at the fence, or at the answer to it. */
const CUTS = ["clock", "clock", "youth", "fence", "answer"] as const;

/** Cuts the first in line off at a moment of this seed's choice, and lets it back at another, with all that was sent in between. */
async function cutAt(fleet: Fleet, seed: number): Promise<void> {
  const random = chance(seed);
  const uplink = await fleet.uplink();
  // Under the lock it takes its time, so that a moment by the clock hits the script as well as the requests around it.
  const health = '[ "$RC_PHASE" != post-lock ] || sleep 0.3';
  const a = fleet.add("a", { endpoints: uplink.endpoints, health });
  const b = fleet.add("b", { health });
  const kind = CUTS[Math.floor(random() * CUTS.length)]!;
  const ms = random() * 600;
  // A short cut is over before the lease is; a long one when b has had its turn, or waits for a permanent key.
  const shortMs = random() < 0.4 ? 500 + random() * 3_000 : undefined;
  // The grant of the youth lease goes out directly before the fence.
  const words = kind === "youth" ? '"TTL":60' : fenceWords(a);
  const cut =
    kind === "clock"
      ? fleet
          .queued(a)
          .then(() => Bun.sleep(ms))
          .then(() => uplink.set("freeze"))
      : uplink.when(words, kind === "answer" ? "late" : "freeze");
  a.start();
  await fleet.queued(a);
  b.start();
  await cut;
  await (shortMs === undefined ? Promise.race([b.noted("down"), Bun.sleep(11_000)]) : Bun.sleep(shortMs));
  await uplink.set("pass");
  await Promise.all([a, b].map((machine) => machine.comesTo("verified")));
}

/** So many at a time: their daemons all start at once. */
const TOGETHER = 8;
const waiting: (() => void)[] = [];
let free = TOGETHER;

/** Does `work` when there is room for it. */
async function inTurn(work: () => Promise<void>): Promise<void> {
  if (free === 0) await new Promise<void>((resolve) => waiting.push(resolve));
  else free--;
  try {
    await work();
  } finally {
    const next = waiting.shift();
    if (next) next();
    else free++;
  }
}

const FIRST = Number(Bun.env["SEED"] ?? 1);

for (let seed = FIRST; seed < FIRST + 20; seed++)
  test.concurrent(
    `a cut at any moment up to the fence brings two down together, or one without its key: SEED=${seed}`,
    () =>
      inTurn(() =>
        withFleet(etcd.endpoints, 120_000, async (fleet) => {
          await cutAt(fleet, seed);
          const { downs } = await fleet.verdict();
          expect(downs.map(({ node }) => node).toSorted()).toEqual(["a", "b"]);
        }),
      ),
    deadline(3 * 120_000),
  );
