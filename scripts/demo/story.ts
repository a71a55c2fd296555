/** What has happened so far, as three witnesses tell it: the daemons' own logs, the store, and the power switch. Nothing is guessed. */
import type { KeyValue, WatchEvent } from "../../src/store/store.ts";
import { keyspace, readContender } from "../../src/turn/keys.ts";
import { placeInWords, readLine } from "../../src/turn/line.ts";
import { seconds } from "../steps.ts";

/** One line of a daemon's JSON log. */
export interface LogLine {
  readonly ts: string;
  readonly level: string;
  readonly event: string;
  readonly message?: string;
  readonly fields: Readonly<Record<string, unknown>>;
}

/** What a machine is doing; the order of a life with one reboot, "sick" only if it has to be. */
export type Phase =
  | "starting"
  | "up"
  | "waiting"
  | "turn"
  | "going"
  | "down"
  | "boots"
  | "proving"
  | "sick"
  | "verified";

export type Tone = "plain" | "good" | "bad" | "busy";

/** One event in plain words. `at` is ms since the beginning. */
export interface Told {
  readonly at: number;
  readonly node: string;
  readonly text: string;
  readonly tone: Tone;
}

export interface NodeStory {
  readonly name: string;
  /** Phases with the moment in which each began, oldest first. */
  readonly spans: { readonly phase: Phase; readonly from: number }[];
  /** Boot ids, as the daemon has logged them. */
  readonly boots: string[];
  /** "second in line", as long as it stands in the line. */
  place: string | undefined;
  /** How often its health was asked after the reboot, and the last words of a script that said no. */
  asked: number;
  ailment: string;
  /** When the reboot command was about to start, and how long it took from there to proven health. */
  launchedAt: number | undefined;
  tookMs: number | undefined;
}

/** The lock that the demo's machines share: the default one, below this namespace. */
export const NAMESPACE = "/demo";
export const SPACE = keyspace("/cluster/reboot-coordinator/lock");

/** What a daemon says at warn or above, and what this story tells in its own words. */
const TOLD_ANYWAY = ["health_check", "post_reboot_health", "run_outcome"];

export class Story {
  readonly nodes: readonly NodeStory[];
  readonly events: Told[] = [];
  /** The store's newest revision that was seen. */
  revision = "0";
  readonly #began: number;
  readonly #hear: (told: Told) => void;
  readonly #line = new Map<string, KeyValue>();

  /** `began` in ms since 1970; `hear` gets every event as it is told. */
  constructor(names: readonly string[], began: number, hear: (told: Told) => void) {
    this.#began = began;
    this.#hear = hear;
    const unknown = { place: undefined, asked: 0, ailment: "", launchedAt: undefined, tookMs: undefined };
    this.nodes = names.map((name) => ({ name, spans: [{ phase: "starting", from: 0 }], boots: [], ...unknown }));
  }

  /** Every machine has come back healthy. */
  get over(): boolean {
    return this.nodes.every((node) => phaseOf(node) === "verified");
  }

  /** This machine has asked for its turn. */
  inLine(name: string): boolean {
    return this.#node(name).spans.some(({ phase }) => phase === "waiting");
  }

  /** A line of a daemon's log. */
  log(name: string, line: LogLine): void {
    const node = this.#node(name);
    const at = Date.parse(line.ts) - this.#began;
    const { event, fields } = line;
    if (event === "started") this.#started(node, String(fields["boot_id"]), at);
    else if (event === "state") this.#entered(node, String(fields["to"]), at);
    else if (event === "health_check" && fields["phase"] === "post-reboot") {
      node.asked++;
      node.ailment = String(fields["stderr"] ?? line.message ?? "").trim();
    } else if (event === "post_reboot_health" && fields["healthy"] === false) this.#sick(node, at);
    else if (event === "run_outcome" && fields["status"] === "verified") this.#enter(node, "verified", at);
    if (["warn", "error"].includes(line.level) && !TOLD_ANYWAY.includes(event))
      this.#tell(at, node.name, `${event}: ${line.message ?? ""}`, "bad");
  }

  /** The power switch: off when nothing runs any more, on when the daemon is started. */
  power(name: string, on: boolean, at: number): void {
    const node = this.#node(name);
    this.#enter(node, on ? "boots" : "down", at - this.#began);
    if (!on) this.#tell(at - this.#began, name, "is down: its daemon has ended, its turn stays in the store", "busy");
  }

  /** Somebody has put a sick machine right. */
  mended(name: string, at: number): void {
    this.#tell(at - this.#began, name, "is mended (by the demo): its health script will see it", "busy");
  }

  /** A change in the store. */
  store({ type, kv }: WatchEvent, at: number): void {
    this.revision = kv.modRevision;
    if (!kv.key.startsWith(SPACE.line)) return;
    if (type === "delete") this.#line.delete(kv.key);
    else this.#line.set(kv.key, kv);
    const contender = type === "put" ? readContender(SPACE, kv) : undefined;
    const turn = contender?.permanent ? contender.value : undefined;
    if (turn !== undefined) {
      const written = turn.fenced_at === undefined ? at : Date.parse(turn.fenced_at);
      this.#tell(written - this.#began, turn.node, "makes its turn permanent: it will outlive the reboot", "busy");
    }
    const line = readLine(SPACE, [...this.#line.values()]);
    for (const node of this.nodes) {
      const ahead = line.findIndex(({ value }) => value?.node === node.name);
      node.place = ahead < 0 ? undefined : placeInWords(ahead);
    }
  }

  #started(node: NodeStory, boot: string, at: number): void {
    node.boots.push(boot);
    if (node.boots.length === 1) this.#enter(node, "up", at);
  }

  #entered(node: NodeStory, state: string, at: number): void {
    const { name } = node;
    if (state === "waiting" && phaseOf(node) !== "waiting") {
      this.#enter(node, "waiting", at);
      this.#tell(at, name, "wants a reboot and gets in line", "plain");
    } else if (state === "owning") {
      this.#enter(node, "turn", at);
      this.#tell(at, name, "is first: asks its health and all gates once more", "busy");
    } else if (state === "launching") {
      node.launchedAt = at;
      this.#enter(node, "going", at);
    } else if (state === "rebooting") this.#tell(at, name, "has started its reboot command", "busy");
    else if (state === "recovering") {
      this.#enter(node, "proving", at);
      const [before, after] = node.boots.slice(-2).map(shortBoot);
      this.#tell(at, name, `is back (boot ${before}, now ${after}), finds its turn, proves itself`, "busy");
    } else if (state === "finishing" && node.tookMs === undefined) {
      node.tookMs = at - (node.launchedAt ?? at);
      const after = `${seconds(node.tookMs)} after its command${node.asked > 1 ? `, asked ${node.asked} times` : ""}`;
      this.#tell(at, name, `is verified ${after}: gives the turn up`, "good");
    }
  }

  #sick(node: NodeStory, at: number): void {
    if (phaseOf(node) === "sick") return;
    this.#enter(node, "sick", at);
    this.#tell(at, node.name, `is sick after its reboot: the line waits (${node.ailment})`, "bad");
  }

  #enter(node: NodeStory, phase: Phase, at: number): void {
    const last = node.spans.at(-1);
    if (last?.phase !== phase) node.spans.push({ phase, from: Math.max(at, last?.from ?? 0) });
  }

  #tell(at: number, node: string, text: string, tone: Tone): void {
    const told = { at, node, text, tone };
    // What the store tells may arrive after what the daemon logged a moment later.
    const after = this.events.findLastIndex((event) => event.at <= at) + 1;
    this.events.splice(after, 0, told);
    this.#hear(told);
  }

  #node(name: string): NodeStory {
    const found = this.nodes.find((node) => node.name === name);
    if (found === undefined) throw new Error(`nobody is called ${name}`);
    return found;
  }
}

/** What a machine is doing now. */
export function phaseOf(node: NodeStory): Phase {
  return node.spans.at(-1)?.phase ?? "starting";
}

/** The first characters of a boot id: enough to tell two apart. */
export function shortBoot(boot: string): string {
  return boot.slice(0, 4);
}
