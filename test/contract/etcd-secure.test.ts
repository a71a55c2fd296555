/** The etcd client against a real etcd that wants certificates, or users, or loses its leader. */
import { describe, expect, test } from "bun:test";
import { realClock } from "../../src/kernel/clock.ts";
import { type Fault, isFault, sentence } from "../../src/kernel/errors.ts";
import { openEtcd } from "../../src/store/etcd.ts";
import type { EtcdOptions } from "../../src/store/etcd-client.ts";
import type { WatchTuning } from "../../src/store/etcd-watch.ts";
import { add64, compare64, type Store } from "../../src/store/store.ts";
import { type EtcdCluster, type EtcdSpec, startEtcd } from "../world/etcd.ts";
import { until } from "../world/wait.ts";
import { follow } from "./follow.ts";
import { call, failure } from "./suite.ts";

const ports = { clock: realClock(), log: () => undefined };
const put = (store: Store, key: string, value: string) => store.txn(call("put"), { then: [{ put: key, value }] });

async function withEtcd(
  spec: EtcdSpec,
  work: (cluster: EtcdCluster, open: (more?: Partial<EtcdOptions & WatchTuning>) => Store) => Promise<void>,
) {
  const cluster = await startEtcd(spec);
  const opened: Store[] = [];
  const open = (more: Partial<EtcdOptions & WatchTuning> = {}) => {
    const store = openEtcd({ endpoints: cluster.endpoints, timeoutMs: 3000, quietMs: 2000, ...more }, ports);
    opened.push(store);
    return store;
  };
  try {
    await work(cluster, open);
  } finally {
    for (const store of opened) await store.close();
    await cluster.stop();
  }
}

describe("TLS", () => {
  test("mutual TLS: with a certificate in, without one nothing happens; a watch too", async () => {
    await withEtcd({ tls: "mutual" }, async ({ pki, endpoints }, open) => {
      const { ca, client } = pki!;
      const store = open({ tls: () => ({ ca, cert: client.cert, key: client.key }) });
      const { revision } = await put(store, "k", "1");
      const watch = follow(store, { key: "k", from: add64(revision, 1) });
      await put(store, "k", "2");
      expect((await watch.events(1))[0]?.kv.value).toBe("2");
      await watch.stop();
      expect(await failure(put(open({ tls: () => ({ ca }) }), "k", "without a certificate"))).toBeInstanceOf(Error);
      // Neither the system's CAs nor a name that is not in the certificate are good enough, and nothing is sent then.
      const stranger = (await failure(
        put(open({ tls: () => ({ cert: client.cert, key: client.key }) }), "k", "x"),
      )) as Fault;
      expect([stranger.kind, sentence(stranger)]).toEqual(["store.away", expect.stringContaining("cert")]);
      const port = new URL(endpoints[0]!).port;
      const named = open({
        endpoints: [`https://127.0.0.2:${port}`],
        tls: () => ({ ca, cert: client.cert, key: client.key }),
      });
      expect(isFault(await failure(put(named, "k", "x")), "store")).toBe(true);
      expect((await store.range(call(), "k")).kvs[0]?.version).toBe("2");
    });
  }, 30_000);

  test("a CA alone is enough for a server that asks for no certificate; insecure_skip_verify goes without; host:port means https", async () => {
    await withEtcd({ tls: "server" }, async ({ pki, endpoints }, open) => {
      await put(open({ tls: () => ({ ca: pki!.ca }) }), "k", "1");
      await put(open({ tls: () => ({ insecureSkipVerify: true }) }), "k", "2");
      const bare = endpoints[0]!.replace("https://", "");
      await put(open({ endpoints: [bare], tls: () => ({ ca: pki!.ca }) }), "k", "3");
    });
  }, 30_000);

  test("a certificate that is renewed on disk is picked up by the call that needs it", async () => {
    await withEtcd({ tls: "server" }, async ({ pki }, open) => {
      let ca = "";
      let loads = 0;
      const tls = () => {
        loads++;
        return ca === "" ? {} : { ca };
      };
      const store = open({ tls });
      expect(isFault(await failure(store.range(call(), "k")), "store.away")).toBe(true);
      ca = pki!.ca;
      await until("the new CA to be used", () => store.range(call(), "k").catch(() => false));
      expect(loads).toBeGreaterThan(1);
    });
  }, 30_000);
});

describe("users", () => {
  const auth = {
    rootPassword: "r",
    users: [
      { name: "web", password: "w", prefix: "web/" },
      { name: "idle", password: "i" },
    ],
  };
  const spec = { auth, args: ["--auth-token", "simple", "--auth-token-ttl", "2"] };

  test("a user works inside the prefix and is refused outside; wrong passwords are refused; without a name nothing works", async () => {
    await withEtcd(spec, async (_, open) => {
      const web = open({ auth: { username: "web", password: () => "w" } });
      await put(web, "web/k", "1");
      const outside = [
        put(web, "other", "x"),
        web.range(call(), "other"),
        web.range(call(), "web/", "wec"),
        web.range(call(), "\0", "\0"),
      ];
      for (const error of await Promise.all(outside.map(failure)))
        expect(error).toMatchObject({
          kind: "store.refused",
          message: expect.stringContaining("permission denied"),
        });
      const watch = follow(web, { key: "other", from: "1" });
      await until("the watch to be refused", () => watch.ended());
      expect(isFault(watch.error(), "store.refused")).toBe(true);
      const wrong = open({ auth: { username: "web", password: () => "guess" } });
      expect(await failure(put(wrong, "web/k", "x"))).toMatchObject({
        kind: "store.refused",
        message: expect.stringContaining("authentication failed"),
      });
      expect(isFault(await failure(put(open(), "web/k", "x")), "store.refused")).toBe(true);
      expect((await web.range(call(), "web/k")).kvs[0]?.version).toBe("1");
    });
  }, 30_000);

  test("tokens that run out, or that a restarted member has forgotten, are renewed within the call", async () => {
    await withEtcd(spec, async (cluster, open) => {
      let asked = 0;
      const password = async () => {
        asked++;
        return "w";
      };
      // A quiet watch that is renewed would renew the token too.
      const web = open({ auth: { username: "web", password }, quietMs: 60_000 });
      const { revision } = await put(web, "web/k", "1");
      const watch = follow(web, { key: "web/k", from: add64(revision, 1) });
      await Bun.sleep(3500); // longer than the token's life: this is what is tested
      await put(web, "web/k", "2");
      expect(asked).toBeGreaterThan(1);
      await cluster.members[0]!.kill();
      await cluster.members[0]!.start();
      const before = asked;
      await Promise.all(Array.from({ length: 20 }, () => web.range(call(), "web/k")));
      // Twenty calls at once log in once, or a fleet's restart would be a flood of log-ins.
      expect(asked - before).toBeLessThanOrEqual(2);
      await put(web, "web/k", "3");
      expect((await watch.events(2, 20_000)).map((e) => e.kv.value)).toEqual(["2", "3"]);
      await watch.stop();
    });
  }, 40_000);

  test("a name and password for a store that knows no users is no obstacle", async () => {
    await withEtcd({}, async (_, open) => {
      await put(open({ auth: { username: "web", password: () => "w" } }), "k", "1");
    });
  }, 30_000);
});

describe("three members", () => {
  test("the leader is killed: calls go on within seconds, a watch misses nothing, unknown writes are honest", async () => {
    await withEtcd({ members: 3 }, async (cluster, open) => {
      const store = open();
      const { revision } = await put(store, "k", "start");
      const watch = follow(store, { key: "k", from: add64(revision, 1) });
      const outcomes: string[] = [];
      let landed = 0;
      const leader = await cluster.leader();
      for (let i = 0; i < 60; i++) {
        if (i === 20) await leader.kill();
        try {
          await put(store, "k", String(i));
          outcomes.push("yes");
          landed++;
        } catch (error) {
          outcomes.push((error as Fault).kind);
          if (!isFault(error, "store.unknown") && !isFault(error, "store.away")) throw error;
        }
      }
      expect(outcomes.slice(-5)).toEqual(["yes", "yes", "yes", "yes", "yes"]);
      const { kvs } = await store.range(call(), "k");
      const version = Number(kvs[0]?.version);
      // Every yes has landed, and what has landed beyond that was unknown.
      expect(version - 1).toBeGreaterThanOrEqual(landed);
      expect(version - 1 - landed).toBeLessThanOrEqual(outcomes.filter((each) => each === "store.unknown").length);
      const events = await watch.events(version - 1, 20_000);
      expect(events.map((e) => Number(e.kv.version))).toEqual(Array.from({ length: version - 1 }, (_, i) => i + 2));
      await watch.stop();
    });
  }, 90_000);

  test("the quorum is lost: writes are unknown or away, reads away, never stale; with the quorum everything goes on", async () => {
    await withEtcd({ members: 3 }, async (cluster, open) => {
      const store = open({ timeoutMs: 2000 });
      await put(store, "k", "1");
      const [one, two] = cluster.members;
      one!.pause();
      two!.pause();
      expect(isFault(await failure(store.range(call(), "k")), "store.away")).toBe(true);
      // A key of its own: it may still land, and as late as it likes.
      const write = (await failure(put(store, "late", "2"))) as Fault;
      expect(["store.unknown", "store.away"]).toContain(write.kind);
      one!.resume();
      two!.resume();
      await until("the quorum", () => put(store, "k", "3").catch(() => false), 30_000);
      expect((await store.range(call(), "k")).kvs[0]?.value).toBe("3");
    });
  }, 90_000);

  test("a watch on a member that is cut off from the others moves to one that is not", async () => {
    await withEtcd({ members: 3 }, async (cluster, open) => {
      const [mine, ...others] = cluster.members;
      const store = open({ endpoints: [mine!.endpoint, ...others.map((m) => m.endpoint)] });
      const { revision } = await put(store, "k", "1");
      const watch = follow(store, { key: "k", from: add64(revision, 1) });
      expect((await watch.next()).kind).toBe("open");
      mine!.pause();
      const elsewhere = open({ endpoints: others.map((m) => m.endpoint) });
      await until("a write", () => put(elsewhere, "k", "2").catch(() => false), 30_000);
      const [event] = await watch.events(1, 30_000);
      expect(event?.kv.value).toBe("2");
      expect(compare64(event!.kv.modRevision, revision)).toBeGreaterThan(0);
      mine!.resume();
      await watch.stop();
    });
  }, 90_000);
});
