/** A machine's way to the simulated store: delays, lost requests and answers, partitions that deliver late, a store that is away. */
import { Fault } from "../../src/kernel/errors.ts";
import type { EmbeddedEngine } from "../../src/store/embedded.ts";
import { embeddedStore } from "../../src/store/embedded-store.ts";
import type { Call, Store, Txn, TxnResult, WatchItem, WatchOptions } from "../../src/store/store.ts";
import { add64 } from "../../src/store/store.ts";
import type { Life } from "./host.ts";
import { beforeOf } from "./oracle.ts";
import type { World } from "./world.ts";

/** The deadline of a call, ms, as the real client has it. */
const DEADLINE_MS = 5_000;

const away = (why: string) => new Fault("store.away", why, { retry: "later" });
const unknown = (why: string) => new Fault("store.unknown", why, { retry: "later" });

export function simStore(world: World, life: Life): Store {
  const { machine } = life;
  const chance = world.chance;

  /** Sends one request. `work` is carried out at the store when, and if, the request gets there. */
  function send<T>(call: Call, write: boolean, work: (engine: EmbeddedEngine) => Promise<T>): Promise<T> {
    if (!life.strike(call.label)) return new Promise(() => undefined);
    return new Promise<T>((resolve, reject) => {
      let open = true;
      const settle = (act: () => void) => {
        if (!open) return;
        open = false;
        call.signal?.removeEventListener("abort", aborted);
        if (life.strike(`answer to ${call.label}`)) act();
      };
      const aborted = () => settle(() => reject(write ? unknown(`${call.label} was cut short`) : call.signal?.reason));
      if (call.signal?.aborted) return aborted();
      call.signal?.addEventListener("abort", aborted, { once: true });
      life.later(call.timeoutMs ?? DEADLINE_MS, () =>
        settle(() => reject((write ? unknown : away)(`${call.label}: no answer in time`))),
      );
      const answer = (act: () => void) => {
        if (world.isCut(machine, "in") || chance.hit(world.rate("loss"))) {
          if (write) world.tell(`net: the answer to ${machine.name}'s ${call.label} is lost`);
          return;
        }
        world.scheduler.in(chance.between(0.3, 8), () => life.run(() => settle(act)));
      };
      const arrive = () => {
        const { engine } = world;
        if (world.storeDown) return answer(() => reject(away("connection refused")));
        // The answer of the embedded store is there within the microtasks of this event.
        work(engine).then(
          (value) => answer(() => resolve(value)),
          (error: unknown) => answer(() => reject(error)),
        );
      };
      const travel = () => {
        if (!world.isCut(machine, "out")) return arrive();
        if (!write || chance.hit(0.4)) return;
        world.tell(`net: ${machine.name}'s ${call.label} is held up by the partition`);
        machine.held.push(arrive);
      };
      const late = write && chance.hit(world.rate("late")) ? chance.between(100, 30_000) : 0;
      if (late > DEADLINE_MS) world.tell(`net: ${machine.name}'s ${call.label} is ${Math.round(late)} ms late`);
      world.scheduler.in(chance.between(0.3, 8) + late, travel);
    });
  }

  async function txn(engine: EmbeddedEngine, call: Call, request: Txn): Promise<TxnResult> {
    const before = beforeOf(world, request);
    const answer = await embeddedStore(engine).txn({ label: call.label }, request);
    if (answer.succeeded && before) world.oracle.applied(machine, call.label, request, before);
    return answer;
  }

  async function* watch(call: Call, options: WatchOptions): AsyncGenerator<WatchItem> {
    let from = options.from;
    const signal = call.signal ?? new AbortController().signal;
    const over = () => signal.aborted || !life.alive;
    while (!over()) {
      while (!over() && (world.isCut(machine, "out") || world.storeDown)) await life.pause(500, signal);
      const inner = new AbortController();
      const stop = () => inner.abort();
      signal.addEventListener("abort", stop, { once: true });
      try {
        for await (const item of embeddedStore(world.engine).watch(
          { label: call.label, signal: inner.signal },
          { ...options, from },
        )) {
          await life.pause(chance.between(0.3, 8), signal);
          while (!over() && world.isCut(machine, "in")) await life.pause(500, signal);
          if (over()) return;
          yield item;
          if (item.kind === "lost") return;
          if (item.kind === "events") from = add64(item.revision, 1);
        }
      } catch (error) {
        if (!(error instanceof Fault)) throw error;
      } finally {
        signal.removeEventListener("abort", stop);
        inner.abort();
      }
      if (!over()) await life.pause(200, signal);
    }
  }

  return {
    range: (call, key, rangeEnd) =>
      send(call, false, (engine) => embeddedStore(engine).range({ label: call.label }, key, rangeEnd)),
    txn: (call, request) => send(call, writes(request), (engine) => txn(engine, call, request)),
    grant: (call, ttlSec) => send(call, true, (engine) => embeddedStore(engine).grant({ label: call.label }, ttlSec)),
    keepAlive: (call, lease) =>
      send(call, false, (engine) => embeddedStore(engine).keepAlive({ label: call.label }, lease)),
    revoke: (call, lease) => send(call, true, (engine) => embeddedStore(engine).revoke({ label: call.label }, lease)),
    watch,
    close: async () => undefined,
  };
}

function writes(txn: Txn): boolean {
  return [...(txn.then ?? []), ...(txn.else ?? [])].some((op) => !("get" in op));
}
