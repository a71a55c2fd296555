/** Tables line up whatever is in them, and colours appear only where somebody sees them. */
import { describe, expect, test } from "bun:test";
import { printer, type Sink, style, tableLines, wantsColor } from "./output.ts";

interface Row {
  readonly node: string;
  readonly waits: number;
}

const columns = [
  { title: "NODE", cell: (row: Row) => row.node, max: 8 },
  { title: "WAITS", cell: (row: Row) => row.waits, align: "right" as const },
];
const plain = style(false);

describe("tables", () => {
  test("columns are as wide as their widest cell, as a terminal counts it", () => {
    const rows = [
      { node: "a", waits: 5 },
      { node: "機械", waits: 12345678 },
      { node: style(true).red("red"), waits: 0 },
    ];
    expect(tableLines(rows, columns, { style: plain, shorten: false })).toEqual([
      "NODE     WAITS",
      "a            5",
      "機械  12345678",
      "\u001b[31mred\u001b[39m          0",
    ]);
  });

  test("a foreign value can neither break a line nor steer the terminal", () => {
    const [, line] = tableLines([{ node: "a\nb\u001b[2Jc\u0007", waits: 1 }], columns, {
      style: plain,
      shorten: false,
    });
    expect(line).toBe("a b [2Jc       1");
  });

  test("long cells are cut on a terminal only", () => {
    const rows = [{ node: "a-very-long-name", waits: 1 }];
    expect(tableLines(rows, columns, { style: plain, shorten: true })[1]).toBe("a-very-…      1");
    expect(tableLines(rows, columns, { style: plain, shorten: false })[1]).toStartWith("a-very-long-name ");
  });

  test("no rows: the sentence given for it", () => {
    const text: string[] = [];
    const sink: Sink = { isTTY: false, columns: undefined, write: (more) => text.push(more) };
    printer(sink, sink, {}).table([], columns, "Nobody waits.");
    expect(text).toEqual(["Nobody waits.\n"]);
  });
});

test("what a foreign node wrote cannot steer the terminal, on any line; our colours, tabs and line ends stay", () => {
  const text: string[] = [];
  const sink: Sink = { isTTY: true, columns: undefined, write: (more) => text.push(more) };
  const out = printer(sink, sink, {});
  const node = "web\u001b]0;mine\u0007\r\u009b2J";
  out.line(`${out.style.red("held")} by ${node}`);
  out.note(`one\n\ttwo ${node}`);
  expect(text).toEqual(["\u001b[31mheld\u001b[39m by web ]0;mine   2J\n", "one\n\ttwo web ]0;mine   2J\n"]);
});

describe("colours", () => {
  const sink = (isTTY: boolean): Sink => ({ isTTY, columns: undefined, write: () => undefined });

  test.each([
    [true, {}, true],
    [false, {}, false],
    [true, { NO_COLOR: "1" }, false],
    [true, { NO_COLOR: "" }, true],
    [true, { TERM: "dumb" }, false],
    [false, { FORCE_COLOR: "1" }, true],
    [true, { FORCE_COLOR: "1", NO_COLOR: "1" }, false],
  ])("terminal %p with %p: %p", (isTTY, env, wanted) => {
    expect(wantsColor(sink(isTTY), env)).toBe(wanted);
  });
});
