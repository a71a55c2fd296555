/** One real `rota` process: its log in a file and line by line, and its end, wanted or not. */
import { closeSync, openSync, writeSync } from "node:fs";
import { join } from "node:path";
import { processesWithEnv } from "../../src/kernel/exec.ts";
import { root } from "../steps.ts";
import type { LogLine } from "./story.ts";

/** In the environment of everything that belongs to one demo, so that it can be found and ended. */
const DEMO_VARIABLE = "ROTA_DEMO";

/** How long a program may take to end when it is asked to, ms. */
const STOP_MS = 2_000;
/** A Ctrl-C reaches a program as well as the demo, which then has other things to tell than its end, ms. */
const OWN_END_MS = 200;

export interface ProgramOptions {
  /** What it is called when there is trouble with it. */
  readonly what: string;
  readonly words: readonly string[];
  /** The demo's folder. */
  readonly demo: string;
  readonly logFile: string;
  /** Each line of its log. */
  readonly heard: (line: LogLine) => void;
  readonly trouble: (what: string) => void;
}

export interface Program {
  /** SIGTERM, and SIGKILL for one that will not; resolves when all that it has logged was heard. */
  stop(): Promise<void>;
  /** SIGKILL. */
  kill(): void;
  readonly ended: Promise<number>;
}

/** Starts `rota` with these words, from the sources. */
export function startProgram(options: ProgramOptions): Program {
  const { what, words, demo, trouble } = options;
  const child = Bun.spawn([process.execPath, join(root, "src/main.ts"), ...words, "--log-format", "json"], {
    cwd: demo,
    env: { PATH: Bun.env.PATH ?? "", LC_ALL: "C", [DEMO_VARIABLE]: demo },
    stdin: "ignore",
    stdout: "ignore",
    stderr: "pipe",
  });
  const drained = follow(child.stderr, options);
  let wanted = false;
  const kill = () => {
    wanted = true;
    child.kill("SIGKILL");
  };
  void child.exited.then(async (code) => {
    await Bun.sleep(OWN_END_MS);
    if (!wanted) trouble(`${what} has ended by itself (exit code ${code})`);
  });
  return {
    ended: child.exited,
    kill,
    async stop() {
      wanted = true;
      child.kill("SIGTERM");
      await Promise.race([child.exited, Bun.sleep(STOP_MS)]);
      kill();
      await child.exited;
      // What it has started may still hold the pipe.
      await Promise.race([drained, Bun.sleep(STOP_MS)]);
    },
  };
}

async function follow(stream: ReadableStream<Uint8Array>, { logFile, heard, what, trouble }: ProgramOptions) {
  const file = openSync(logFile, "a");
  const decoder = new TextDecoder();
  let rest = "";
  try {
    for await (const chunk of stream) {
      writeSync(file, chunk);
      const lines = (rest + decoder.decode(chunk, { stream: true })).split("\n");
      rest = lines.pop() ?? "";
      for (const line of lines) if (line.startsWith("{")) heard(JSON.parse(line) as LogLine);
    }
  } catch (error) {
    trouble(`the log of ${what} cannot be read: ${error}`);
  } finally {
    closeSync(file);
  }
}

/** Ends whatever still runs and belongs to this demo: scripts whose daemon was killed. */
export function killLeftovers(demo: string): void {
  for (const { pid } of processesWithEnv(DEMO_VARIABLE, demo)) {
    try {
      process.kill(pid, "SIGKILL");
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error; // ended by itself meanwhile
    }
  }
}
