/** What a command is: a plain object that the parser, the help, the completions, the man pages and the tests all read. */
import type { Out, Sink, Source } from "./output.ts";

/** The names that the one executable answers to (as busybox does); each shows a part of the same table. */
export type Tool = "rota" | "reboot-coordinator" | "lab" | "clusterctl";

interface FlagBase {
  /** Half a sentence for the help: what it does, without a full stop. */
  readonly summary: string;
  /** One letter: `-n` beside `--node`. */
  readonly short?: string;
  /** Works, but is not shown. */
  readonly hidden?: boolean;
}

interface ValueFlag extends FlagBase {
  /** What stands for the value in the help: FILE, NAME, 90s … */
  readonly value: string;
  readonly required?: true;
  /** What a shell may offer after it. */
  readonly completes?: "file" | "directory" | "none";
}

export type FlagSpec =
  | (FlagBase & { readonly type: "boolean" })
  | (ValueFlag & { readonly type: "string"; readonly default?: string; readonly choices?: readonly string[] })
  | (ValueFlag & { readonly type: "integer"; readonly default?: number; readonly min?: number; readonly max?: number })
  /** `90s`, `2h30m`, `1d`, or a bare number of seconds; arrives as milliseconds. */
  | (ValueFlag & { readonly type: "duration"; readonly default?: number })
  /** Given several times, or with commas. */
  | (ValueFlag & { readonly type: "list"; readonly choices?: readonly string[] });

export interface ArgSpec {
  readonly summary: string;
  readonly optional?: true;
  /** Takes all that are left; only as the last one. */
  readonly many?: true;
  readonly choices?: readonly string[];
  readonly completes?: "file" | "directory" | "none";
}

export type FlagSpecs = Readonly<Record<string, FlagSpec>>;
export type ArgSpecs = Readonly<Record<string, ArgSpec>>;

type Given<S, T> = S extends { readonly default: T } | { readonly required: true } ? T : T | undefined;

type FlagValue<S extends FlagSpec> = S["type"] extends "boolean"
  ? boolean
  : S["type"] extends "list"
    ? readonly string[]
    : S["type"] extends "string"
      ? Given<S, string>
      : Given<S, number>;

type ArgValue<S extends ArgSpec> = S extends { readonly many: true }
  ? readonly string[]
  : S extends { readonly optional: true }
    ? string | undefined
    : string;

/** What `run` gets for these flags: booleans are false and lists empty when not given. */
export type FlagValues<F extends FlagSpecs> = { readonly [K in keyof F]: FlagValue<F[K]> };
export type ArgValues<A extends ArgSpecs> = { readonly [K in keyof A]: ArgValue<A[K]> };

/** How the outside asks a running command to end, or to read its settings again. */
export interface Signals {
  /** Aborted by the first SIGINT or SIGTERM; its reason is a Fault `interrupted` with the exit code 130 or 143. */
  readonly signal: AbortSignal;
  /** Aborted by the second one: stop waiting for what is under way. (The third ends the process at once.) */
  readonly hurry: AbortSignal;
  /** SIGINT, SIGTERM, or nothing yet. */
  signalName(): string | undefined;
  /** Calls back on SIGHUP until the returned function is called; without a listener SIGHUP ends the process as usual. */
  onHangup(listener: () => void): () => void;
}

/** All that a command may touch of the process it runs in. */
export interface Context<V = Readonly<Record<string, unknown>>, A = Readonly<Record<string, unknown>>> extends Signals {
  /** The name it was started by. */
  readonly tool: Tool;
  /** The file name or path it was started by, as the system gave it. */
  readonly argv0: string;
  /** The command as the person calls it: `rota reboot status`, or `reboot-coordinator status`. */
  readonly called: string;
  readonly flags: V;
  readonly args: A;
  /** Lines, tables and JSON for people and scripts. */
  readonly out: Out;
  readonly stdin: Source;
  readonly stdout: Sink;
  readonly stderr: Sink;
  readonly env: Readonly<Record<string, string | undefined>>;
}

export interface Example {
  /** What stands after the command's own words. */
  readonly args: string;
  /** What it does, as a half sentence. */
  readonly says: string;
}

/** `run` is a method so that commands with different flags fit into one table. */
export interface Command<F extends FlagSpecs = FlagSpecs, A extends ArgSpecs = ArgSpecs> {
  /** Its words under `rota`: "reboot status". TOOLS says what they are under the other names. */
  readonly path: string;
  readonly summary: string;
  /** Paragraphs for `--help` and the man page. */
  readonly description?: string;
  readonly flags?: F;
  /** In order, in small letters; people see them in capitals. */
  readonly args?: A;
  readonly examples?: readonly Example[];
  /** Exit codes beyond 0, 1 and 64, each with its meaning. */
  readonly exits?: Readonly<Record<number, string>>;
  /** Belongs to every tool, not only to the one with its first word. */
  readonly everywhere?: boolean;
  /** Resolves to the exit code; throws a Fault to end with a sentence and its exit code. */
  run(ctx: Context<FlagValues<F>, ArgValues<A>>): Promise<number>;
}

/** A command in the table, whatever its flags. */
export interface AnyCommand extends Omit<Command, "run"> {
  run(ctx: Context): Promise<number>;
}

/** The context of a command: `run(ctx: ContextOf<typeof rebootStatus>)`. */
export type ContextOf<C> = C extends Command<infer F, infer A> ? Context<FlagValues<F>, ArgValues<A>> : never;

type None = Readonly<Record<never, never>>;

/** Keeps the exact types of the flags and arguments, so that `run` sees them. */
export function command<const F extends FlagSpecs = None, const A extends ArgSpecs = None>(
  definition: Command<F, A>,
): Command<F, A> {
  return definition;
}

/** What each name shows of the table. `prefix` is left out under that name; `words` are kept as they are. */
export const TOOLS: Readonly<
  Record<Tool, { readonly summary: string; readonly prefix?: string; readonly words?: readonly string[] }>
> = {
  rota: { summary: "Machines take turns: form a cluster, update it in waves, reboot it one healthy machine at a time" },
  "reboot-coordinator": {
    summary: "Reboots the nodes of a fleet one at a time, each proven healthy",
    prefix: "reboot",
  },
  lab: {
    summary: "Updates a fleet in waves, and stops at the first bad machine",
    words: ["update", "update-history", "update-config", "health-check", "notify"],
  },
  clusterctl: { summary: "Forms one cluster out of bare hosts", prefix: "cluster" },
};

/** The words of a command under a name, or undefined when that name does not have it. */
export function wordsUnder(tool: Tool, { path, everywhere }: Pick<Command, "path" | "everywhere">): string | undefined {
  const { prefix, words } = TOOLS[tool];
  if (everywhere || (prefix === undefined && words === undefined)) return path;
  if (prefix !== undefined) return path.startsWith(`${prefix} `) ? path.slice(prefix.length + 1) : undefined;
  return words?.includes(path.split(" ", 1)[0] ?? "") ? path : undefined;
}

/** The tool for the name in argv[0]: its last path component without `.exe`; any other name is `rota`. */
export function toolNamed(argv0: string): Tool {
  const name = (argv0.split(/[\\/]/).pop() ?? "").replace(/\.exe$/i, "");
  return Object.keys(TOOLS).find((tool): tool is Tool => tool === name) ?? "rota";
}
