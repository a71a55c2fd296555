/** The picture as lines of text: who waits, who is down, who proves itself, and a bar of time for each machine. PURE. */
import { pad, type Style } from "../../src/commands/output.ts";
import { seconds } from "../steps.ts";
import type { Proof } from "./proof.ts";
import { type NodeStory, type Phase, phaseOf, type Story, shortBoot, type Told, type Tone } from "./story.ts";

export interface View {
  /** What may be filled, in characters and lines. */
  readonly columns: number;
  readonly rows: number;
  readonly style: Style;
  /** The terminal shows more than ASCII. */
  readonly unicode: boolean;
  /** ms since the beginning. */
  readonly now: number;
}

/** How the bars show a phase, in Unicode and in ASCII. */
type Look = "waits" | "turn" | "down" | "proves" | "sick" | "verified";
const GLYPHS: Record<Look, readonly [string, string]> = {
  waits: ["·", "."],
  turn: ["▸", ">"],
  down: ["█", "#"],
  proves: ["▒", "%"],
  sick: ["!", "!"],
  verified: ["━", "="],
};
const LEGEND: Record<Look, string> = {
  waits: "waits",
  turn: "has the turn",
  down: "down",
  proves: "proves its health",
  sick: "sick",
  verified: "verified",
};
const LOOKS: Record<Phase, Look | undefined> = {
  starting: undefined,
  up: undefined,
  waiting: "waits",
  turn: "turn",
  going: "turn",
  down: "down",
  boots: "down",
  proving: "proves",
  sick: "sick",
  verified: "verified",
};

/** The axis is at least this long; a slower demo stretches it. */
const AXIS_MS = 30_000;
/** Left of the bars: margin, node, glyph, state. */
const STATE_WIDTH = 27;
/** Lines of the picture without its log, and the one that the cursor stands in. */
const FIXED_LINES = 17;
const MOST_EVENTS = 9;

/** Fewest lines that a terminal needs for the moving picture. */
export const LEAST_ROWS = FIXED_LINES + 3;

/** The moving picture. */
export function frame(story: Story, store: string, view: View): string[] {
  const { style, rows } = view;
  const room = Math.min(MOST_EVENTS, rows - FIXED_LINES);
  const events = story.events.slice(-room).map((told) => eventLine(told, style));
  const foot = `${store}, revision ${story.revision}. Ctrl-C ends it all.`;
  return fit(
    [
      ...title(view),
      "",
      headline(story, view),
      "",
      ...table(story, view),
      "",
      ...events,
      ...blank(room - events.length),
      "",
      style.dim(`  ${foot}`),
    ],
    view,
  );
}

/** The picture at the end, with the proof below it. */
export function ending(story: Story, proof: Proof, began: number, view: View): string[] {
  const { style } = view;
  const good = proof.faults.length === 0;
  const word = good ? style.bold(style.green("PROVEN")) : style.bold(style.red("NOT PROVEN"));
  const times = proof.turns.length;
  const pause = `${Math.round(proof.leastPause)} ms`;
  const verdict = good
    ? [`  ${word}  ${times} reboots, ${times} intervals, no two overlap (shortest pause ${pause})`]
    : proof.faults.map((fault) => `  ${word}  ${fault}`);
  return [
    ...fit([...title(view), "", ...table(story, view), "", ...proofLines(proof, began, view), ""], view),
    ...verdict,
    "",
  ];
}

function title({ style, now }: View): string[] {
  return [
    "",
    `  ${style.bold("rota")}  five machines want a reboot; they take turns${style.dim(`   ${seconds(now)}`)}`,
  ];
}

/** What matters now, in one sentence. */
function headline(story: Story, { style }: View): string {
  const inPhase = (...phases: readonly Phase[]) => story.nodes.find((node) => phases.includes(phaseOf(node)))?.name;
  const sick = inPhase("sick");
  if (sick !== undefined) return `  ${style.bold(style.red(`${sick} is sick after its reboot: the line waits`))}`;
  const down = inPhase("down", "boots");
  const proving = inPhase("proving");
  const turn = inPhase("turn", "going");
  const text =
    (down && `${down} is down: nobody else may go`) ??
    (proving && `${proving} is back and has to prove its health: nobody else may go yet`) ??
    (turn && `it is the turn of ${turn}`) ??
    (story.over
      ? "all five are verified"
      : inPhase("starting")
        ? "five daemons and their store are starting"
        : "the turn passes on");
  return `  ${style.bold(text)}`;
}

function table(story: Story, view: View): string[] {
  const { style, columns } = view;
  const name = Math.max(...story.nodes.map((node) => node.name.length));
  const left = 2 + name + 2 + 2 + STATE_WIDTH + 1;
  const width = Math.max(10, columns - left - 2);
  const span = Math.max(AXIS_MS, view.now);
  const head = `${" ".repeat(left)}${axis(width, span)}`;
  const rows = story.nodes.map((node) => {
    const [glyph, words] = state(node, view);
    return `  ${style.bold(pad(node.name, name))}  ${glyph} ${pad(words, STATE_WIDTH)} ${bar(node, width, span, view)}`;
  });
  const legend = (Object.keys(GLYPHS) as Look[]).map((look) => `${glyphOf(look, view)} ${style.dim(LEGEND[look])}`);
  return [style.dim(head), ...rows, "", `  ${legend.join("  ")}`];
}

function state(node: NodeStory, view: View): readonly [glyph: string, words: string] {
  const { style, now } = view;
  const phase = phaseOf(node);
  const since = seconds(Math.max(0, now - (node.spans.at(-1)?.from ?? 0)));
  const look = LOOKS[phase];
  const glyph = look === undefined ? " " : glyphOf(look, view);
  const words: Record<Phase, string> = {
    starting: style.dim("starts"),
    up: style.dim("is up"),
    waiting: `waits, ${node.place ?? "not yet in line"}`,
    turn: style.yellow("has the turn: last checks"),
    going: style.yellow("has the turn: goes down"),
    down: style.yellow(`down ${since}`),
    boots: style.yellow(`boots ${since}`),
    proving: style.cyan(`back, proves its health`),
    sick: style.bold(style.red(`SICK ${since}, holds the line`)),
    verified: style.green(`verified after ${seconds(node.tookMs ?? 0)}`),
  };
  return [glyph, words[phase]];
}

/** One character for each slice of time: what the machine did in the middle of it. So two are never in their turn in one column. */
function bar(node: NodeStory, width: number, span: number, view: View): string {
  const cells = Math.min(width, Math.ceil((view.now / span) * width));
  const looks: (Look | undefined)[] = [];
  for (let cell = 0; cell < cells; cell++) {
    const middle = Math.min(view.now, ((cell + 0.5) * span) / width);
    const at = node.spans.findLast(({ from }) => from <= middle);
    looks.push(at && LOOKS[at.phase]);
  }
  let text = "";
  for (let from = 0; from < looks.length; ) {
    let to = from + 1;
    while (to < looks.length && looks[to] === looks[from]) to++;
    const look = looks[from];
    text += look === undefined ? " ".repeat(to - from) : glyphOf(look, view, to - from);
    from = to;
  }
  return text;
}

function axis(width: number, span: number): string {
  const step = [5_000, 10_000, 20_000, 30_000, 60_000].find((ms) => (ms / span) * width >= 7) ?? 120_000;
  let text = "";
  for (let ms = 0; ms < span; ms += step) {
    const at = Math.round((ms / span) * width);
    const label = ms === 0 ? "0 s" : `${ms / 1000}`;
    if (at + label.length <= width) text = pad(text, at) + label;
  }
  return text;
}

function glyphOf(look: Look, { style, unicode }: View, times = 1): string {
  const text = GLYPHS[look][unicode ? 0 : 1].repeat(times);
  const paints: Record<Look, (text: string) => string> = {
    waits: style.dim,
    turn: style.yellow,
    down: style.yellow,
    proves: style.cyan,
    sick: (sick) => style.bold(style.red(sick)),
    verified: (verified) => style.dim(style.green(verified)),
  };
  return paints[look](text);
}

/** One event; the same line in the picture and where there is no terminal. */
export function eventLine({ at, node, text, tone }: Told, style: Style): string {
  const paints: Record<Tone, (text: string) => string> = {
    plain: (plain) => plain,
    good: style.green,
    bad: (bad) => style.bold(style.red(bad)),
    busy: (busy) => busy,
  };
  return `  ${style.dim(pad(seconds(at), 6, "right"))}  ${style.bold(node)} ${paints[tone](text)}`;
}

function proofLines({ turns }: Proof, began: number, { style, unicode }: View): string[] {
  const at = (ms: number) => `${((ms - began) / 1000).toFixed(3)} s`;
  const cells = turns.map(({ node, boots, started, verified, fenced, ended }) => [
    node,
    boots.map(shortBoot).join(unicode ? " → " : " > "),
    at(started),
    at(verified),
    seconds(verified - started),
    `${fenced} to ${ended}`,
  ]);
  const titles = ["NODE", "BOOT", "COMMAND STARTED", "VERIFIED", "TOOK", "STORE REVISIONS"];
  const widths = titles.map((text, i) => Math.max(text.length, ...cells.map((row) => row[i]?.length ?? 0)));
  const lay = (row: readonly string[]) =>
    row.map((text, i) => pad(text, widths[i] ?? 0, i < 2 ? "left" : "right")).join("  ");
  return [
    `  ${style.bold("The proof")}${style.dim(", from the daemons' own logs and the store's history")}`,
    style.dim(`  ${lay(titles)}`),
    ...cells.map((row) => `  ${lay(row)}`),
  ];
}

function blank(lines: number): string[] {
  return Array.from({ length: Math.max(0, lines) }, () => "");
}

/** Cut to the width of the view; colours are not counted. */
function fit(lines: readonly string[], { columns, unicode }: View): string[] {
  const end = unicode ? "…" : "~";
  return lines.map((line) => (Bun.stringWidth(line) < columns ? line : `${Bun.sliceAnsi(line, 0, columns - 2)}${end}`));
}
