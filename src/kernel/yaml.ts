/** YAML as people write it, read against a shape: every value with its place, every fault with a sentence. */
import {
  type Document,
  isAlias,
  isMap,
  isScalar,
  isSeq,
  LineCounter,
  type Node,
  parseAllDocuments,
  type Scalar,
  type YAMLMap,
} from "yaml";
import type { core } from "zod/mini";
import { nearest } from "./nearest.ts";

export interface Place {
  readonly file: string;
  /** Both from 1. */
  readonly line: number;
  readonly column: number;
}

/** Keys and list indices from the root to a value. */
export type Path = readonly (string | number)[];

/** Something wrong (or odd) at a place. `key` is the dotted path, "" for the file as a whole. */
export interface Complaint extends Place {
  readonly key: string;
  readonly message: string;
}

/** Values with their places. "unset" is an explicit null, "broken" a value that a complaint was made about. */
export type Tree =
  | { readonly kind: "value"; readonly at: Place; readonly value: string | number | boolean }
  | { readonly kind: "list"; readonly at: Place; readonly items: readonly Tree[] }
  | { readonly kind: "map"; readonly at: Place; readonly entries: ReadonlyMap<string, Tree> }
  | { readonly kind: "unset" | "broken"; readonly at: Place };

export type Shape = Readonly<Record<string, core.$ZodType>>;

export interface YamlSource {
  /** What stands before the line number in messages. */
  readonly name: string;
  readonly text: string;
}

export interface ReadYaml {
  /** Undefined when the file holds nothing that could be read. */
  readonly tree: Tree | undefined;
  /** Nothing but blanks and comments. */
  readonly empty: boolean;
  readonly faults: readonly Complaint[];
  readonly warnings: readonly Complaint[];
}

/** More is no configuration; a limit keeps a wrong path (a log, a device) from taking the memory. */
const LONGEST = 1024 * 1024;

/** `a.b[0].c` */
export function dotted(path: Path): string {
  return path.reduce<string>(
    (text, part) => (typeof part === "number" ? `${text}[${part}]` : text ? `${text}.${part}` : part),
    "",
  );
}

/** Reads one document against `shape`. Never throws: all that is wrong is in `faults`, with values only where they are no secrets. */
export function readYaml(source: YamlSource, shape: Shape): ReadYaml {
  const faults: Complaint[] = [];
  const warnings: Complaint[] = [];
  const start = { file: source.name, line: 1, column: 1 };
  const stop = (message: string, place: Place = start): ReadYaml => {
    faults.push({ ...place, key: "", message });
    return { tree: undefined, empty: false, faults, warnings };
  };
  if (source.text.length > LONGEST) return stop("the file is larger than 1 MiB, which no configuration is");
  const lines = new LineCounter();
  const place = (offset: number): Place => {
    const { line, col } = lines.linePos(offset);
    return { file: source.name, line: Math.max(line, 1), column: Math.max(col, 1) };
  };
  let documents: Document.Parsed[];
  try {
    // failsafe: every scalar stays the text that was written; what it means is decided by what is expected there.
    const text = source.text.replace(/^\uFEFF/, "");
    const parsed = parseAllDocuments(text, {
      schema: "failsafe",
      lineCounter: lines,
      uniqueKeys: false,
      prettyErrors: false,
      logLevel: "error",
    });
    documents = [...parsed];
  } catch (error) {
    return stop(
      `this is not YAML that can be read (${error instanceof RangeError ? "nested too deeply" : String(error)})`,
    );
  }
  const [document, second] = documents;
  if (!document) return { tree: undefined, empty: true, faults, warnings };
  if (second)
    stop('a second YAML document begins here ("---"); only one is allowed, so join them', place(second.range[0]));
  for (const error of document.errors) {
    const at = place(error.pos[0]);
    if (!faults.some((fault) => fault.line === at.line)) stop(syntaxSentence(error.code), at);
  }
  if (document.errors.length > 0) return { tree: undefined, empty: false, faults, warnings };
  if (isBlank(document.contents)) return { tree: undefined, empty: !second, faults, warnings };
  const reader = new Reader(document, place, faults, warnings);
  return { tree: reader.map(document.contents, shape, [], start), empty: false, faults, warnings };
}

function isBlank(node: Node | null): boolean {
  return node === null || (isScalar(node) && node.type === "PLAIN" && node.source === "" && !node.anchor && !node.tag);
}

/** The library's own messages may quote the text, and the text may be a password. */
function syntaxSentence(code: string): string {
  switch (code) {
    case "TAB_AS_INDENT":
      return "a tab is used to indent; YAML wants spaces";
    case "BAD_INDENT":
      return "this line is indented more or less than its neighbours, or a bracket before it is not closed";
    case "MULTILINE_IMPLICIT_KEY":
    case "BLOCK_AS_IMPLICIT_KEY":
      return 'this is neither a key nor a value here; look for a missing ":", "-" or quote, or a wrong indent, here or in the line above';
    case "MISSING_CHAR":
      return 'something is missing here: a closing quote or bracket, a comma, or a blank after ":"';
    case "BAD_DQ_ESCAPE":
      return 'a backslash in a double-quoted text begins something that YAML does not know; use single quotes, or write "\\\\"';
    case "BAD_SCALAR_START":
      return 'a value may not begin with "@", "`" or "%"; put it in quotes';
    case "TAG_RESOLVE_FAILED":
      return 'tags ("!name") are not supported; a value that begins with "!" needs quotes';
    case "BAD_ALIAS":
      return '"*name" stands for a value marked with "&name", and there is none; a value that begins with "*" needs quotes';
    default:
      return `this is not valid YAML here (${code.toLowerCase().replaceAll("_", " ")})`;
  }
}

type PlaceOf = (offset: number) => Place;

/** Walks the parsed document along the shape. */
class Reader {
  readonly #document: Document.Parsed;
  readonly #place: PlaceOf;
  readonly #faults: Complaint[];
  readonly #warnings: Complaint[];

  constructor(document: Document.Parsed, place: PlaceOf, faults: Complaint[], warnings: Complaint[]) {
    this.#document = document;
    this.#place = place;
    this.#faults = faults;
    this.#warnings = warnings;
  }

  #broken(path: Path, at: Place, message: string): Tree {
    this.#faults.push({ ...at, key: dotted(path), message });
    return { kind: "broken", at };
  }

  #at(node: Node | null | undefined, otherwise: Place): Place {
    return node?.range ? this.#place(node.range[0]) : otherwise;
  }

  /** `outer` is the place of what holds this value, for values that are not there. */
  value(given: Node | null, schema: core.$ZodType, path: Path, outer: Place): Tree {
    const at = this.#at(given, outer);
    const node = isAlias(given) ? (given.resolve(this.#document) ?? null) : given;
    if (isAlias(given) && node === null) return this.#broken(path, at, syntaxSentence("BAD_ALIAS"));
    // A value under its own alias would never end; no configuration is that deep.
    if (path.length > 32) return this.#broken(path, at, "is nested too deeply");
    if (node?.tag) return this.#broken(path, at, syntaxSentence("TAG_RESOLVE_FAILED"));
    if (isBlank(node) || (isScalar(node) && node.type === "PLAIN" && /^(?:~|null|Null|NULL)$/.test(node.source ?? "")))
      return { kind: "unset", at };
    const expected = expectation(schema, node);
    switch (expected.kind) {
      case "map":
        return this.map(node, expected.shape, path, at);
      case "record":
        return this.#record(node, expected.item, path, at);
      case "list":
        return this.#list(node, expected.item, path, at);
      default:
        return this.#scalar(node, expected, path, at);
    }
  }

  map(node: Node | null, shape: Shape, path: Path, at: Place): Tree {
    const known = Object.keys(shape);
    return this.#entries(node, path, at, (key, value, below, keyAt) => {
      const schema = Object.hasOwn(shape, key) ? shape[key] : undefined;
      if (schema) return this.value(value, schema, below, keyAt);
      const meant = nearest(key, known);
      const hint = meant
        ? `did you mean "${meant}"?`
        : known.length <= 10
          ? `known here: ${known.join(", ")}`
          : "take it out";
      this.#faults.push({ ...keyAt, key: dotted(below), message: `there is no such key; ${hint}` });
      return undefined;
    });
  }

  #record(node: Node | null, item: core.$ZodType, path: Path, at: Place): Tree {
    return this.#entries(node, path, at, (_key, value, below, keyAt) => this.value(value, item, below, keyAt));
  }

  #entries(
    node: Node | null,
    path: Path,
    at: Place,
    read: (key: string, value: Node | null, path: Path, at: Place) => Tree | undefined,
  ): Tree {
    if (!isMap(node)) return this.#broken(path, at, `must hold "key: value" lines, not ${found(node)}`);
    const entries = new Map<string, Tree>();
    const first = new Map<string, number>();
    for (const pair of (node as YAMLMap<Node | null, Node | null>).items) {
      const keyAt = this.#at(pair.key, at);
      if (!isScalar(pair.key) || isBlank(pair.key)) {
        this.#broken(path, keyAt, "a key must be a plain word");
        continue;
      }
      const key = String(pair.key.value);
      const before = first.get(key);
      if (before !== undefined) {
        this.#broken([...path, key], keyAt, `is written twice; the first is in line ${before}`);
        continue;
      }
      first.set(key, keyAt.line);
      const tree = read(key, pair.value, [...path, key], keyAt);
      if (tree) entries.set(key, tree);
    }
    return { kind: "map", at, entries };
  }

  #list(node: Node | null, item: core.$ZodType, path: Path, at: Place): Tree {
    if (!isSeq(node)) {
      const how = isScalar(node) ? ': write it as ["one", "two"], or as lines that begin with "- "' : "";
      return this.#broken(path, at, `must be a list, not ${found(node)}${how}`);
    }
    const items = node.items.map((entry, index) => {
      const tree = this.value(entry as Node | null, item, [...path, index], at);
      return tree.kind === "unset" ? this.#broken([...path, index], tree.at, "is empty") : tree;
    });
    return { kind: "list", at, items };
  }

  #scalar(node: Node | null, expected: ScalarExpectation, path: Path, at: Place): Tree {
    if (!isScalar(node)) return this.#broken(path, at, `must be ${WANTED[expected.kind]}, not ${found(node)}`);
    const read = readScalar(node, expected.kind);
    if ("problem" in read) {
      const written = expected.secret ? "" : `, not ${quoted(node)}`;
      return this.#broken(
        path,
        at,
        read.problem.replace("%", () => written),
      );
    }
    if (read.odd) this.#warnings.push({ ...at, key: dotted(path), message: read.odd });
    return { kind: "value", at, value: read.value };
  }
}

/** What was found, for a sentence; never the text itself. */
function found(node: Node | null): string {
  return isMap(node) ? "a group of keys" : isSeq(node) ? "a list" : "a single value";
}

/** The text as it was written, shortened. */
function quoted(node: Scalar): string {
  const text = node.type === "PLAIN" ? (node.source ?? "") : JSON.stringify(node.source ?? "");
  return text.length > 60 ? `${text.slice(0, 57)}…` : text;
}

type ScalarKind = "text" | "whole" | "number" | "switch";
interface ScalarExpectation {
  readonly kind: ScalarKind;
  readonly secret: boolean;
}
type Expectation =
  | ScalarExpectation
  | { readonly kind: "list" | "record"; readonly item: core.$ZodType }
  | { readonly kind: "map"; readonly shape: Shape };

const WANTED: Readonly<Record<ScalarKind, string>> = {
  text: "a text",
  whole: "a whole number",
  number: "a number",
  switch: "true or false",
};

/** What a schema wants to be given. Of a union the first part that fits the form of the node; a piped (transformed) value is a secret. */
function expectation(schema: core.$ZodType, node: Node | null, secret = false): Expectation {
  const def = (schema as core.$ZodTypes)._zod.def;
  switch (def.type) {
    case "optional":
    case "nullable":
    case "default":
    case "prefault":
    case "readonly":
    case "nonoptional":
      return expectation(def.innerType, node, secret);
    case "pipe":
      return expectation(def.in, node, true);
    case "object":
      return { kind: "map", shape: def.shape };
    case "record":
      return { kind: "record", item: def.valueType };
    case "array":
      return { kind: "list", item: def.element };
    case "boolean":
      return { kind: "switch", secret };
    case "number":
      return { kind: "format" in def ? "whole" : "number", secret };
    case "union": {
      const form = isMap(node) ? ["map", "record"] : isSeq(node) ? ["list"] : ["text", "whole", "number", "switch"];
      const options = def.options.map((option) => expectation(option, node, secret));
      return options.find(({ kind }) => form.includes(kind)) ?? options[0] ?? { kind: "text", secret };
    }
    default:
      return { kind: "text", secret };
  }
}

type ScalarRead = { readonly value: string | number | boolean; readonly odd?: string } | { readonly problem: string };

/** "%" in a problem is where the value may be named. The words and number forms are those of the Go decoder (YAML 1.1). */
function readScalar(node: Scalar, kind: ScalarKind): ScalarRead {
  const text = node.type === "PLAIN" ? (node.source ?? "") : String(node.value);
  if (kind === "text") return { value: text };
  if (node.type !== "PLAIN") return { problem: `must be ${WANTED[kind]} without quotes%` };
  if (kind === "switch") {
    if (/^(?:true|True|TRUE|yes|Yes|YES|on|On|ON|y|Y)$/.test(text)) return { value: true };
    if (/^(?:false|False|FALSE|no|No|NO|off|Off|OFF|n|N)$/.test(text)) return { value: false };
    return { problem: "must be true or false%" };
  }
  return readNumber(text, kind);
}

function readNumber(text: string, kind: "whole" | "number"): ScalarRead {
  const bare = text.replaceAll("_", "");
  const sign = bare.startsWith("-") ? -1 : 1;
  const digits = bare.replace(/^[+-]/, "");
  const wanted = `must be ${WANTED[kind]}%`;
  if (!/^[+-]?[0-9.]/.test(text)) return { problem: wanted };
  if (/^0[0-9]+$/.test(digits)) {
    if (/[89]/.test(digits)) return { problem: `${wanted}; a number may not begin with 0` };
    const value = sign * Number.parseInt(digits, 8);
    return { value, odd: `${text} begins with 0 and is therefore octal: it means ${value}` };
  }
  if (/^0(?:x[0-9a-f]+|o[0-7]+|b[01]+)$/i.test(digits)) return ranged(sign * Number(digits), wanted);
  if (!/^(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:e[+-]?[0-9]+)?$/i.test(digits)) return { problem: wanted };
  const value = sign * Number(digits);
  if (kind === "whole" && !Number.isInteger(value)) return { problem: wanted };
  return kind === "whole" ? ranged(value, wanted) : Number.isFinite(value) ? { value } : { problem: wanted };
}

function ranged(value: number, wanted: string): ScalarRead {
  return Number.isSafeInteger(value) ? { value: value + 0 } : { problem: `${wanted}, which is too large` };
}
