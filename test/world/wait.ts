/** Waiting for something to become true, with a deadline and a sentence: no test sleeps for a fixed time and hopes. */

/**
 * How long a test of whole machines waits for what must happen, ms: enough for a computer with too much to do. Where a bound is part of
 * a promise, the test measures it for itself.
 */
export const PATIENCE_MS = 60_000;

/** Resolves with the first value of `look` that is neither undefined, null nor false; throws after `ms` (default 15 s) naming `what`. */
export async function until<T>(
  what: string,
  look: () => T | Promise<T>,
  ms = 15_000,
): Promise<NonNullable<Exclude<T, false>>> {
  const end = Date.now() + ms;
  let last: unknown;
  for (;;) {
    try {
      const value = await look();
      if (value !== undefined && value !== null && value !== false) return value as NonNullable<Exclude<T, false>>;
      last = value;
    } catch (error) {
      last = error;
    }
    if (Date.now() > end) throw new Error(`waited ${ms} ms for: ${what}`, { cause: last });
    await Bun.sleep(20);
  }
}

/** A loopback port that nobody listens on right now. */
export async function freePort(): Promise<number> {
  const server = Bun.listen({ hostname: "127.0.0.1", port: 0, socket: { data() {} } });
  const { port } = server;
  server.stop(true);
  return port;
}
