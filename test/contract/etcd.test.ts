/** The contract, run against a real etcd through its JSON gateway. */
import { realClock } from "../../src/kernel/clock.ts";
import { openEtcd } from "../../src/store/etcd.ts";
import { startEtcd } from "../world/etcd.ts";
import { contract } from "./suite.ts";

contract("a real etcd", async () => {
  const cluster = await startEtcd();
  const store = openEtcd({ endpoints: cluster.endpoints }, { clock: realClock(), log: () => undefined });
  return {
    store: () => store,
    async restart() {
      await cluster.members[0]?.kill();
      await cluster.members[0]?.start();
    },
    compact: async (revision) => {
      await cluster.post("/v3/kv/compaction", { revision, physical: true });
    },
    watchesSurvive: true,
    async stop() {
      await store.close();
      await cluster.stop();
    },
  };
});
