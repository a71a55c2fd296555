/** What each way of writing a value means, and the sentence for each way that means nothing. */
import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import * as z from "zod/mini";
import { dotted, readYaml, type Shape, type Tree } from "./yaml.ts";

const shape: Shape = {
  text: z.optional(z.string()),
  whole: z._default(z.int(), 7),
  number: z.optional(z.number()),
  flag: z._default(z.boolean(), false),
  list: z.optional(z.array(z.string())),
  group: z.optional(z.object({ inner: z.optional(z.string()), deep: z.optional(z.object({ x: z.int() })) })),
  many: z.optional(z.array(z.object({ name: z.string(), count: z.optional(z.int()) }))),
  either: z.optional(z.union([z.array(z.string()), z.string()])),
  table: z.optional(z.record(z.string(), z.int())),
  password: z.optional(
    z.pipe(
      z.string(),
      z.transform((value: string) => value),
    ),
  ),
  pin: z.optional(
    z.pipe(
      z.int(),
      z.transform((value: number) => value),
    ),
  ),
};

function plain(tree: Tree | undefined): unknown {
  if (tree?.kind === "value") return tree.value;
  if (tree?.kind === "list") return tree.items.map(plain);
  if (tree?.kind === "map") return Object.fromEntries([...tree.entries].map(([key, value]) => [key, plain(value)]));
  return tree?.kind === "unset" ? null : undefined;
}

const read = (text: string) => readYaml({ name: "f.yaml", text }, shape);
const values = (text: string) => {
  const { tree, faults } = read(text);
  expect(faults).toEqual([]);
  return plain(tree);
};
/** The faults of a text as `line:column key: sentence`. */
const faults = (text: string) =>
  read(text).faults.map(({ line, column, key, message }) => `${line}:${column} ${key}: ${message}`);

describe("values that are accepted", () => {
  test.each([
    // Whole numbers, as the Go decoder reads them.
    ["whole: 60", { whole: 60 }],
    ["whole: -5", { whole: -5 }],
    ["whole: +5", { whole: 5 }],
    ["whole: 010", { whole: 8 }],
    ["whole: 0o10", { whole: 8 }],
    ["whole: 0x10", { whole: 16 }],
    ["whole: 0b101", { whole: 5 }],
    ["whole: 1_000", { whole: 1000 }],
    ["whole: 1e3", { whole: 1000 }],
    ["whole: 60.0", { whole: 60 }],
    ["whole: -0", { whole: 0 }],
    ["whole:", { whole: null }],
    ["whole: null", { whole: null }],
    ["whole: ~ # a comment", { whole: null }],
    ["number: 0.5", { number: 0.5 }],
    ["number: .5", { number: 0.5 }],
    ["number: 1", { number: 1 }],
    // Switches with the words of YAML 1.1.
    ...["true", "True", "yes", "on", "On", "Y"].map((word) => [`flag: ${word}`, { flag: true }] as const),
    ...["false", "FALSE", "no", "off", "n"].map((word) => [`flag: ${word}`, { flag: false }] as const),
    // A text is what was written.
    ["text: 123", { text: "123" }],
    ["text: 010", { text: "010" }],
    ["text: true", { text: "true" }],
    ["text: 5.70", { text: "5.70" }],
    ["text: 2026-01-01", { text: "2026-01-01" }],
    ['text: "null"', { text: "null" }],
    ['text: ""', { text: "" }],
    ['text: "a\\nb"', { text: "a\nb" }],
    ["text: |\n  a\n  b\n", { text: "a\nb\n" }],
    ["text: >\n  a\n  b\n", { text: "a b\n" }],
    ["list: [a, 5, yes]", { list: ["a", "5", "yes"] }],
    ["list:\n- a\n- 'b c'\n", { list: ["a", "b c"] }],
    ["list: []", { list: [] }],
    ["group: {inner: x, deep: {x: 1}}", { group: { inner: "x", deep: { x: 1 } } }],
    ["group:", { group: null }],
    ["many: [{name: a, count: 2}]", { many: [{ name: "a", count: 2 }] }],
    ["either: x", { either: "x" }],
    ["either: [x]", { either: ["x"] }],
    ["table: {a: 1, b: 0x2}", { table: { a: 1, b: 2 } }],
    ["text: &t same\nlist: [*t]", { text: "same", list: ["same"] }],
    ["---\ntext: x\n", { text: "x" }],
    ["\uFEFFtext: x", { text: "x" }],
    ["text: x\r\nwhole: 5\r\n", { text: "x", whole: 5 }],
    ["{}", {}],
  ] as const)("%s", (text, expected) => {
    expect(values(text)).toEqual(expected);
  });

  test("an octal number is read, and pointed out", () => {
    expect(read("whole: 010").warnings).toEqual([
      {
        file: "f.yaml",
        line: 1,
        column: 8,
        key: "whole",
        message: "010 begins with 0 and is therefore octal: it means 8",
      },
    ]);
  });
});

describe("values that are refused", () => {
  test.each([
    ["whole: 5.7", "1:8 whole: must be a whole number, not 5.7"],
    ['whole: "60"', '1:8 whole: must be a whole number without quotes, not "60"'],
    ["whole: '60'", '1:8 whole: must be a whole number without quotes, not "60"'],
    ["whole: 60s", "1:8 whole: must be a whole number, not 60s"],
    ["whole: 1:30", "1:8 whole: must be a whole number, not 1:30"],
    ["whole: 09", "1:8 whole: must be a whole number, not 09; a number may not begin with 0"],
    ["whole: 99999999999999999999", "1:8 whole: must be a whole number, not 99999999999999999999, which is too large"],
    ["whole: .inf", "1:8 whole: must be a whole number, not .inf"],
    ["number: 1e999", "1:9 number: must be a number, not 1e999"],
    ["whole: true", "1:8 whole: must be a whole number, not true"],
    ["whole: [1]", "1:8 whole: must be a whole number, not a list"],
    ["whole: {a: 1}", "1:8 whole: must be a whole number, not a group of keys"],
    ["flag: 1", "1:7 flag: must be true or false, not 1"],
    ['flag: "true"', '1:7 flag: must be true or false without quotes, not "true"'],
    ["flag: maybe", "1:7 flag: must be true or false, not maybe"],
    ["text: [a]", "1:7 text: must be a text, not a list"],
    [
      "list: a b",
      '1:7 list: must be a list, not a single value: write it as ["one", "two"], or as lines that begin with "- "',
    ],
    ["list: {a: b}", "1:7 list: must be a list, not a group of keys"],
    ["list: [a, ~]", "1:11 list[1]: is empty"],
    ["list:\n- a\n-\n", "3:2 list[1]: is empty"],
    ["group: x", '1:8 group: must hold "key: value" lines, not a single value'],
    ["group: [a]", '1:8 group: must hold "key: value" lines, not a list'],
    ["many:\n- name: a\n  cuont: 2\n", '3:3 many[0].cuont: there is no such key; did you mean "count"?'],
    ["group:\n  other: 1", "2:3 group.other: there is no such key; known here: inner, deep"],
    ["wohle: 5", '1:1 wohle: there is no such key; did you mean "whole"?'],
    ["Whole: 5", '1:1 Whole: there is no such key; did you mean "whole"?'],
    ["zzzzzzzzzz: 5", "1:1 zzzzzzzzzz: there is no such key; take it out"],
    ["__proto__: 5", "1:1 __proto__: there is no such key; take it out"],
    ["constructor: 5", "1:1 constructor: there is no such key; take it out"],
    ["text: a\ntext: b", "2:1 text: is written twice; the first is in line 1"],
    ["whole: 1\nwhole: 1", "2:1 whole: is written twice; the first is in line 1"],
    [
      "nope: 1\nnope: 2",
      "1:1 nope: there is no such key; take it out|2:1 nope: is written twice; the first is in line 1",
    ],
    ["[a]: b", "1:1 : a key must be a plain word"],
    ["<<: {text: a}", "1:1 <<: there is no such key; take it out"],
    ["- a", '1:1 : must hold "key: value" lines, not a list'],
    ["just words", '1:1 : must hold "key: value" lines, not a single value'],
    ["text: a\n---\nwhole: 5\n", '2:1 : a second YAML document begins here ("---"); only one is allowed, so join them'],
    ["text: !!int 5", '1:13 text: tags ("!name") are not supported; a value that begins with "!" needs quotes'],
    ["text: !secret x", '1:15 text: tags ("!name") are not supported; a value that begins with "!" needs quotes'],
    [
      "text: *none",
      '1:7 text: "*name" stands for a value marked with "&name", and there is none; a value that begins with "*" needs quotes',
    ],
    ["many: &m\n- *m", '2:3 many[0]: must hold "key: value" lines, not a list'],
    ["table: &t\n  a: *t", "2:6 table.a: must be a whole number, not a group of keys"],
  ] as const)("%s", (text, expected) => {
    expect(faults(text).join("|")).toBe(expected);
  });

  test.each([
    ["group:\n\tinner: x", "2:1 : a tab is used to indent; YAML wants spaces"],
    ["text: 'a", '1:9 : something is missing here: a closing quote or bracket, a comma, or a blank after ":"'],
    [
      "list: [a, b",
      "1:12 : this line is indented more or less than its neighbours, or a bracket before it is not closed",
    ],
    [
      "group:\n  inner: x\n deep: {x: 1}",
      "3:1 : this line is indented more or less than its neighbours, or a bracket before it is not closed",
    ],
    [
      "text: a: b",
      '1:7 : this is neither a key nor a value here; look for a missing ":", "-" or quote, or a wrong indent, here or in the line above',
    ],
    ["text: @x", '1:7 : a value may not begin with "@", "`" or "%"; put it in quotes'],
    [
      'text: "\\q"',
      '1:8 : a backslash in a double-quoted text begins something that YAML does not know; use single quotes, or write "\\\\"',
    ],
  ] as const)("broken YAML: %j", (text, expected) => {
    expect(faults(text)[0]).toBe(expected);
  });

  test("all of them at once, each with its place", () => {
    const text = "whole: x\nlist:\n  - {a: 1}\n  - b\nmany:\n  - name: a\n    count: many\n  - nmae: b\nflag: 1\n";
    expect(faults(text)).toEqual([
      "1:8 whole: must be a whole number, not x",
      "3:5 list[0]: must be a text, not a group of keys",
      "7:12 many[0].count: must be a whole number, not many",
      '8:5 many[1].nmae: there is no such key; did you mean "name"?',
      "9:7 flag: must be true or false, not 1",
    ]);
  });

  test("the value of a secret is never repeated, not even where the YAML is broken", () => {
    const texts = [
      "password: [hunter2]",
      "pin: hunter2",
      'pin: "hunter2"',
      'password: "hunter2',
      "password: 'a' hunter2",
      "password: @hunter2",
      "password: x: hunter2\n y",
      "password: ]hunter2",
      "password: *hunter2",
      "password: !hunter2 x",
      "password: hunter2\n  : hunter2\n]",
    ];
    for (const text of texts) {
      const { faults } = read(text);
      expect(faults.length).toBeGreaterThan(0);
      expect(JSON.stringify(faults)).not.toContain("hunter2");
    }
  });
});

describe("whole files", () => {
  test.each(["", "\n\n", "# only a comment\n", "\uFEFF", "---\n", "--- # nothing\n...\n"])("empty: %j", (text) => {
    expect(read(text)).toMatchObject({ tree: undefined, empty: true, faults: [] });
  });

  test("a file that is far too large is not read", () => {
    expect(faults(`text: ${"x".repeat(1024 * 1024)}`)).toEqual([
      "1:1 : the file is larger than 1 MiB, which no configuration is",
    ]);
  });

  test("nested without end", () => {
    expect(faults(`text: ${"[".repeat(50_000)}`).length).toBeGreaterThan(0);
  });

  test("any text at all gives a tree or faults, and never an exception", () => {
    const fragment = fc.constantFrom(
      "text",
      "whole",
      "many",
      "group",
      ": ",
      "\n",
      "  ",
      "- ",
      "[",
      "]",
      "{",
      "}",
      ",",
      '"',
      "'",
      "&a ",
      "*a",
      "!t ",
      "|\n",
      "#",
      "---\n",
      "\t",
      "? ",
      "<<",
      "5",
      "~",
      "%",
      "@",
      "`",
      "\u0000",
      "\uFEFF",
      "é",
    );
    const text = fc.oneof(
      fc.string({ unit: "binary", maxLength: 60 }),
      fc.array(fragment, { maxLength: 30 }).map((parts) => parts.join("")),
    );
    fc.assert(
      fc.property(text, (given) => {
        const { tree, faults, empty } = read(given);
        expect(tree !== undefined || empty || faults.length > 0).toBe(true);
        for (const fault of faults) {
          expect(fault.line).toBeGreaterThan(0);
          expect(fault.column).toBeGreaterThan(0);
          expect(fault.message).not.toContain("\n");
        }
      }),
      { numRuns: 2000 },
    );
  });
});

test("dotted paths", () => {
  expect(dotted([])).toBe("");
  expect(dotted(["a", 0, "b", "c", 2])).toBe("a[0].b.c[2]");
});
