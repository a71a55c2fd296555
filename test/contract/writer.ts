/** A process for durability.test.ts: writes to a store file as fast as it can and says after each call what was acknowledged. */
import { writeSync } from "node:fs";
import { realClock } from "../../src/kernel/clock.ts";
import { openStoreFile } from "../../src/store/embedded-file.ts";

const [stateDir = ""] = process.argv.slice(2);
const file = openStoreFile({ stateDir, clock: realClock(), log: () => undefined, program: "the writer" });
const { engine } = file;
const last = engine.range({ key: "n" }).rows[0];
const lease = engine.grant(3600).id;
writeSync(1, `lease ${lease}\n`);
for (let n = Number(last?.value ?? 0) + 1; ; n++) {
  const put = (key: string, value: string) =>
    ({ kind: "put", put: { key, value, lease: key === "leased" ? lease : "0" } }) as const;
  const old = `k/${n - 50}`;
  engine.txn({
    compare: [],
    success: [
      put("n", String(n)),
      put(`k/${n}`, "x".repeat(n % 3000)),
      put("leased", String(n)),
      { kind: "delete", delete: { key: old } },
    ],
    failure: [],
  });
  if (n % 997 === 0) engine.compact(engine.revision - 10);
  writeSync(1, `${n} ${engine.revision}\n`);
}
