/** Configuration: YAML files joined, checked against a shape and rules, every fault told at once as `file:line:col: key: sentence`. */
import { readdirSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import * as z from "zod/mini";
import { EXIT, Fault } from "./errors.ts";
import { Secret } from "./secret.ts";
import {
  type Complaint,
  dotted,
  type Path,
  type Place,
  readYaml,
  type Shape,
  type Tree,
  type YamlSource,
} from "./yaml.ts";

/** What a shape's values are once they are read. */
export type ValuesOf<S extends Shape> = { readonly [K in keyof S]: z.core.output<S[K]> };

/** A rule over several keys. It is asked only when every key in `needs` is without fault, so it never sees half a value. */
export interface Rule<T> {
  readonly needs: readonly (keyof T & string)[];
  check(values: T, complain: (path: Path, message: string) => void): void;
}

export interface ConfigOptions<T> {
  readonly rules?: readonly Rule<T>[];
  /** Keys where an empty value (0, "", []) stands for the default, as it did in the original; a warning says so. */
  readonly emptyIsDefault?: readonly (keyof T & string)[];
  /** Keys whose default means something else than "empty": given, they must hold something. The sentence says what to do. */
  readonly notEmpty?: Readonly<Partial<Record<keyof T & string, string>>>;
}

export interface Loaded<T> {
  readonly values: T;
  readonly warnings: readonly Complaint[];
}

/** Kind `config.invalid`, exit code 2; its message has one line for each complaint. */
export class ConfigFault extends Fault {
  readonly complaints: readonly Complaint[];

  constructor(complaints: readonly Complaint[]) {
    super("config.invalid", complaints.map(inWords).join("\n"), { exitCode: EXIT.config });
    this.complaints = complaints;
  }
}

/** `file:line:col: key.path: sentence` */
export function inWords({ file, line, column, key, message }: Complaint): string {
  return `${file}:${line}:${column}: ${key === "" ? "" : `${key}: `}${message}`;
}

/**
 * Reads the sources in order (a later one wins for single values and lists, groups of keys are joined), fills in the shape's defaults
 * and asks the rules. Throws a ConfigFault with every fault found. The first source must hold something; later ones may be empty.
 */
export function loadConfig<S extends Shape>(
  sources: readonly [YamlSource, ...YamlSource[]],
  shape: S,
  options: ConfigOptions<ValuesOf<S>> = {},
): Loaded<ValuesOf<S>> {
  const faults: Complaint[] = [];
  const warnings: Complaint[] = [];
  const origin: Place = { file: sources[0].name, line: 1, column: 1 };
  let tree: Tree | undefined;
  let unread = false;
  for (const [index, source] of sources.entries()) {
    const read = readYaml(source, shape);
    faults.push(...read.faults);
    warnings.push(...read.warnings);
    unread ||= read.tree === undefined && !read.empty;
    if (read.empty && index === 0)
      faults.push({ ...origin, key: "", message: "the file is empty; it must at least name the required keys" });
    if (read.tree) tree = tree ? joined(tree, read.tree) : read.tree;
  }
  // With a file unread or empty, "is required" about all that may stand in it would only bury the real fault.
  if (unread || !tree) throw new ConfigFault(inOrder(faults, sources));
  const checked = new Checked<S>(shape, tree, origin, faults, warnings);
  checked.fill(options.emptyIsDefault ?? [], options.notEmpty ?? {});
  checked.obey(options.rules ?? []);
  if (faults.length > 0) throw new ConfigFault(inOrder(faults, sources));
  return { values: checked.values, warnings };
}

function inOrder(complaints: readonly Complaint[], sources: readonly YamlSource[]): Complaint[] {
  const names = sources.map((source) => source.name);
  return [...complaints].sort(
    (a, b) => names.indexOf(a.file) - names.indexOf(b.file) || a.line - b.line || a.column - b.column,
  );
}

function joined(base: Tree, over: Tree): Tree {
  if (base.kind !== "map" || over.kind !== "map") return over;
  const entries = new Map(base.entries);
  for (const [key, tree] of over.entries) {
    const below = entries.get(key);
    entries.set(key, below ? joined(below, tree) : tree);
  }
  return { kind: "map", at: base.at, entries };
}

/** A tree on its way to values: what is filled in, what was found wrong, and which keys are beyond judging. */
class Checked<S extends Shape> {
  values: ValuesOf<S>;
  readonly #shape: S;
  readonly #tree: Tree;
  readonly #origin: Place;
  readonly #faults: Complaint[];
  readonly #warnings: Complaint[];
  readonly #faulty = new Set<string>();

  constructor(shape: S, tree: Tree, origin: Place, faults: Complaint[], warnings: Complaint[]) {
    this.#shape = shape;
    this.#tree = tree;
    this.#origin = origin;
    this.#faults = faults;
    this.#warnings = warnings;
    this.values = {} as ValuesOf<S>;
  }

  /** Defaults, bounds and forms, key by key, so that one bad key hides no other. */
  fill(emptyIsDefault: readonly string[], notEmpty: Readonly<Record<string, string | undefined>>): void {
    const values: Record<string, unknown> = {};
    for (const [key, schema] of Object.entries(this.#shape)) {
      const tree = this.#tree.kind === "map" ? this.#tree.entries.get(key) : undefined;
      if (tree && holdsBroken(tree)) this.#faulty.add(key);
      let raw = tree && plain(tree);
      if (tree && emptyIsDefault.includes(key) && isEmpty(raw)) {
        raw = undefined;
        const standard = JSON.stringify(z.safeParse(schema, undefined).data);
        const message = `is empty (${JSON.stringify(plain(tree))}), which stands for the default, ${standard}; leave the key out to say that`;
        this.#warnings.push({ ...tree.at, key, message });
      }
      const wanted = notEmpty[key];
      if (tree && wanted !== undefined && (raw === undefined || isEmpty(raw)) && !this.#faulty.has(key)) {
        this.#faulty.add(key);
        this.#complain([key], wanted);
        continue;
      }
      const result = z.safeParse(schema, raw);
      if (result.success) values[key] = result.data;
      else {
        this.#faulty.add(key);
        for (const issue of result.error.issues) this.#complain([key, ...(issue.path as Path)], issueSentence(issue));
      }
    }
    this.values = values as ValuesOf<S>;
  }

  obey(rules: readonly Rule<ValuesOf<S>>[]): void {
    for (const rule of rules)
      if (!rule.needs.some((key) => this.#faulty.has(key)))
        rule.check(this.values, (path, message) => this.#complain(path, message));
  }

  #complain(path: Path, message: string): void {
    let at = this.#origin;
    let tree: Tree | undefined = this.#tree;
    for (const part of path) {
      tree = tree && below(tree, part);
      if (tree?.kind === "broken") return; // told already
      if (tree) at = tree.at;
    }
    this.#faults.push({ ...at, key: dotted(path), message });
  }
}

function below(tree: Tree, part: string | number): Tree | undefined {
  if (tree.kind === "map") return tree.entries.get(String(part));
  return tree.kind === "list" ? tree.items[Number(part)] : undefined;
}

function holdsBroken(tree: Tree): boolean {
  if (tree.kind === "map") return [...tree.entries.values()].some(holdsBroken);
  return tree.kind === "list" ? tree.items.some(holdsBroken) : tree.kind === "broken";
}

/** The bare value; what is unset or broken is left out. */
function plain(tree: Tree): unknown {
  switch (tree.kind) {
    case "value":
      return tree.value;
    case "list":
      return tree.items.map(plain);
    case "map":
      return Object.fromEntries(
        [...tree.entries].map(([key, value]) => [key, plain(value)]).filter(([, value]) => value !== undefined),
      );
    default:
      return undefined;
  }
}

function isEmpty(value: unknown): boolean {
  return (
    value === 0 || (typeof value === "string" && value.trim() === "") || (Array.isArray(value) && value.length === 0)
  );
}

/** Shapes bring sentences of their own for bounds; these are for what the library finds by itself. */
function issueSentence(issue: z.core.$ZodIssue): string {
  if (issue.code === "invalid_type" && issue.input === undefined) return "is required";
  if (issue.message !== "" && issue.message !== "Invalid input") return issue.message;
  switch (issue.code) {
    case "invalid_value":
      return `must be one of ${issue.values.join(", ")}`;
    case "too_small":
      return `must be ${issue.minimum} or more`;
    case "too_big":
      return `must be ${issue.maximum} or less`;
    default:
      return issue.code === "invalid_type" ? `must be a ${issue.expected}` : "is not valid";
  }
}

// ---- pieces of shapes ----

/** A whole number of at least `min`, and at most `max` if given. */
export function whole(min: number, max: number = Number.MAX_SAFE_INTEGER): z.ZodMiniNumberFormat {
  const sentence = max === Number.MAX_SAFE_INTEGER ? `must be ${min} or more` : `must be from ${min} to ${max}`;
  return z.int().check(z.gte(min, sentence), z.lte(max, sentence));
}

/** A text that is not blank. */
export function text(): z.ZodMiniString {
  return z.string().check(z.refine((value) => value.trim() !== "", "must not be empty"));
}

/** A path from the root. */
export function absolutePath(): z.ZodMiniString {
  return z
    .string()
    .check(z.refine((value) => value.startsWith("/"), "must be an absolute path (one that begins with /)"));
}

/** A text that becomes a Secret and is never quoted in a message. */
export function secret(): z.ZodMiniPipe<z.ZodMiniString, z.ZodMiniTransform<Secret, string>> {
  return z.pipe(
    text(),
    z.transform((value: string) => new Secret(value)),
  );
}

// ---- files ----

/** The few things that reading configuration asks of a file system; a test may bring another. Errors are those of node:fs. */
export interface ConfigFiles {
  read(path: string): string;
  /** The names in a directory. */
  list(path: string): readonly string[];
}

/** The files of this machine. */
export const realFiles: ConfigFiles = {
  read: (path) => readFileSync(path, "utf8"),
  list: (path) => readdirSync(path),
};

/**
 * The sources for `loadConfig`: the file, and after it the *.yaml files of `config.d` beside it in the order of their names.
 * Faults: `config.unreadable` (exit code 2) for the file; ConfigFault for what stands in config.d and would not be read.
 */
export function configSources(path: string, files: ConfigFiles): [YamlSource, ...YamlSource[]] {
  const main = { name: path, text: readOrFault(path, files) };
  const directory = join(dirname(path), "config.d");
  const names = [...listOrNothing(directory, files)].filter((name) => !name.startsWith(".")).sort();
  const strays = names.filter((name) => name.endsWith(".yml"));
  if (strays.length > 0)
    throw new ConfigFault(
      strays.map((name) => ({
        ...{ file: join(directory, name), line: 1, column: 1, key: "" },
        message: "only files whose names end in .yaml are read here, so what this one says would not hold; rename it",
      })),
    );
  const drops = names.filter((name) => name.endsWith(".yaml"));
  return [
    main,
    ...drops.map((name) => ({ name: join(directory, name), text: readOrFault(join(directory, name), files) })),
  ];
}

function readOrFault(path: string, files: ConfigFiles): string {
  try {
    return files.read(path);
  } catch (cause) {
    throw new Fault("config.unreadable", `cannot read the configuration ${path}`, { cause, exitCode: EXIT.config });
  }
}

function listOrNothing(directory: string, files: ConfigFiles): readonly string[] {
  try {
    return files.list(directory);
  } catch (cause) {
    if (["ENOENT", "ENOTDIR"].includes(String((cause as NodeJS.ErrnoException).code))) return [];
    throw new Fault("config.unreadable", `cannot read the directory ${directory}`, { cause, exitCode: EXIT.config });
  }
}
