/** What commands print: lines, aligned tables and JSON, coloured only where a person looks. */

/** Where text goes. Writing to a reader that has gone away is not an error. */
export interface Sink {
  write(text: string): void;
  readonly isTTY: boolean;
  /** Width of the terminal; undefined when it is none. */
  readonly columns: number | undefined;
}

/** Where text comes from. */
export interface Source {
  readonly isTTY: boolean;
  /** All of it, until its end. */
  text(): Promise<string>;
  /** One line; from a terminal after asking, and without showing what is typed. */
  secret(prompt: string): Promise<string>;
  /** One line; a terminal is asked first. */
  line(prompt: string): Promise<string>;
}

type Paint = (text: string) => string;

export interface Style {
  readonly bold: Paint;
  readonly dim: Paint;
  readonly red: Paint;
  readonly green: Paint;
  readonly yellow: Paint;
  readonly cyan: Paint;
}

export interface Column<Row> {
  readonly title: string;
  /** The cell's text; colours are allowed and not counted. */
  readonly cell: (row: Row) => string | number | undefined;
  readonly align?: "left" | "right";
  /** Longer cells end in "…", on a terminal only: what a script reads stays whole. */
  readonly max?: number;
}

export interface Out {
  /** One line (or several) to standard output. */
  line(text?: string): void;
  /** One line to standard error: what is said beside the result. */
  note(text: string): void;
  /** The whole result for a script. */
  json(value: unknown): void;
  /** Rows under titles, columns lined up; prints `empty` when there are none. */
  table<Row>(rows: readonly Row[], columns: readonly Column<Row>[], empty?: string): void;
  /** Colours for standard output; they do nothing where nobody would see them. */
  readonly style: Style;
  /** Standard output is a terminal: something may be redrawn. */
  readonly isTTY: boolean;
  /** Width to fill; 80 when there is no terminal. */
  readonly columns: number;
}

/** Colours on: FORCE_COLOR says so, or it is a terminal and neither NO_COLOR nor TERM=dumb speaks against it. */
export function wantsColor(sink: Sink, env: Readonly<Record<string, string | undefined>>): boolean {
  if (env.NO_COLOR) return false;
  if (env.FORCE_COLOR && env.FORCE_COLOR !== "0") return true;
  return sink.isTTY && env.TERM !== "dumb";
}

/** The colours, or functions that change nothing. */
export function style(on: boolean): Style {
  const paint =
    (code: number, end: number): Paint =>
    (text) =>
      on && text !== "" ? `\u001b[${code}m${text}\u001b[${end}m` : text;
  return {
    bold: paint(1, 22),
    dim: paint(2, 22),
    red: paint(31, 39),
    green: paint(32, 39),
    yellow: paint(33, 39),
    cyan: paint(36, 39),
  };
}

/** The printer for a pair of sinks. */
export function printer(stdout: Sink, stderr: Sink, env: Readonly<Record<string, string | undefined>>): Out {
  const colors = style(wantsColor(stdout, env));
  return {
    line: (text = "") => stdout.write(`${harmless(text)}\n`),
    note: (text) => stderr.write(`${harmless(text)}\n`),
    json: (value) => stdout.write(`${JSON.stringify(value, null, 2)}\n`),
    table: (rows, columns, empty) => {
      if (rows.length === 0 && empty !== undefined) return stdout.write(`${empty}\n`);
      for (const line of tableLines(rows, columns, { style: colors, shorten: stdout.isTTY })) stdout.write(`${line}\n`);
    },
    style: colors,
    isTTY: stdout.isTTY,
    columns: stdout.columns ?? 80,
  };
}

/** The lines of a table. Widths are those a terminal shows: East Asian characters count two, colours nothing. */
export function tableLines<Row>(
  rows: readonly Row[],
  columns: readonly Column<Row>[],
  options: { readonly style: Style; readonly shorten: boolean },
): string[] {
  const shorten = (text: string, max: number | undefined) =>
    options.shorten && max !== undefined && Bun.stringWidth(text) > max
      ? `${Bun.sliceAnsi(text, 0, Math.max(0, max - 1))}…`
      : text;
  const cells = rows.map((row) => columns.map(({ cell, max }) => shorten(oneLine(cell(row)), max)));
  const widths = columns.map(({ title }, i) =>
    Math.max(Bun.stringWidth(title), ...cells.map((row) => Bun.stringWidth(row[i] ?? ""))),
  );
  const lay = (row: readonly string[]) =>
    row
      .map((text, i) => pad(text, widths[i] ?? 0, columns[i]?.align ?? "left"))
      .join("  ")
      .trimEnd();
  const head = columns.map(({ title }, i) => pad(title, widths[i] ?? 0, columns[i]?.align ?? "left")).join("  ");
  return [options.style.bold(head.trimEnd()), ...cells.map(lay)];
}

/** `text` with blanks up to `width` as a terminal counts it. */
export function pad(text: string, width: number, align: "left" | "right" = "left"): string {
  const blanks = " ".repeat(Math.max(0, width - Bun.stringWidth(text)));
  return align === "left" ? text + blanks : blanks + text;
}

/** A cell is one line. */
function oneLine(value: string | number | undefined): string {
  return harmless(String(value ?? "")).replace(/[\t\n]/g, " ");
}

/** What a foreign node wrote into the store must not steer the terminal; line ends, tabs and our own colours stay. */
function harmless(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: control characters are what is looked for; ESC [ … m is a colour of ours.
  return text.replace(/\u001b(?!\[[0-9;]*m)|[\u0000-\u0008\u000b-\u001a\u001c-\u001f\u007f-\u009f]/g, " ");
}
