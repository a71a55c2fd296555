/** One line per event: JSON for machines, aligned text for people. */
import type { Clock } from "./clock.ts";
import { Fault, sentence } from "./errors.ts";

export type Level = "debug" | "info" | "warn" | "error";
export type Fields = Readonly<Record<string, unknown>>;

export interface Log {
  /** `event` is a stable snake_case word; `message` a sentence for a person (may be empty); `fields` the facts. */
  (level: Level, event: string, message: string, fields?: Fields): void;
}

/** From the least to the most important. */
export const LEVELS: readonly Level[] = ["debug", "info", "warn", "error"];

export interface LogOptions {
  /** Gets one whole line at a time, its line break included. */
  readonly write: (line: string) => void;
  readonly clock: Pick<Clock, "now">;
  /** Less important events are not written. */
  readonly level: Level;
}

export interface JsonLogOptions extends LogOptions {
  readonly base: { readonly node: string; readonly component: string };
}

/** One JSON object a line: ts, level, node, component, event, message (left out when empty), fields. Never throws for what is logged. */
export function jsonLog({ write, clock, level: least, base }: JsonLogOptions): Log {
  return (level, event, message, fields = {}) => {
    if (!passes(level, least)) return;
    const line = { ts: localTime(clock.now()), level, ...base, event, ...(message === "" ? {} : { message }) };
    write(`${asJson({ ...line, fields }) ?? asJson({ ...line, fields: { unprintable: true } })}\n`);
  };
}

/** For people at a terminal: time of day, level, the sentence (or the event), and the fields as key=value. */
export function textLog({ write, clock, level: least }: LogOptions): Log {
  return (level, event, message, fields = {}) => {
    if (!passes(level, least)) return;
    const facts = Object.entries(fields).flatMap(([key, value]) =>
      value === undefined ? [] : [`${key}=${inline(value)}`],
    );
    const time = localTime(clock.now()).slice(11, 19);
    write(`${visible([time, level.padEnd(5), message === "" ? event : message, ...facts].join(" ").trimEnd())}\n`);
  };
}

function passes(level: Level, least: Level): boolean {
  return LEVELS.indexOf(level) >= LEVELS.indexOf(least);
}

/** What somebody else wrote (a user's name, a script, a node) must neither steer the terminal nor pass for a line of its own. */
function visible(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is looked for
  return text.replace(/[\u0000-\u001f\u007f-\u009f]/g, (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, "0")}`);
}

function inline(value: unknown): string {
  if (value instanceof Error) return JSON.stringify(sentence(value));
  const text = typeof value === "string" ? value : (asJson(value) ?? "?");
  return typeof value === "string" && /[\s"=]|^$/.test(text) ? JSON.stringify(text) : text;
}

/** Undefined for what JSON cannot say (a circle, a getter that throws). */
function asJson(value: unknown): string | undefined {
  try {
    return JSON.stringify(value, (_key, part: unknown) => {
      if (part instanceof Error)
        return { kind: part instanceof Fault ? part.kind : part.name, message: sentence(part) };
      return typeof part === "bigint" ? part.toString() : part;
    });
  } catch {
    return undefined; // the caller writes the event all the same, and says that its fields could not be printed
  }
}

/** RFC 3339 with milliseconds in the time zone of the process: 2026-03-29T01:59:59.123+01:00. */
export function localTime(ms: number): string {
  const date = new Date(ms);
  const offset = -date.getTimezoneOffset();
  const two = (n: number) => String(Math.trunc(Math.abs(n))).padStart(2, "0");
  const local = new Date(ms + offset * 60_000).toISOString().slice(0, -1);
  return `${local}${offset < 0 ? "-" : "+"}${two(offset / 60)}:${two(offset % 60)}`;
}
