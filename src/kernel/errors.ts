/** What can go wrong, in one shape: a stable kind, a sentence for a person, a cause, and whether trying again can help. */

/** Exit codes of the coordinator family (seed 000). */
export const EXIT = {
  ok: 0,
  failed: 1,
  config: 2,
  health: 3,
  contended: 4,
  stopped: 5,
  detector: 6,
  usage: 64,
} as const;

export interface FaultOptions {
  /** What made it happen; kept whole, printed in logs as a chain. */
  readonly cause?: unknown;
  /** "later": the same call may succeed by itself; "never": somebody has to change something. */
  readonly retry?: "later" | "never";
  /** The process exit code when this ends a command. */
  readonly exitCode?: number;
}

/**
 * Every error that Rota raises on purpose. `kind` is dotted, stable, and used as metric label and runbook name
 * (`store.unknown`, `config.invalid`, …); match on it, never on the message.
 */
export class Fault extends Error {
  readonly kind: string;
  readonly retry: "later" | "never";
  readonly exitCode: number;

  constructor(kind: string, message: string, options: FaultOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = "Fault";
    this.kind = kind;
    this.retry = options.retry ?? "never";
    this.exitCode = options.exitCode ?? EXIT.failed;
  }
}

/** True when `error` is a Fault of this kind, or of a kind below it (`isFault(e, "store")` matches `store.unknown`). */
export function isFault(error: unknown, kind: string): error is Fault {
  return error instanceof Fault && (error.kind === kind || error.kind.startsWith(`${kind}.`));
}

/** The message and those of its causes, outermost first, joined with ": " and without repeats. */
export function sentence(error: unknown): string {
  const parts: string[] = [];
  for (let at: unknown = error, depth = 0; at !== undefined && at !== null && depth < 8; depth++) {
    const text = at instanceof Error ? at.message || at.name : String(at);
    if (!parts.some((part) => part.includes(text))) parts.push(text);
    at = at instanceof Error ? at.cause : undefined;
  }
  return parts.join(": ");
}
