/** How long it takes from the end of one holder to the next one's turn, beside `etcdctl lock` on the same etcd in the same minute. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { realClock } from "../src/kernel/clock.ts";
import { openEtcd } from "../src/store/etcd.ts";
import { compare64, prefixEnd, type Store } from "../src/store/store.ts";
import { startEtcd } from "../test/world/etcd.ts";
import { until } from "../test/world/wait.ts";
import {
  type Contestant,
  etcdctlCommands,
  etcdctlWaiters,
  type Ground,
  type Kind,
  rotaDaemons,
  rotaWaiters,
} from "./parts/contestants.ts";
import { type Aim, type Measurement, median, type Options, quantile } from "./parts/figures.ts";

const ROUNDS = 60;
const REFERENCE = "etcdctl lock NAME CMD";
const WAITERS = [2, 50];
/** After a newcomer is in line, so that it disturbs nobody. */
const SETTLE_MS = 60;

/** One line: a holder and its waiters, all of one kind. */
class Line {
  readonly kind: Kind;
  readonly samples: number[] = [];
  /** The same, to one that had read the line since it became the next. */
  readonly relisted: number[] = [];
  readonly #store: Store;
  readonly #endpoint: string;
  readonly #waiters: number;
  readonly #members = new Set<Contestant>();
  #holder: Contestant | undefined;

  constructor(kind: Kind, store: Store, endpoint: string, waiters: number) {
    this.kind = kind;
    this.#endpoint = endpoint;
    this.#store = store;
    this.#waiters = waiters;
  }

  async fill(): Promise<void> {
    this.#join();
    this.#holder = await this.#next();
    // A few at a time: a machine with two cores cannot start fifty processes at once and still answer.
    for (let n = 1; n <= this.#waiters; n++) {
      this.#join();
      if (n % 5 === 0 || n === this.#waiters) await this.#settled(n + 1);
    }
    await this.#settled(this.#waiters + 1);
  }

  /** One hand-over: the holder's key goes, and the next says that it is its turn. Then somebody new gets in line. */
  async round(): Promise<void> {
    const [first, second] = await this.#keys();
    if (first === undefined) throw new Error(`nobody holds ${this.kind.lock}`);
    const relist = this.kind.relists && this.samples.length > this.relisted.length;
    if (relist) {
      [...this.#members].find((member) => member.key() === second)?.relist();
      await Bun.sleep(SETTLE_MS);
    }
    const before = this.#holder;
    // The head of the answer, on a connection that is open already: as near as one can stand to the moment itself.
    const answer = await fetch(`${this.#endpoint}/v3/kv/deleterange`, {
      method: "POST",
      body: JSON.stringify({ key: btoa(first) }),
    });
    const gone = performance.now();
    if (!answer.ok) throw new Error(`the key was not deleted: ${await answer.text()}`);
    await answer.text();
    const next = await this.#next();
    (relist ? this.relisted : this.samples).push((await next.owner) - gone);
    this.#holder = next;
    await before?.end();
    this.#join();
    await this.#settled(this.#waiters + 1);
  }

  async end(): Promise<void> {
    await Promise.all([...this.#members, ...(this.#holder ? [this.#holder] : [])].map((each) => each.end()));
  }

  #join(): void {
    this.#members.add(this.kind.start());
  }

  /** The first member that says that it is its turn. */
  async #next(): Promise<Contestant> {
    const late = Bun.sleep(20_000).then(() => undefined);
    const owners = [...this.#members].map(async (member) => {
      await member.owner;
      return member;
    });
    const first = await Promise.race([...owners, late]);
    if (first === undefined) throw new Error(`nobody took over: ${this.kind.label}`);
    this.#members.delete(first);
    return first;
  }

  async #keys(): Promise<string[]> {
    const prefix = `${this.kind.lock}/`;
    const { kvs } = await this.#store.range({ label: "bench.line" }, prefix, prefixEnd(prefix));
    return [...kvs].sort((a, b) => compare64(a.createRevision, b.createRevision)).map((kv) => kv.key);
  }

  async #settled(count: number): Promise<void> {
    await until(
      `${count} in line: ${this.kind.label}`,
      async () => {
        const keys = await this.#keys();
        return keys.length === count;
      },
      60_000,
    );
    await Bun.sleep(SETTLE_MS);
  }
}

/** Hand-over with few and with many waiters. */
export async function measure(options: Options): Promise<Measurement> {
  const rounds = options.rounds ?? ROUNDS;
  const folder = mkdtempSync(join(tmpdir(), "rota-bench-"));
  const etcd = await startEtcd();
  const [endpoint = ""] = etcd.endpoints;
  const store = openEtcd({ endpoints: [endpoint] }, { clock: realClock(), log: () => undefined });
  const rows: Measurement["rows"][number][] = [];
  const aims: Measurement["aims"][number][] = [];
  try {
    for (const waiters of WAITERS) {
      const ground = (name: string): Ground => ({ folder, endpoint, lock: `/bench/${waiters}/${name}` });
      const kinds = [
        etcdctlWaiters(ground("etcdctl")),
        etcdctlCommands(ground("command")),
        rotaWaiters(ground("rota")),
        rotaDaemons(ground("daemon")),
      ];
      const lines = kinds.map((kind) => new Line(kind, store, endpoint, waiters));
      try {
        options.say(`hand-over: ${waiters} waiters in each of ${lines.length} lines get in line`);
        for (const line of lines) await line.fill();
        options.say(`hand-over: ${rounds} rounds with ${waiters} waiters`);
        // In turn, so that whatever else this machine does at a moment meets all of them.
        for (let n = 0; n < rounds; n++)
          for (const line of lines) for (let twice = line.kind.relists ? 2 : 1; twice > 0; twice--) await line.round();
      } finally {
        await Promise.all(lines.map((line) => line.end()));
      }
      const figures = summary(lines, waiters);
      rows.push(...figures.rows);
      aims.push(figures.aim);
    }
  } finally {
    await store.close();
    await etcd.stop();
    rmSync(folder, { recursive: true, force: true });
  }
  return {
    name: "handover",
    title: "Hand-over: from the moment the holder's key is gone to the moment the next one goes on (ms)",
    columns: ["waiters", "samples", "median", "p90", "× CMD"],
    rows,
    aims,
    notes: [
      "One etcd member on loopback, each waiter a process of its own, one hand-over of each kind after the other.",
      "× CMD: medians, against `etcdctl lock NAME CMD`, whose CMD (`tail -f`) prints a word and stays.",
      "Listed again: as in a fleet, where a turn takes longer than the 30 s after which a waiter reads the line again. It then owns by the watch alone.",
      "The daemon's figure ends with its log line; it includes the gates that it judges before it says that it owns.",
    ],
  };
}

function summary(lines: readonly Line[], waiters: number): { rows: Measurement["rows"]; aim: Aim } {
  const reference = median(lines.find((line) => line.kind.label === REFERENCE)?.samples ?? []);
  const row = (label: string, samples: readonly number[]) => ({
    label,
    figures: [waiters, samples.length, median(samples), quantile(samples, 0.9), median(samples) / reference],
  });
  const rota = lines.find((line) => line.kind.relists);
  return {
    rows: lines.flatMap((line) =>
      line === rota
        ? [
            row("rota, the next has listed again", line.relisted),
            row("rota, the next has just become it", line.samples),
          ]
        : [row(line.kind.label, line.samples)],
    ),
    aim: {
      what: `hand-over with ${waiters} waiters`,
      value: median(rota?.relisted ?? []) / reference,
      unit: `× ${REFERENCE}`,
      most: 1.2,
    },
  };
}
