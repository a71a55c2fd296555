/** From the name it was started by and the words behind it to an exit code. */
import { EXIT, Fault, sentence } from "../kernel/errors.ts";
import { nearest } from "../kernel/nearest.ts";
import { type AnyCommand, type Context, type Signals, type Tool, toolNamed } from "./command.ts";
import { parse, usage } from "./flags.ts";
import { commandHelp, commandsOf, type Entry, groupHelp, type HelpOptions } from "./help.ts";
import { type Out, printer, type Sink, type Source } from "./output.ts";

/** Everything of the process that a command may see. */
export interface Terminal {
  readonly stdin: Source;
  readonly stdout: Sink;
  readonly stderr: Sink;
  readonly env: Readonly<Record<string, string | undefined>>;
}

export interface Invocation {
  readonly argv0: string;
  /** What stands behind the name. */
  readonly argv: readonly string[];
  readonly terminal: Terminal;
  readonly signals: Signals;
  readonly commands: readonly AnyCommand[];
  /** One line for each group of commands, by its words under `rota`. */
  readonly groups: Readonly<Record<string, string>>;
}

/** Runs one command line. Never rejects: every error becomes one sentence on standard error and an exit code. */
export async function invoke(invocation: Invocation): Promise<number> {
  const { argv0, terminal } = invocation;
  const tool = toolNamed(argv0);
  const out = printer(terminal.stdout, terminal.stderr, terminal.env);
  try {
    return await dispatch(invocation, tool, out);
  } catch (error) {
    return report(error, tool, terminal, out);
  }
}

async function dispatch(invocation: Invocation, tool: Tool, out: Out): Promise<number> {
  const { argv, terminal, signals, commands, groups, argv0 } = invocation;
  const help: HelpOptions = { tool, style: out.style, columns: Math.min(out.columns, 110) };
  const own = commandsOf(tool, commands);
  const words = argv[0] === "--version" ? ["version", ...argv.slice(1)] : argv;
  const asked = words[0] === "help" && !own.some((entry) => entry.words === "help") ? words.slice(1) : undefined;
  const path = leadingWords(asked ?? words);
  const prefix = longestGroup(own, path);
  const match = longestMatch(own, path);
  // `serve user` is a group although `serve` is a command: the longer one is meant.
  const entry = match && match.words.length < prefix.length ? undefined : match;
  if (entry === undefined) {
    if (prefix !== path.join(" ")) throw unknownCommand(tool, own, prefix, path);
    const text = groupHelp(prefix, commands, groups, help);
    if (asked !== undefined || words.some(isHelp)) {
      out.line(text);
      return EXIT.ok;
    }
    const flag = words[path.length];
    if (flag !== undefined) throw usage(`unknown flag ${flag} before a command`);
    out.note(text);
    return EXIT.usage;
  }
  const rest = words.slice(entry.words.split(" ").length);
  const parsed = asked === undefined ? parse(entry.command, rest) : { help: true, flags: {}, args: {} };
  if (parsed.help) {
    out.line(commandHelp(entry, own, help));
    return EXIT.ok;
  }
  const ctx: Context = { ...signals, ...terminal, tool, argv0, called: `${tool} ${entry.words}`, out, ...parsed };
  return await entry.command.run(ctx);
}

const isHelp = (word: string) => /^--?(h|help)$/.test(word);

/** The words before the first flag: only they can name a command. */
function leadingWords(words: readonly string[]): string[] {
  const end = words.findIndex((word) => word.startsWith("-"));
  return words.slice(0, end < 0 ? undefined : end);
}

/** The command whose words are the longest beginning of `path`. */
function longestMatch(entries: readonly Entry[], path: readonly string[]): Entry | undefined {
  const matches = entries.filter(({ words }) => startsWith(path, words.split(" ")));
  return matches.sort((a, b) => b.words.length - a.words.length)[0];
}

/** The longest beginning of `path` that is a group of commands; "" is the whole tool. */
function longestGroup(entries: readonly Entry[], path: readonly string[]): string {
  for (let length = path.length; length > 0; length--) {
    const prefix = path.slice(0, length).join(" ");
    if (entries.some(({ words }) => words.startsWith(`${prefix} `))) return prefix;
  }
  return "";
}

function startsWith(path: readonly string[], words: readonly string[]): boolean {
  return words.every((word, i) => path[i] === word);
}

function unknownCommand(tool: Tool, entries: readonly Entry[], prefix: string, path: readonly string[]): Fault {
  const typed = path[prefix === "" ? 0 : prefix.split(" ").length] ?? "";
  const shown = prefix === "" ? typed : `${prefix} ${typed}`;
  const start = prefix === "" ? "" : `${prefix} `;
  const next = entries.filter(({ words }) => words.startsWith(start)).map(({ words }) => words.slice(start.length));
  const guess = nearest(typed, [...new Set(next.map((words) => words.split(" ", 1)[0] ?? ""))]);
  const hint =
    guess === undefined
      ? `"${tool} help" lists them`
      : `did you mean "${[tool, prefix, guess].filter(Boolean).join(" ")}"?`;
  return usage(`unknown command "${shown}"; ${hint}`);
}

function report(error: unknown, tool: Tool, terminal: Terminal, out: Out): number {
  const stack = error instanceof Error && terminal.env.ROTA_DEBUG ? error.stack : undefined;
  if (error instanceof Fault) {
    out.note(`${tool}: ${sentence(error)}`);
    if (stack) out.note(stack);
    return error.exitCode;
  }
  // Not one of ours: a mistake in the program, and the place of it helps only who looks for it.
  out.note(`${tool}: unexpected error: ${sentence(error)}${stack ? "" : " (ROTA_DEBUG=1 shows where)"}`);
  if (stack) out.note(stack);
  return EXIT.failed;
}
