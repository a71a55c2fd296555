/** Help, made from the command table: for one command, for a group of them, for the whole tool. */
import { type AnyCommand, type FlagSpec, TOOLS, type Tool, wordsUnder } from "./command.ts";
import { argName } from "./flags.ts";
import { pad, type Style } from "./output.ts";

export interface HelpOptions {
  readonly tool: Tool;
  readonly style: Style;
  /** Width to fill. */
  readonly columns: number;
}

/** A command and the words it has under one tool. */
export interface Entry {
  readonly words: string;
  readonly command: AnyCommand;
}

/** The table as one tool sees it, in its order. */
export function commandsOf(tool: Tool, commands: readonly AnyCommand[]): Entry[] {
  return commands.flatMap((command) => {
    const words = wordsUnder(tool, command);
    return words === undefined ? [] : [{ words, command }];
  });
}

/** Help for one command; of `entries` it names those that lie below it (`serve user add` below `serve`). */
export function commandHelp({ words, command }: Entry, entries: readonly Entry[], options: HelpOptions): string {
  const { style, columns, tool } = options;
  const called = `${tool} ${words}`;
  const flags = Object.entries(command.flags ?? {}).filter(([, spec]) => !spec.hidden);
  const args = Object.entries(command.args ?? {});
  const parts = [`${command.summary}.`];
  if (command.description) parts.push(paragraphs(command.description, columns));
  parts.push(section("Usage", style, [`  ${usageLine(called, command)}`]));
  if (args.length > 0)
    parts.push(
      section(
        "Arguments",
        style,
        aligned(
          args.map(([name, spec]) => [argName(name), spec.summary]),
          columns,
        ),
      ),
    );
  const rows = flags.map(([name, spec]): [string, string] => [flagForm(name, spec), flagText(spec)]);
  parts.push(section("Flags", style, aligned([...rows, ["-h, --help", "show this help"]], columns)));
  const below = entries.filter((entry) => entry.words.startsWith(`${words} `));
  if (below.length > 0) parts.push(section("Commands below it", style, commandLines(below, columns)));
  const examples = command.examples ?? [];
  if (examples.length > 0) {
    const lines = examples.map(({ args: rest, says }): [string, string] => [`${called} ${rest}`.trimEnd(), says]);
    parts.push(section("Examples", style, aligned(lines, columns)));
  }
  const exits = Object.entries(command.exits ?? {}).map(([code, says]): [string, string] => [code, says]);
  if (exits.length > 0) {
    const all: [string, string][] = [["0", "done"], ["1", "failed"], ...exits, ["64", "a mistake in the command line"]];
    const unique = all.filter(([code], i) => all.findLastIndex(([other]) => other === code) === i);
    unique.sort(([a], [b]) => Number(a) - Number(b));
    parts.push(section("Exit codes", style, aligned(unique, columns)));
  }
  return parts.join("\n\n");
}

/** Help for all commands that begin with `prefix` (a group), or for the whole tool when it is "". */
export function groupHelp(
  prefix: string,
  commands: readonly AnyCommand[],
  groups: Readonly<Record<string, string>>,
  options: HelpOptions,
): string {
  const { tool, style, columns } = options;
  const own = commandsOf(tool, commands).filter(({ words }) => prefix === "" || words.startsWith(`${prefix} `));
  const summary = prefix === "" ? TOOLS[tool].summary : (groups[fullPath(tool, prefix)] ?? `Commands of ${prefix}`);
  const called = prefix === "" ? tool : `${tool} ${prefix}`;
  return [
    `${summary}.`,
    section("Usage", style, [`  ${called} COMMAND [FLAGS] [ARGUMENTS]`]),
    section("Commands", style, commandLines(own, columns)),
    `"${called} COMMAND --help" tells more about one of them.`,
  ].join("\n\n");
}

function commandLines(entries: readonly Entry[], columns: number): string[] {
  return aligned(
    entries.map(({ words, command }) => [`${words} ${argForms(command)}`.trimEnd(), command.summary]),
    columns,
  );
}

/** The words under `rota` of a group that is called `prefix` under this tool. */
function fullPath(tool: Tool, prefix: string): string {
  const dropped = TOOLS[tool].prefix;
  return dropped === undefined ? prefix : `${dropped} ${prefix}`;
}

function usageLine(called: string, command: AnyCommand): string {
  const required = Object.entries(command.flags ?? {})
    .filter(([, spec]) => spec.type !== "boolean" && spec.required)
    .map(([name, spec]) => flagForm(name, { ...spec, short: "" }).trim());
  return [called, ...required, "[FLAGS]", argForms(command)].join(" ").trimEnd();
}

function argForms(command: AnyCommand): string {
  return Object.entries(command.args ?? {})
    .map(([name, { optional, many }]) => {
      const form = many ? `${argName(name)} …` : argName(name);
      return optional ? `[${form}]` : form;
    })
    .join(" ");
}

function flagForm(name: string, spec: FlagSpec): string {
  const short = spec.short ? `-${spec.short}, ` : "    ";
  return `${short}--${name}${spec.type === "boolean" ? "" : ` ${spec.value}`}`;
}

function flagText(spec: FlagSpec): string {
  if (spec.type === "boolean") return spec.summary;
  const notes: string[] = [];
  if ((spec.type === "string" || spec.type === "list") && spec.choices) notes.push(spec.choices.join(" | "));
  if (spec.required) notes.push("required");
  if (spec.type === "duration" && spec.default !== undefined) notes.push(`default ${spec.default / 1000}s`);
  else if (spec.type !== "list" && spec.default !== undefined) notes.push(`default ${spec.default}`);
  return notes.length === 0 ? spec.summary : `${spec.summary} (${notes.join("; ")})`;
}

function section(title: string, style: Style, lines: readonly string[]): string {
  return [style.bold(title), ...lines].join("\n");
}

/** Two columns: the left as wide as its widest entry (within reason), the right wrapped to the terminal. */
function aligned(rows: readonly (readonly [string, string])[], columns: number): string[] {
  const widest = Math.max(...rows.map(([left]) => Bun.stringWidth(left)));
  const width = Math.min(widest, Math.max(24, Math.floor(columns / 2)));
  const room = Math.max(20, columns - width - 4);
  const indent = " ".repeat(width + 4);
  return rows.flatMap(([left, right]) => {
    const text = Bun.wrapAnsi(right, room).split("\n");
    const fits = Bun.stringWidth(left) <= width;
    const first = fits
      ? [`  ${pad(left, width)}  ${text[0] ?? ""}`.trimEnd()]
      : [`  ${left}`, `${indent}${text[0] ?? ""}`];
    return [...first, ...text.slice(1).map((line) => indent + line)];
  });
}

function paragraphs(text: string, columns: number): string {
  return text
    .trim()
    .split(/\n\s*\n/)
    .map((paragraph) => Bun.wrapAnsi(paragraph.replace(/\s+/g, " ").trim(), columns))
    .join("\n\n");
}
