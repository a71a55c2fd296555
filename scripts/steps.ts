/** What the scripts share: running a program in the open, and telling how many things passed. */
import { dirname } from "node:path";

export interface Count {
  readonly passed: number;
  readonly failed: number;
}

/** The project's root. */
export const root = dirname(import.meta.dir);

/** A failure that needs no stack: its message is the whole story. */
export class Refusal extends Error {}

/** Runs `main` and ends the process: with its exit code, or with 1 and one sentence. */
export async function script(main: () => Promise<number>): Promise<never> {
  try {
    process.exit(await main());
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    console.error(error.message);
    process.exit(1);
  }
}

/** Runs a program in the project's root with the terminal as it is; resolves to its exit code. */
export async function run(argv: readonly string[], env: Readonly<Record<string, string>> = {}): Promise<number> {
  const child = Bun.spawn([...argv], {
    cwd: root,
    env: { ...process.env, ...env },
    stdin: "inherit",
    stdout: "inherit",
    stderr: "inherit",
  });
  return child.exited;
}

/** Runs a program in the project's root and keeps what it printed. */
export async function capture(argv: readonly string[]): Promise<{ code: number; stdout: string; stderr: string }> {
  const child = Bun.spawn([...argv], { cwd: root, stdin: "ignore", stdout: "pipe", stderr: "pipe" });
  const [stdout, stderr, code] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
    child.exited,
  ]);
  return { code, stdout, stderr };
}

/** Runs a program, shows what it prints as it comes, and keeps it too (both streams in one). */
export async function follow(
  argv: readonly string[],
  env: Readonly<Record<string, string>> = {},
): Promise<{ code: number; text: string }> {
  const child = Bun.spawn([...argv], {
    cwd: root,
    env: { ...process.env, ...env },
    stdin: "ignore",
    stdout: "pipe",
    stderr: "pipe",
  });
  let text = "";
  const pass = async (from: ReadableStream<Uint8Array>, to: NodeJS.WriteStream) => {
    const decoder = new TextDecoder();
    for await (const chunk of from) {
      to.write(chunk);
      text += decoder.decode(chunk, { stream: true });
    }
  };
  const [code] = await Promise.all([
    child.exited,
    pass(child.stdout, process.stdout),
    pass(child.stderr, process.stderr),
  ]);
  return { code, text };
}

/** The line that ends every suite; the one above it in the hierarchy adds them up. */
export function countLine({ passed, failed }: Count): string {
  return `${passed} passed, ${failed} failed`;
}

/** Seconds, with one digit behind the point. */
export function seconds(ms: number): string {
  return `${(ms / 1000).toFixed(1)} s`;
}
