/** Braces of a file: which of them are functions, and what stands outside of all. */
import { lineAt, type SourceFile } from "./source.ts";

/** A statement at the top level of a file: its beginning, up to its first brace or end. */
export interface Statement {
  readonly text: string;
  readonly line: number;
}

/** The statements of a file that are inside no brace, bracket or parenthesis. */
export function* topLevel({ code }: SourceFile): Generator<Statement> {
  let depth = 0;
  for (let i = 0, fresh = true; i < code.length; i++) {
    const c = code[i] ?? "";
    if (fresh && depth === 0 && /\S/.test(c) && !/[}\])'"`;,]/.test(c)) {
      const end = code.indexOf("\n", i);
      yield { text: code.slice(i, end < 0 ? undefined : end), line: lineAt(code, i) };
      fresh = false;
    }
    if (/[{[(]/.test(c)) depth++;
    else if (/[}\])]/.test(c)) depth--;
    // Formatted code begins a statement at the first column.
    if (c === "\n" && depth === 0) fresh = /\S/.test(code[i + 1] ?? " ");
  }
}

/** The functions of a file with their number of lines, from the line of the opening brace to that of the closing one. */
export function* functionsIn({ code }: SourceFile): Generator<{ readonly line: number; readonly lines: number }> {
  const open: { at: number; isFunction: boolean }[] = [];
  for (let i = 0; i < code.length; i++) {
    if (code[i] === "{") open.push({ at: i, isFunction: opensFunction(code, i) });
    if (code[i] !== "}") continue;
    const block = open.pop();
    if (!block?.isFunction) continue;
    const line = lineAt(code, block.at);
    yield { line, lines: lineAt(code, i) - line + 1 };
  }
}

/** What stands before a brace tells whether it opens the body of a function. */
function opensFunction(code: string, brace: number): boolean {
  const before = code.slice(Math.max(0, brace - 2000), brace).trimEnd();
  if (before.endsWith("=>")) return true;
  const parameters = /\)(\s*:\s*[^;{}=]*)?$/.exec(before) ?? /\)\s*:[^;=]*$/.exec(before);
  if (!parameters) return false;
  const head = before.slice(0, openingOf(before, parameters.index));
  return !/\b(if|for|while|switch|catch|with)(\s+await)?\s*$/.test(head) && /[\w$>\]"'`]\s*$/.test(head);
}

/** The position of the parenthesis that the one at `close` closes. */
function openingOf(text: string, close: number): number {
  for (let i = close, depth = 0; i >= 0; i--) {
    if (text[i] === ")") depth++;
    else if (text[i] === "(" && --depth === 0) return i;
  }
  return 0;
}
