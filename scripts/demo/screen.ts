/** Where the demo shows itself: a picture that is drawn again and again in its place on a terminal, plain lines anywhere else. */
import { type Style, style, wantsColor } from "../../src/commands/output.ts";
import { processTerminal } from "../../src/commands/terminal.ts";
import { LEAST_ROWS } from "./picture.ts";

const HIDE = "\u001b[?25l";
const SHOW = "\u001b[?25h";
/** Terminals that know this show a frame when it is whole. */
const FRAME = { begin: "\u001b[?2026h", end: "\u001b[?2026l" };

export class Screen {
  readonly style: Style;
  readonly unicode: boolean;
  /** The picture moves; otherwise events are printed as they come. */
  readonly live: boolean;
  readonly #out = processTerminal().stdout;
  /** Widths of the lines of the last frame. */
  #drawn: number[] = [];

  constructor(env: Readonly<Record<string, string | undefined>>) {
    this.style = style(wantsColor(this.#out, env));
    this.unicode = !/^(C|POSIX)$/.test(env.LC_ALL || env.LC_CTYPE || env.LANG || "");
    this.live = this.#out.isTTY && env.TERM !== "dumb" && this.rows >= LEAST_ROWS && this.columns >= 72;
    if (this.live) this.#out.write(HIDE);
  }

  get columns(): number {
    return this.#out.columns ?? 80;
  }

  get rows(): number {
    return this.live ? process.stdout.rows : (process.stdout.rows ?? 24);
  }

  /** Draws these lines where the last ones were. */
  draw(lines: readonly string[]): void {
    this.#out.write(
      `${FRAME.begin}${this.#back()}${lines.map((line) => `${line}\u001b[K\n`).join("")}\u001b[J${FRAME.end}`,
    );
    this.#drawn = lines.map((line) => Bun.stringWidth(line));
  }

  /** Prints lines that stay. */
  print(lines: readonly string[]): void {
    this.#out.write(lines.map((line) => `${line}\n`).join(""));
  }

  /** Takes the picture away: what is printed next stays. */
  clear(): void {
    if (this.live) this.#out.write(`${this.#back()}\u001b[J`);
    this.#drawn = [];
  }

  /** Gives the terminal back as it was. */
  restore(): void {
    if (this.live) this.#out.write(SHOW);
  }

  /** To the first line of the last frame. A terminal made narrower has wrapped its lines. */
  #back(): string {
    const rows = this.#drawn.reduce((sum, width) => sum + Math.max(1, Math.ceil(width / this.columns)), 0);
    return rows === 0 ? "" : `\u001b[${Math.min(rows, this.rows - 1)}F`;
  }
}
