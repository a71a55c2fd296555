/** The contract, run against the embedded engine over HTTP: gateway and client together, in a file, restarted between requests. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { realClock } from "../../src/kernel/clock.ts";
import { openStoreFile } from "../../src/store/embedded-file.ts";
import { openEtcd } from "../../src/store/etcd.ts";
import { startGateway } from "../../src/store/gateway.ts";
import { Users } from "../../src/store/users.ts";
import { freePort } from "../world/wait.ts";
import { contract } from "./suite.ts";

contract("embedded, over HTTP", async () => {
  const stateDir = mkdtempSync(join(tmpdir(), "rota-gateway-"));
  const ports = { clock: realClock(), log: () => undefined };
  const port = await freePort();
  const start = () => {
    const file = openStoreFile({ stateDir, ...ports, program: "test" });
    const users = new Users({ tables: file.engine.tables, ...ports });
    const gateway = startGateway({ engine: file.engine, users, ...ports, listen: { hostname: "127.0.0.1", port } });
    return { file, gateway };
  };
  let running = start();
  const store = openEtcd({ endpoints: [running.gateway.url] }, ports);
  const end = async () => {
    await running.gateway.stop();
    running.file.close();
  };
  return {
    store: () => store,
    async restart() {
      await end();
      running = start();
    },
    compact: async (revision) => running.file.engine.compact(Number(revision)),
    watchesSurvive: true,
    async stop() {
      await store.close();
      await end();
      rmSync(stateDir, { recursive: true, force: true });
    },
  };
});
