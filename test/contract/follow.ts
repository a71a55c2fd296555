/** A watch in a test: pulls items as they are asked for, with a deadline. */
import type { Store, WatchEvent, WatchItem, WatchOptions } from "../../src/store/store.ts";

export interface Follow {
  /** The next item; throws after `ms` (default 10 s). */
  next(ms?: number): Promise<WatchItem>;
  /** The next `count` events, whatever batches they come in; "open" is passed over. */
  events(count: number, ms?: number): Promise<WatchEvent[]>;
  /** Aborts it and waits for its end. */
  stop(): Promise<void>;
  ended(): boolean;
  error(): unknown;
}

export function follow(store: Store, options: WatchOptions): Follow {
  const abort = new AbortController();
  const items: WatchItem[] = [];
  let wake = Promise.withResolvers<void>();
  let ended = false;
  let failed: unknown;
  const done = (async () => {
    try {
      for await (const item of store.watch({ label: "test.watch", signal: abort.signal }, options)) {
        items.push(item);
        wake.resolve();
      }
    } catch (error) {
      failed = error;
    }
    ended = true;
    wake.resolve();
  })();
  const next = async (ms = 10_000): Promise<WatchItem> => {
    const end = Date.now() + ms;
    while (items.length === 0) {
      if (ended) throw new Error("the watch has ended", { cause: failed });
      if (Date.now() > end) throw new Error(`the watch said nothing for ${ms} ms`);
      await Promise.race([wake.promise, Bun.sleep(Math.max(1, end - Date.now()))]);
      wake = Promise.withResolvers<void>();
    }
    return items.shift() as WatchItem;
  };
  return {
    next,
    async events(count, ms) {
      const events: WatchEvent[] = [];
      while (events.length < count) {
        const item = await next(ms);
        if (item.kind === "lost") throw new Error(`the watch is lost: ${item.why}`);
        if (item.kind === "events") events.push(...item.events);
      }
      if (events.length > count) throw new Error(`wanted ${count} events, got ${events.length}`);
      return events;
    },
    async stop() {
      abort.abort();
      await done;
    },
    ended: () => ended,
    error: () => failed,
  };
}
