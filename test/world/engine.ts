/** The embedded engine on a clock that tests move by hand, and lines to it that lose, delay and remember what is sent. */
import { Database } from "bun:sqlite";
import type { Clock } from "../../src/kernel/clock.ts";
import { Fault } from "../../src/kernel/errors.ts";
import { EmbeddedEngine } from "../../src/store/embedded.ts";
import { embeddedStore } from "../../src/store/embedded-store.ts";
import type { Call, KeyValue, Store, Txn, TxnResult } from "../../src/store/store.ts";
import type { Self, TurnContext } from "../../src/turn/context.ts";
import { type Keyspace, keyspace } from "../../src/turn/keys.ts";

/** Wall clock at the beginning of a test: 2026-01-01. */
export const EPOCH = 1_767_225_600_000;

/** Everything that can go on without time going on has gone on. */
export function breath(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

/** Time that moves only when a test moves it. */
export class HandClock implements Clock {
  #ms = 0;
  #wall = 0;
  #seed = 1;
  #order = 0;
  readonly #sleepers = new Set<{ readonly at: number; readonly order: number; readonly wake: () => void }>();

  now = () => EPOCH + this.#ms + this.#wall;
  monotonic = () => this.#ms;
  boottime = () => this.#ms;
  random = () => {
    this.#seed = (this.#seed * 48271) % 2147483647;
    return this.#seed / 2147483647;
  };
  uuid = () => `turn-${++this.#order}`;

  sleep = (ms: number, signal?: AbortSignal) =>
    new Promise<void>((resolve, reject) => {
      if (signal?.aborted) return reject(signal.reason);
      const sleeper = { at: this.#ms + Math.max(ms, 0), order: ++this.#order, wake: () => resolve() };
      this.#sleepers.add(sleeper);
      signal?.addEventListener("abort", () => {
        if (this.#sleepers.delete(sleeper)) reject(signal.reason);
      });
    });

  /** The wall clock jumps. */
  jump(ms: number): void {
    this.#wall += ms;
  }

  /** Moves on by `ms`, waking sleepers on the way. */
  async advance(ms: number): Promise<void> {
    const end = this.#ms + ms;
    for (;;) {
      await breath();
      const next = this.#next();
      if (next === undefined || next.at > end) break;
      this.#wake(next);
    }
    this.#ms = end;
    await breath();
  }

  /** Moves on from sleeper to sleeper until `done`; throws, naming `what`, when that takes longer than `ms`. */
  async until(what: string, done: () => unknown, ms = 3_600_000): Promise<void> {
    const end = this.#ms + ms;
    for (;;) {
      await breath();
      if (done()) return;
      const next = this.#next();
      if (next === undefined || next.at > end) throw new Error(`never happened: ${what}`);
      this.#wake(next);
    }
  }

  #next() {
    return [...this.#sleepers].sort((a, b) => a.at - b.at || a.order - b.order)[0];
  }

  #wake(sleeper: { readonly at: number; readonly order: number; readonly wake: () => void }): void {
    this.#sleepers.delete(sleeper);
    this.#ms = Math.max(this.#ms, sleeper.at);
    sleeper.wake();
  }
}

/**
 * What becomes of a call: its request never gets there, its answer never comes back, the request is held up and gets there when the test
 * says `deliver`, or the store answers with this error. The first three are unknown outcomes for a write.
 */
export type Fate = "request lost" | "answer lost" | "late" | "as usual" | Fault;

/** A line to a store on which a test can meddle with calls by their labels. */
export class Line {
  readonly store: Store;
  /** Every transaction that was sent. */
  readonly sent: { readonly label: string; readonly txn: Txn }[] = [];
  readonly #fates = new Map<string, Fate[]>();
  readonly #held: (() => Promise<TxnResult>)[] = [];
  /** Whoever is at this end does not exist any more: nothing is sent, and nothing comes back. */
  dead = false;
  /** Called before a transaction with this label is carried out. */
  readonly before = new Map<string, () => unknown>();

  constructor(inner: Store) {
    const txn = async (call: Call, request: Txn): Promise<TxnResult> => {
      this.sent.push({ label: call.label, txn: request });
      await this.before.get(call.label)?.();
      return await this.#pass(call, () => inner.txn({ label: call.label }, request));
    };
    const meddled =
      <A extends unknown[], T>(work: (call: Call, ...rest: A) => Promise<T>) =>
      async (call: Call, ...rest: A): Promise<T> => {
        await this.before.get(call.label)?.();
        return await this.#pass(call, () => work(call, ...rest));
      };
    this.store = {
      ...inner,
      txn,
      range: meddled(inner.range),
      grant: meddled(inner.grant),
      keepAlive: meddled(inner.keepAlive),
      revoke: meddled(inner.revoke),
    };
  }

  /** The next calls with this label fare like this, one after the other. */
  next(label: string, ...fates: Fate[]): void {
    this.#fates.set(label, [...(this.#fates.get(label) ?? []), ...fates]);
  }

  /** What was held up gets there now. Resolves to the answers, which nobody waits for any more. */
  async deliver(): Promise<TxnResult[]> {
    const answers: TxnResult[] = [];
    for (const send of this.#held.splice(0)) answers.push(await send());
    return answers;
  }

  /** The last transaction with this label. */
  last(label: string): Txn {
    const found = this.sent.findLast((entry) => entry.label === label);
    if (found === undefined) throw new Error(`no ${label} was sent`);
    return found.txn;
  }

  async #pass<T>(call: Call, work: () => Promise<T>): Promise<T> {
    if (this.dead) return await new Promise<never>(() => undefined);
    const answer = await this.#fare(call, work);
    return this.dead ? await new Promise<never>(() => undefined) : answer;
  }

  async #fare<T>(call: Call, work: () => Promise<T>): Promise<T> {
    const fate = this.#fates.get(call.label)?.shift();
    if (fate === undefined || fate === "as usual") return await work();
    if (fate instanceof Fault) throw fate;
    if (fate === "answer lost") await work();
    if (fate === "late") this.#held.push(work as unknown as () => Promise<TxnResult>);
    throw new Fault("store.unknown", `${call.label}: ${fate}`, { retry: "later" });
  }
}

/** A store, its clock, and the machines that talk to it. */
export class Field {
  readonly clock = new HandClock();
  readonly space: Keyspace;
  readonly #db = new Database(":memory:");
  readonly engine: EmbeddedEngine;
  readonly store: Store;

  constructor(lockKey = "/rota/lock") {
    this.space = keyspace(lockKey);
    this.engine = new EmbeddedEngine({ db: this.#db, clock: this.clock, log: () => undefined });
    this.store = embeddedStore(this.engine);
  }

  /** A machine with a line of its own. Its machine id is "m-" and its name. */
  node(name: string, self: Partial<Self> = {}, space: Keyspace = this.space): TurnContext & { readonly line: Line } {
    const line = new Line(this.store);
    const who: Self = { node: name, machine: `m-${name}`, bootId: `boot-${name}-1`, pid: 7, slots: 1, ...self };
    return { store: line.store, line, space, clock: this.clock, self: who };
  }

  /** The key as it is now. */
  async get(key: string): Promise<KeyValue | undefined> {
    return (await this.store.range({ label: "test" }, key)).kvs[0];
  }

  /** The JSON in a key, which must be there. */
  async json(key: string): Promise<Record<string, unknown>> {
    const kv = await this.get(key);
    if (kv === undefined) throw new Error(`${key} is not there`);
    return JSON.parse(kv.value) as Record<string, unknown>;
  }

  async put(key: string, value: string, lease?: string): Promise<void> {
    await this.store.txn({ label: "test" }, { then: [{ put: key, value, ...(lease !== undefined && { lease }) }] });
  }

  async delete(key: string): Promise<void> {
    await this.store.txn({ label: "test" }, { then: [{ delete: key }] });
  }

  grant(ttlSec = 60): Promise<string> {
    return this.store.grant({ label: "test" }, ttlSec);
  }

  revoke(lease: string): Promise<void> {
    return this.store.revoke({ label: "test" }, lease);
  }

  /** All keys below a prefix, as they are now. */
  async below(prefix: string): Promise<readonly KeyValue[]> {
    return (await this.store.range({ label: "test" }, prefix, `${prefix}~~`)).kvs;
  }

  [Symbol.dispose](): void {
    this.engine.close();
    this.#db.close();
  }
}

/** The kind of the Fault that `work` rejects with. */
export async function faultOf(work: Promise<unknown>): Promise<Fault> {
  try {
    await work;
  } catch (error) {
    if (error instanceof Fault) return error;
    throw error;
  }
  throw new Error("it did not fail");
}
