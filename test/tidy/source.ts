/** Reads a TypeScript file as far as the tidiness rules need it: what is code, what is text, what it imports. */
import { posix } from "node:path";

export interface Import {
  readonly specifier: string;
  /** Path from the project's root when the specifier is relative; otherwise undefined. */
  readonly target: string | undefined;
  readonly typeOnly: boolean;
  /** `import("…")`. */
  readonly dynamic: boolean;
  /** `export … from "…"`. */
  readonly reexport: boolean;
  readonly line: number;
}

export interface SourceFile {
  /** From the project's root, with forward slashes. */
  readonly path: string;
  readonly text: string;
  /** The text with comments, strings, templates and regular expressions blanked out; lines and columns stay. */
  readonly code: string;
  readonly imports: readonly Import[];
}

/** The file as the rules see it. */
export function readSource(path: string, text: string): SourceFile {
  const { code, bare } = blank(text);
  return { path, text, code, imports: findImports(path, bare) };
}

/** The 1-based line of a position. */
export function lineAt(text: string, index: number): number {
  let line = 1;
  for (let i = text.indexOf("\n"); i >= 0 && i < index; i = text.indexOf("\n", i + 1)) line++;
  return line;
}

/** Every match of `pattern` in the code, with its line. */
export function* matches(file: SourceFile, pattern: RegExp): Generator<{ text: string; line: number; index: number }> {
  for (const match of file.code.matchAll(new RegExp(pattern, `${pattern.flags.replace("g", "")}g`)))
    yield { text: match[0], line: lineAt(file.code, match.index), index: match.index };
}

/** Behind one of these a slash begins a regular expression; behind anything else it divides. */
const BEFORE_REGEX =
  /(^|[(,=:[!&|?{};+\-*%~^<>\n]|\b(return|typeof|case|in|of|do|else|yield|await|throw|void|delete))$/;

/** A walk over the text that blanks what is not code. `bare` keeps strings (for imports), `code` does not. */
function blank(text: string): { code: string; bare: string } {
  const code = text.split("");
  const bare = text.split("");
  const wipe = (from: number, to: number, alsoBare: boolean) => {
    for (let k = from; k < to; k++) {
      if (text[k] === "\n") continue;
      code[k] = " ";
      if (alsoBare) bare[k] = " ";
    }
  };
  // One entry for each open `${`: how many braces are open inside it.
  const templates: number[] = [];
  let i = 0;
  while (i < text.length) {
    const two = text.slice(i, i + 2);
    const one = text[i] ?? "";
    let end = i + 1;
    if (two === "//") {
      end = endOr(text.indexOf("\n", i), text.length);
      wipe(i, end, true);
    } else if (two === "/*") {
      end = endOr(text.indexOf("*/", i + 2) + 2, text.length, 1);
      wipe(i, end, true);
    } else if (one === '"' || one === "'") {
      end = stringEnd(text, i, one);
      wipe(i + 1, end - 1, false);
    } else if (one === "`" || (one === "}" && templates.at(-1) === 0)) {
      if (one === "}") templates.pop();
      end = templateEnd(text, i + 1);
      wipe(i + (one === "}" ? 0 : 1), end, false);
      if (text.slice(end - 2, end) === "${") templates.push(0);
    } else if (
      one === "/" &&
      BEFORE_REGEX.test(
        code
          .slice(Math.max(0, i - 12), i)
          .join("")
          .trimEnd(),
      )
    ) {
      end = regexEnd(text, i);
      wipe(i + 1, end, true);
    } else if (templates.length > 0 && (one === "{" || one === "}")) {
      templates[templates.length - 1] = (templates.at(-1) ?? 0) + (one === "{" ? 1 : -1);
    }
    i = end;
  }
  return { code: code.join(""), bare: bare.join("") };
}

function endOr(found: number, otherwise: number, least = 0): number {
  return found > least || found === 0 ? found : otherwise;
}

function stringEnd(text: string, start: number, quote: string): number {
  for (let i = start + 1; i < text.length; i++) {
    if (text[i] === "\\") i++;
    else if (text[i] === quote || text[i] === "\n") return i + 1;
  }
  return text.length;
}

/** Just behind the closing backquote, or behind the next `${`. */
function templateEnd(text: string, start: number): number {
  for (let i = start; i < text.length; i++) {
    if (text[i] === "\\") i++;
    else if (text[i] === "`") return i + 1;
    else if (text[i] === "$" && text[i + 1] === "{") return i + 2;
  }
  return text.length;
}

function regexEnd(text: string, start: number): number {
  let inClass = false;
  for (let i = start + 1; i < text.length && text[i] !== "\n"; i++) {
    if (text[i] === "\\") i++;
    else if (text[i] === "[") inClass = true;
    else if (text[i] === "]") inClass = false;
    else if (text[i] === "/" && !inClass) return i + 1;
  }
  return start + 1;
}

const STATIC = /(?:^|[\n;}])\s*(import|export)\b([^"';]*?)\bfrom\s*["']([^"'\n]+)["']/g;
const BARE = /(?:^|[\n;}])\s*import\s*["']([^"'\n]+)["']/g;
const DYNAMIC = /\b(typeof\s+)?import\(\s*["']([^"'\n]+)["']/g;

function findImports(path: string, bare: string): Import[] {
  const found: Import[] = [];
  const add = (index: number, specifier: string, kind: Partial<Import>) => {
    const target = specifier.startsWith(".") ? posix.join(posix.dirname(path), specifier) : undefined;
    const line = lineAt(bare, index);
    found.push({ specifier, target, line, typeOnly: false, dynamic: false, reexport: false, ...kind });
  };
  for (const match of bare.matchAll(STATIC)) {
    const [whole, keyword, clause = "", specifier = ""] = match;
    const at = match.index + whole.length;
    add(at, specifier, { typeOnly: isTypeOnly(clause), reexport: keyword === "export" });
  }
  for (const match of bare.matchAll(BARE)) add(match.index + match[0].length, match[1] ?? "", {});
  for (const match of bare.matchAll(DYNAMIC))
    add(match.index, match[2] ?? "", { dynamic: true, typeOnly: match[1] !== undefined });
  return found;
}

/** `import type …`, or braces in which every name is a type. */
function isTypeOnly(clause: string): boolean {
  if (/^\s*type\s+[\w{*]/.test(clause)) return true;
  const names = /^\s*\{([^}]*)\}\s*$/.exec(clause)?.[1];
  const list = names?.split(",").map((name) => name.trim()) ?? [];
  return list.some(Boolean) && list.every((name) => name === "" || name.startsWith("type "));
}

/** Everything that importing a file loads at once: files of the tree and packages, without types and `import()`. */
export function loadedBy(start: string, tree: readonly SourceFile[]): ReadonlySet<string> {
  const loaded = new Set<string>();
  const rest = [start];
  for (let at = rest.pop(); at !== undefined; at = rest.pop()) {
    if (loaded.has(at)) continue;
    loaded.add(at);
    const imports = tree.find(({ path }) => path === at)?.imports ?? [];
    for (const { specifier, target, typeOnly, dynamic } of imports)
      if (!typeOnly && !dynamic) rest.push(target ?? specifier);
  }
  return loaded;
}
