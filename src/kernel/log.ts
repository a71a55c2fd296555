/** One line per event: JSON for machines, aligned text for people. */

export type Level = "debug" | "info" | "warn" | "error";
export type Fields = Readonly<Record<string, unknown>>;

export interface Log {
  /** `event` is a stable snake_case word; `message` a sentence for a person (may be empty); `fields` the facts. */
  (level: Level, event: string, message: string, fields?: Fields): void;
}
