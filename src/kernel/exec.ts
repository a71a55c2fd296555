/** The only place that starts programs: argv arrays, a label, a deadline, capped output, and the end of the whole process group. */

export interface RunOptions {
  /** After this long the process group gets SIGTERM, 2 s later SIGKILL. */
  readonly timeoutMs: number;
  /** The whole environment of the program (nothing is inherited unless it stands here). */
  readonly env: Readonly<Record<string, string>>;
  readonly cwd?: string;
  /** Text for standard input; without it standard input is empty. */
  readonly stdin?: string;
  /** How much of stdout and of stderr is kept, each; the rest is read and dropped. Default 64 KiB. */
  readonly maxOutputBytes?: number;
  /** Ends the process group as a timeout does. */
  readonly signal?: AbortSignal;
  /** Told the process group's id (= pid of the first process) as soon as it exists. */
  readonly onSpawn?: (pid: number) => void;
}

/** Success and failure have one shape. `reason` is absent exactly when the program ended with exit code 0. */
export interface RunResult {
  readonly label: string;
  readonly argv: readonly string[];
  readonly stdout: string;
  readonly stderr: string;
  /** Output was longer than the cap; what was dropped is marked in the text. */
  readonly truncated: boolean;
  readonly durationMs: number;
  readonly exitCode?: number;
  /** Name of the signal that ended it, "SIGKILL" … */
  readonly signal?: string;
  readonly reason?: "spawn" | "exit" | "signal" | "timeout" | "cancelled";
  /** For "spawn": why it could not be started (not found, not executable, …). */
  readonly error?: string;
}

/** Never rejects for what a program does; local programs and (later) programs on other hosts share this type. */
export type Run = (label: string, argv: readonly [string, ...string[]], options: RunOptions) => Promise<RunResult>;
