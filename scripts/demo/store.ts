/** The store that the machines of the demo agree in: a real `rota serve` on a free port, watched with the client that the daemons use. */
import { join } from "node:path";
import { realClock } from "../../src/kernel/clock.ts";
import { openEtcd } from "../../src/store/etcd.ts";
import { namespaced, prefixEnd, type Store, type WatchEvent } from "../../src/store/store.ts";
import { Refusal } from "../steps.ts";
import { startProgram } from "./program.ts";
import { NAMESPACE } from "./story.ts";

/** How long the store may take to listen, ms. */
const START_MS = 20_000;

export interface ServedStore {
  readonly url: string;
  readonly logFile: string;
  readonly ended: Promise<unknown>;
  /** Everything that was ever written, from the first revision on: the store's own history. */
  history(): Promise<WatchEvent[]>;
  stop(): Promise<void>;
  kill(): void;
}

/** Starts it. `changed` gets every change in it from now on; `trouble` what must not happen. */
export async function serveStore(
  demo: string,
  changed: (event: WatchEvent, at: number) => void,
  trouble: (what: string) => void,
): Promise<ServedStore> {
  const logFile = join(demo, "store.log");
  const listening = Promise.withResolvers<string>();
  const program = startProgram({
    what: "the store",
    words: ["serve", "--listen", "127.0.0.1:0", "--state-dir", join(demo, "store")],
    demo,
    logFile,
    heard: ({ event, fields }) => event === "serving" && listening.resolve(String(fields["url"])),
    trouble,
  });
  const late = setTimeout(() => listening.reject(new Refusal("the store does not listen within 20 s")), START_MS);
  void program.ended.then(() => listening.reject(new Refusal(`the store did not start; its log is ${logFile}`)));
  const url = await listening.promise
    .finally(() => clearTimeout(late))
    .catch((error: unknown) => {
      program.kill();
      throw error;
    });
  const store = namespaced(openEtcd({ endpoints: [url] }, { clock: realClock(), log: () => undefined }), NAMESPACE);
  const over = new AbortController();
  const watching = watch(store, over.signal, (event) => changed(event, Date.now())).catch((error: unknown) =>
    trouble(`the store cannot be watched: ${error instanceof Error ? error.message : error}`),
  );
  return {
    url,
    logFile,
    ended: program.ended,
    history: () => readHistory(store),
    kill: program.kill,
    async stop() {
      over.abort();
      await watching;
      await store.close();
      await program.stop();
    },
  };
}

/** Tells every change of the namespace since the first revision, and goes on until `signal` aborts. */
async function watch(store: Store, signal: AbortSignal, changed: (event: WatchEvent) => void): Promise<void> {
  const everything = { key: "/", rangeEnd: prefixEnd("/"), from: "1" };
  for await (const item of store.watch({ label: "demo.watch", signal }, everything)) {
    if (item.kind === "lost") throw new Refusal(item.why);
    if (item.kind === "events") for (const event of item.events) changed(event);
  }
}

/** Reads all of it once more, up to a mark that is written for the purpose. */
async function readHistory(store: Store): Promise<WatchEvent[]> {
  const mark = "/end-of-demo";
  await store.txn({ label: "demo.mark" }, { then: [{ put: mark, value: "" }] });
  const events: WatchEvent[] = [];
  const read = new AbortController();
  await watch(store, read.signal, (event) => {
    if (event.kv.key === mark) read.abort();
    else if (!read.signal.aborted) events.push(event);
  });
  return events;
}
