/** Who watches what in the embedded store: replays the past when a watch begins, then hands out every commit in order. */
import { within } from "./bytes.ts";
import type { Tables } from "./embedded-tables.ts";
import type { EngineEvent, WatchNews, WatchRequest } from "./embedded-types.ts";

/** Events of one answer while history is replayed; a revision is never split, so that a client may resume after any answer. */
const REPLAY_BATCH = 1000;

interface Watcher {
  readonly request: WatchRequest;
  readonly tell: (news: WatchNews) => void;
}

/** All watches of one engine. `tell` is called inside the commit that it tells of and must not call the engine back. */
export class WatchHub {
  readonly #watchers = new Set<Watcher>();

  /** Begins a watch; returns what ends it. Past events (or `compacted`) are told before this returns. */
  add(
    request: WatchRequest,
    tell: (news: WatchNews) => void,
    tables: Tables,
    now: { revision: number; compacted: number },
  ): () => void {
    const from = request.from > 0 ? request.from : now.revision + 1;
    if (from < now.compacted) {
      tell({ kind: "compacted", compactRevision: now.compacted });
      return () => undefined;
    }
    const watcher: Watcher = { request: { ...request, from }, tell };
    if (from <= now.revision) {
      const past = tables.since(request.key, request.end, from, request.prev === true);
      for (const batch of batches(past.filter((event) => wanted(event, watcher.request))))
        tell({ kind: "events", revision: now.revision, events: batch });
    }
    this.#watchers.add(watcher);
    return () => {
      this.#watchers.delete(watcher);
    };
  }

  /** Tells everybody concerned about the writes of one revision. */
  publish(revision: number, events: readonly EngineEvent[]): void {
    for (const watcher of this.#watchers) {
      const { request } = watcher;
      if (revision < request.from) continue;
      const mine = events.filter((event) => wanted(event, request) && within(event.row.key, request.key, request.end));
      if (mine.length === 0) continue;
      const told = request.prev === true ? mine : mine.map(({ type, row }) => ({ type, row }));
      watcher.tell({ kind: "events", revision, events: told });
    }
  }

  /** How many watches are open. */
  get size(): number {
    return this.#watchers.size;
  }

  /** Ends all watches: the store goes away. */
  close(): void {
    const all = [...this.#watchers];
    this.#watchers.clear();
    for (const watcher of all) watcher.tell({ kind: "closed" });
  }
}

function wanted(event: EngineEvent, request: WatchRequest): boolean {
  return event.type === "put" ? request.noPut !== true : request.noDelete !== true;
}

function batches(events: readonly EngineEvent[]): EngineEvent[][] {
  const out: EngineEvent[][] = [];
  let batch: EngineEvent[] = [];
  for (const event of events) {
    if (batch.length >= REPLAY_BATCH && event.row.modified !== batch.at(-1)?.row.modified) {
      out.push(batch);
      batch = [];
    }
    batch.push(event);
  }
  if (batch.length > 0) out.push(batch);
  return out;
}
