/** Reads a command line: Go's flag syntax (`-x`, `--x`, `--x=v`, `--x v`), flags and arguments in any order, `--` ends the flags. */
import { EXIT, Fault } from "../kernel/errors.ts";
import { nearest } from "../kernel/nearest.ts";
import type { ArgSpecs, Command, FlagSpec, FlagSpecs } from "./command.ts";

/** What a command line says. */
export interface Parsed {
  readonly help: boolean;
  readonly flags: Readonly<Record<string, unknown>>;
  readonly args: Readonly<Record<string, unknown>>;
}

/** A mistake in the command line: exit code 64. */
export function usage(message: string): Fault {
  return new Fault("usage", message, { exitCode: EXIT.usage });
}

/** The flags and arguments in `words` (what follows the command's own words), by the command's rules. Throws Fault `usage`. */
export function parse(command: Pick<Command, "flags" | "args">, words: readonly string[]): Parsed {
  const specs = command.flags ?? {};
  const flags = new Map<string, unknown>();
  const rest: string[] = [];
  for (let i = 0; i < words.length; i++) {
    const word = words[i] ?? "";
    if (word === "--") {
      rest.push(...words.slice(i + 1));
      break;
    }
    if (!looksLikeFlag(word)) {
      rest.push(word);
      continue;
    }
    const { name, value: inline } = split(word);
    if (name === "help" || (name === "h" && !shortNamed(specs, "h"))) return { help: true, flags: {}, args: {} };
    const key = Object.hasOwn(specs, name) ? name : shortNamed(specs, name);
    const spec = key === undefined ? undefined : specs[key];
    if (key === undefined || spec === undefined) throw unknownFlag(word, name, specs);
    if (spec.type === "boolean") {
      flags.set(key, inline === undefined ? true : readBoolean(key, inline));
      continue;
    }
    const text = inline ?? followingValue(key, words[++i], specs);
    const value = readValue(key, spec, text);
    // A list grows; of anything else the last one counts, so that an alias can be overridden.
    flags.set(key, spec.type === "list" ? [...((flags.get(key) as string[]) ?? []), ...(value as string[])] : value);
  }
  return { help: false, flags: withDefaults(specs, flags), args: assign(command.args ?? {}, rest) };
}

/** `-` alone is an argument (standard input), and so is a negative number. */
function looksLikeFlag(word: string): boolean {
  return /^--?[A-Za-z]/.test(word);
}

function split(word: string): { name: string; value: string | undefined } {
  const bare = word.replace(/^--?/, "");
  const equals = bare.indexOf("=");
  return equals < 0 ? { name: bare, value: undefined } : { name: bare.slice(0, equals), value: bare.slice(equals + 1) };
}

function shortNamed(specs: FlagSpecs, letter: string): string | undefined {
  return Object.keys(specs).find((key) => specs[key]?.short === letter);
}

function unknownFlag(word: string, name: string, specs: FlagSpecs): Fault {
  const shown = Object.keys(specs).filter((key) => !specs[key]?.hidden);
  const guess = nearest(name, [...shown, "help"]);
  const hint = guess === undefined ? "" : `; did you mean --${guess}?`;
  return usage(`unknown flag ${word.split("=", 1)[0]}${hint}`);
}

/** A known flag right behind `--config` is a forgotten value, not a file called `--json`. */
function followingValue(key: string, next: string | undefined, specs: FlagSpecs): string {
  if (next === undefined) throw usage(`flag --${key} needs a value`);
  if (looksLikeFlag(next)) {
    const { name } = split(next);
    if (Object.hasOwn(specs, name) || shortNamed(specs, name) || name === "help")
      throw usage(`flag --${key} needs a value (write --${key}=${next} if ${next} is meant)`);
  }
  return next;
}

/** Go's spellings of true and false. */
function readBoolean(key: string, text: string): boolean {
  if (/^(1|t|true)$/i.test(text)) return true;
  if (/^(0|f|false)$/i.test(text)) return false;
  throw usage(`flag --${key} is true or false, not "${text}"`);
}

function readValue(key: string, spec: FlagSpec & { type: Exclude<FlagSpec["type"], "boolean"> }, text: string) {
  switch (spec.type) {
    case "string":
      return choice(`flag --${key}`, text, spec.choices);
    case "integer": {
      if (!/^[+-]?\d+$/.test(text)) throw usage(`flag --${key} is a whole number, not "${text}"`);
      const number = Number(text);
      const { min = Number.MIN_SAFE_INTEGER, max = Number.MAX_SAFE_INTEGER } = spec;
      if (number < min) throw usage(`flag --${key} is at least ${min}, not ${text}`);
      if (number > max) throw usage(`flag --${key} is at most ${max}, not ${text}`);
      return number;
    }
    case "duration": {
      const ms = readDuration(text);
      if (ms === undefined) throw usage(`flag --${key} is a time such as 90s, 15m or 2h30m, not "${text}"`);
      return ms;
    }
    case "list": {
      const items = text.split(",").map((item) => item.trim());
      if (items.includes("")) throw usage(`flag --${key} has an empty item in "${text}"`);
      return items.map((item) => choice(`flag --${key}`, item, spec.choices));
    }
  }
}

/** `text` if it is one of `choices`, or if there are none to choose from. */
function choice(what: string, text: string, choices: readonly string[] | undefined): string {
  if (choices === undefined || choices.includes(text)) return text;
  const guess = nearest(text, choices);
  throw usage(
    `${what} is ${choices.join(", ")}, not "${text}"${guess === undefined ? "" : `; did you mean ${guess}?`}`,
  );
}

const UNIT_MS: Readonly<Record<string, number>> = { ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 };

/** `90s`, `2h30m`, `1d`, `500ms`, or a bare number of seconds, as milliseconds; undefined when it is none of these. */
export function readDuration(text: string): number | undefined {
  if (/^\d+$/.test(text)) return Number(text) * 1000;
  if (!/^(\d+(\.\d+)?(ms|s|m|h|d))+$/.test(text)) return undefined;
  let total = 0;
  for (const [, amount = "0", unit = "s"] of text.matchAll(/(\d+(?:\.\d+)?)(ms|s|m|h|d)/g))
    total += Number(amount) * (UNIT_MS[unit] ?? 0);
  return total;
}

function withDefaults(specs: FlagSpecs, given: ReadonlyMap<string, unknown>): Record<string, unknown> {
  const values: Record<string, unknown> = {};
  for (const [key, spec] of Object.entries(specs)) {
    if (given.has(key)) values[key] = given.get(key);
    else if (spec.type === "boolean") values[key] = false;
    else if (spec.type === "list") values[key] = [];
    else values[key] = spec.default;
    if (spec.type !== "boolean" && spec.required && !given.has(key))
      throw usage(`flag --${key} ${spec.value} is required`);
  }
  return values;
}

/** An argument as people see it: NODE for `args.node`. */
export function argName(name: string): string {
  return name.toUpperCase();
}

/** Gives each argument its name; too few and too many are mistakes. */
function assign(specs: ArgSpecs, words: readonly string[]): Record<string, unknown> {
  const values: Record<string, unknown> = {};
  let taken = 0;
  for (const [name, spec] of Object.entries(specs)) {
    const mine = spec.many ? words.slice(taken) : words.slice(taken, taken + 1);
    if (mine.length === 0 && !spec.optional) throw usage(`${argName(name)} is missing: ${spec.summary}`);
    for (const word of mine) choice(argName(name), word, spec.choices);
    values[name] = spec.many ? mine : mine[0];
    taken += mine.length;
  }
  const extra = words[taken];
  if (extra !== undefined) throw usage(`"${extra}" is one argument too many`);
  return values;
}
