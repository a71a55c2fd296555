/** Five machines take turns, live: real daemons, a real store, and a power switch. `bun scripts/demo.ts [--keep]`; see scripts/demo/. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Machine } from "./demo/machine.ts";
import { ending, eventLine, frame, type View } from "./demo/picture.ts";
import { killLeftovers } from "./demo/program.ts";
import { type Proof, prove } from "./demo/proof.ts";
import { Screen } from "./demo/screen.ts";
import { type ServedStore, serveStore } from "./demo/store.ts";
import { Story } from "./demo/story.ts";
import { Refusal, script } from "./steps.ts";

const NAMES = ["node-1", "node-2", "node-3", "node-4", "node-5"];
const SICK = { name: "node-3", ms: 5_500 };
/** The next machine starts when the one before stands in the line, so that they stand in it in their order; or after this long, ms. */
const NEXT_MS = 2_000;
const DRAW_MS = 100;
/** Longer than this is a failure, ms. */
const DEADLINE_MS = 120_000;
const SIGNALS = { SIGINT: 130, SIGTERM: 143, SIGHUP: 129 } as const;

class Demo {
  readonly #dir = mkdtempSync(join(tmpdir(), "rota-demo-"));
  readonly #began = Date.now();
  readonly #screen = new Screen(process.env);
  readonly #story: Story;
  readonly #over = new AbortController();
  readonly #failed = Promise.withResolvers<never>();
  readonly #machines: Machine[] = [];
  #store: ServedStore | undefined;

  constructor() {
    const { live, style } = this.#screen;
    const hear = live
      ? () => undefined
      : (told: Story["events"][number]) => this.#screen.print([eventLine(told, style)]);
    this.#story = new Story(NAMES, this.#began, hear);
    this.#failed.promise.catch(() => undefined);
  }

  /** The whole of it; resolves to the exit code. */
  async run(keep: boolean): Promise<number> {
    const { live } = this.#screen;
    if (!live) this.#screen.print(["rota: five machines want a reboot; they take turns", ""]);
    const drawing = setInterval(() => this.#draw(), DRAW_MS);
    try {
      this.#draw();
      await Promise.race([this.#play(), this.#failed.promise]);
      await this.#leaveToSignal();
      const proof = await Promise.race([this.#prove(), this.#failed.promise]);
      await this.#leaveToSignal();
      clearInterval(drawing);
      this.#screen.clear();
      this.#screen.print(ending(this.#story, proof, this.#began, this.#view()));
      const good = proof.faults.length === 0;
      if (keep || !good) this.#screen.print([this.#whereLogsAre()]);
      await this.end(keep || !good);
      return good ? 0 : 1;
    } catch (error) {
      clearInterval(drawing);
      await this.#leaveToSignal();
      await this.end(true);
      if (error instanceof Refusal) throw new Refusal(`the demo has failed: ${error.message}\n${this.#whereLogsAre()}`);
      throw error;
    }
  }

  /** For Ctrl-C and its like. */
  async interrupt(): Promise<void> {
    await this.end(false);
    this.#screen.print(["", "Interrupted: every process has ended, and the folder is gone."]);
  }

  /** Ends every process by its id and, unless its logs are wanted, removes the folder. */
  async end(keep: boolean): Promise<void> {
    this.#over.abort();
    const programs = [...this.#machines, ...(this.#store ? [this.#store] : [])];
    for (const program of programs) program.kill();
    killLeftovers(this.#dir);
    await Promise.race([Promise.all(programs.map((program) => program.ended)), Bun.sleep(1_000)]);
    this.#screen.restore();
    if (!keep) rmSync(this.#dir, { recursive: true, force: true, maxRetries: 5 });
  }

  /** A signal has ended everything and is about to end this process: nothing more is to be done or said. */
  async #leaveToSignal(): Promise<void> {
    if (this.#over.signal.aborted) await new Promise<never>(() => undefined);
  }

  /** Until every machine has had its turn. */
  async #play(): Promise<void> {
    const trouble = (what: string) => this.#failed.reject(new Refusal(what));
    this.#store = await serveStore(this.#dir, (event, at) => this.#story.store(event, at), trouble);
    for (const name of NAMES) {
      const machine = new Machine({
        name,
        demo: this.#dir,
        storeUrl: this.#store.url,
        sickMs: name === SICK.name ? SICK.ms : 0,
        heard: (line) => this.#story.log(name, line),
        power: (on, at) => this.#story.power(name, on, at),
        mended: (at) => this.#story.mended(name, at),
        trouble,
      });
      this.#machines.push(machine);
      machine.boot();
      machine.attend(this.#over.signal).catch(this.#failed.reject);
      await this.#until(() => this.#story.inLine(name), NEXT_MS);
    }
    await this.#until(() => this.#story.over, DEADLINE_MS);
    if (!this.#story.over && !this.#over.signal.aborted)
      trouble(`not all were verified within ${DEADLINE_MS / 1000} s`);
  }

  async #until(reached: () => boolean, ms: number): Promise<void> {
    const end = Date.now() + ms;
    while (!reached() && Date.now() < end && !this.#over.signal.aborted) await Bun.sleep(20);
  }

  /** Everything is stopped first, so that the records are whole. */
  async #prove(): Promise<Proof> {
    await Promise.all(this.#machines.map((machine) => machine.stop()));
    const history = (await this.#store?.history()) ?? [];
    await this.#store?.stop();
    return prove(
      this.#machines.map((machine) => ({ name: machine.name, log: machine.log() })),
      history,
    );
  }

  #whereLogsAre(): string {
    return `The logs are in ${this.#dir}: store.log, and daemon.log of each node.`;
  }

  #draw(): void {
    if (!this.#screen.live || this.#over.signal.aborted) return;
    const store = this.#store ? `rota serve at ${this.#store.url}` : "the store";
    this.#screen.draw(frame(this.#story, store, this.#view()));
  }

  #view(): View {
    const { columns, rows, style, unicode } = this.#screen;
    return { columns, rows, style, unicode, now: Date.now() - this.#began };
  }
}

async function main(): Promise<number> {
  const demo = new Demo();
  const ending = new Set<string>();
  for (const [signal, code] of Object.entries(SIGNALS))
    process.on(signal, () => {
      // A terminal that is closed tells both the shell and us, and the shell tells us again: once is enough.
      if (ending.size === 0) void demo.interrupt().finally(() => process.exit(code));
      ending.add(signal);
    });
  return await demo.run(process.argv.includes("--keep"));
}

if (import.meta.main) await script(main);
