/** The list of what a test has made on this machine, kept by a process of its own that undoes it even when the test is killed. */
import { readFileSync } from "node:fs";
import { CLEAN_ENV } from "./run.ts";

export type Undo =
  | { readonly what: "process"; readonly pid: number; readonly start: string }
  | { readonly what: "namespace"; readonly name: string }
  | { readonly what: "mount"; readonly path: string }
  | { readonly what: "group"; readonly path: string }
  | { readonly what: "tree"; readonly path: string }
  | { readonly what: "file"; readonly path: string };

export class Guard {
  readonly #guardian = Bun.spawn([process.execPath, `${import.meta.dir}/guardian.ts`], {
    // A session of its own: a Ctrl-C for the test is not one for it.
    detached: true,
    env: CLEAN_ENV,
    stdin: "pipe",
    stdout: "inherit",
    stderr: "pipe",
  });

  /** To be said before the thing is made; undoing what never came to be does nothing. */
  async owes(undo: Undo): Promise<void> {
    this.#guardian.stdin.write(`${JSON.stringify(undo)}\n`);
    await this.#guardian.stdin.flush();
  }

  /** A process that has to end with the test. */
  async owesProcess(pid: number): Promise<void> {
    const stat = readFileSync(`/proc/${pid}/stat`, "latin1");
    await this.owes({ what: "process", pid, start: stat.slice(stat.lastIndexOf(")") + 2).split(" ")[19] ?? "" });
  }

  /** Undoes everything, the last first. Rejects with what is left. */
  async settle(): Promise<void> {
    await this.#guardian.stdin.end();
    const [code, words] = await Promise.all([this.#guardian.exited, new Response(this.#guardian.stderr).text()]);
    if (code !== 0) throw new Error(`the test has left something on this machine:\n${words}`);
  }
}
