/** The contract, run against the embedded engine in memory. */
import { Database } from "bun:sqlite";
import { realClock } from "../../src/kernel/clock.ts";
import { EmbeddedEngine } from "../../src/store/embedded.ts";
import { embeddedStore } from "../../src/store/embedded-store.ts";
import { contract } from "./suite.ts";

contract("embedded, in memory", async () => {
  const db = new Database(":memory:");
  const open = () => new EmbeddedEngine({ db, clock: realClock(), log: () => undefined });
  let engine = open();
  let store = embeddedStore(engine);
  return {
    store: () => store,
    async restart() {
      engine.close();
      engine = open();
      store = embeddedStore(engine);
    },
    compact: async (revision) => engine.compact(Number(revision)),
    watchesSurvive: false,
    async stop() {
      engine.close();
      db.close();
    },
  };
});
