/** Programs that the harness starts: each with a deadline, nothing of our own environment, and one sentence when it fails. */

/** Daemons and network tools live in sbin, which is not on every user's PATH. */
export const CLEAN_ENV: Readonly<Record<string, string>> = {
  PATH: "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
  LC_ALL: "C.UTF-8",
};

export interface Ended {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs a program to its end; after `ms` (default 20 s) it is killed. Resolves to how it ended, whatever that was. */
export async function attempt(argv: readonly string[], ms = 20_000, env = CLEAN_ENV): Promise<Ended> {
  const child = Bun.spawn([...argv], {
    env,
    stdin: "ignore",
    stdout: "pipe",
    stderr: "pipe",
    timeout: ms,
    killSignal: "SIGKILL",
  });
  const [stdout, stderr, code] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
    child.exited,
  ]);
  const late = child.signalCode === "SIGKILL" ? `\nkilled, probably because it took longer than ${ms} ms` : "";
  return { code, stdout, stderr: stderr + late };
}

/** Runs a program that must end well; resolves to what it printed. */
export async function run(argv: readonly string[], ms?: number): Promise<string> {
  const { code, stdout, stderr } = await attempt(argv, ms);
  if (code !== 0) throw new Error(`${argv.join(" ")} ended with ${code}: ${(stderr || stdout).trim().slice(-2000)}`);
  return stdout;
}
