/** What really happened in an etcd below a prefix, from revision 1 on: told by `etcdctl watch`, by none of our own code. */
import { PATIENCE_MS, until } from "./wait.ts";

/** A watch that has not told of a change for so long after it was made has stalled. */
const STALLED_MS = 5_000;

/** One key written or deleted. */
export interface Change {
  readonly revision: number;
  /** When it was seen here, ms: a moment after it happened, never before. */
  readonly at: number;
  readonly key: string;
  readonly deleted: boolean;
  readonly value: string;
  /** A put under a lease; false for a permanent key, and for every deletion. */
  readonly leased: boolean;
  /** Create-revision of the key; 0 with a deletion. */
  readonly create: number;
}

export interface History {
  readonly changes: readonly Change[];
  /** Resolves when all that was written before this call has been told. */
  settle(): Promise<void>;
  /** The first change, past or to come, that satisfies `wanted`. */
  seen(what: string, wanted: (change: Change) => boolean, ms?: number): Promise<Change>;
  stop(): Promise<void>;
}

interface WatchEvent {
  readonly type?: number;
  readonly kv: {
    readonly key: string;
    readonly value?: string;
    readonly create_revision?: number;
    readonly mod_revision: number;
    readonly lease?: number;
  };
}

/** Follows `prefix` on these endpoints, until `stop`. Survives the loss of members, and of all of them. */
export function followHistory(endpoints: readonly string[], prefix: string): History {
  const env = { PATH: Bun.env.PATH ?? "", ETCDCTL_API: "3", ETCDCTL_ENDPOINTS: endpoints.join(",") };
  const changes: Change[] = [];
  const start = () => follow(env, prefix, changes);
  let watch = start();
  const history: History = {
    changes,
    async settle() {
      const mark = `${prefix}~settled/${crypto.randomUUID()}`;
      const put = async () => {
        const run = Bun.spawn(["etcdctl", "--command-timeout=5s", "put", mark, ""], { env, stdout: "ignore" });
        return (await run.exited) === 0;
      };
      await until("the store to take a mark", put, PATIENCE_MS);
      const told = () => history.seen("the mark", (change) => change.key === mark, STALLED_MS);
      // After a lost quorum etcdctl may hang on to a connection that will never say anything again.
      for (let tries = 0; tries < 4; tries++) {
        if (await told().catch(() => undefined)) return;
        await watch.stop();
        watch = start();
      }
      await told();
    },
    async seen(what, wanted, ms = PATIENCE_MS) {
      let from = 0;
      return await until(
        what,
        () => {
          const found = changes.slice(from).find(wanted);
          from = changes.length;
          return found;
        },
        ms,
      );
    },
    stop: () => watch.stop(),
  };
  return history;
}

/** Goes on with `changes` where they end: all changes of a revision are told together. */
function follow(env: Record<string, string>, prefix: string, changes: Change[]): { stop(): Promise<void> } {
  const from = (changes.at(-1)?.revision ?? 0) + 1;
  const watch = Bun.spawn(["etcdctl", "watch", "--prefix", `--rev=${from}`, "-w", "json", prefix], {
    env,
    stdin: "ignore",
    stdout: "pipe",
    stderr: "ignore",
  });
  const done = read(watch.stdout, changes).catch(() => undefined); // the pipe breaks when the watch is ended
  return {
    async stop() {
      watch.kill("SIGKILL");
      await watch.exited;
      await done;
    },
  };
}

async function read(stream: ReadableStream<Uint8Array>, changes: Change[]): Promise<void> {
  const decoder = new TextDecoder();
  let rest = "";
  for await (const chunk of stream) {
    rest += decoder.decode(chunk, { stream: true });
    const lines = rest.split("\n");
    rest = lines.pop() ?? "";
    for (const line of lines) {
      if (line.trim() === "") continue;
      const { Events: events } = JSON.parse(line) as { readonly Events?: readonly WatchEvent[] | null };
      for (const event of events ?? []) changes.push(changeOf(event));
    }
  }
}

function changeOf({ type, kv }: WatchEvent): Change {
  const deleted = type === 1;
  return {
    revision: kv.mod_revision,
    at: Date.now(),
    key: text(kv.key),
    deleted,
    value: text(kv.value ?? ""),
    leased: !deleted && (kv.lease ?? 0) !== 0,
    create: deleted ? 0 : (kv.create_revision ?? 0),
  };
}

/** etcdctl prints keys and values in base64. */
function text(base64: string): string {
  return Buffer.from(base64, "base64").toString("utf8");
}
