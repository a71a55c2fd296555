/** What the etcd client makes of a network that fails: a definite answer, "away", or an honest "unknown", never a guess. */
import { afterAll, afterEach, beforeAll, describe, expect, test } from "bun:test";
import { createServer, type Socket } from "node:net";
import { realClock } from "../../src/kernel/clock.ts";
import { type Fault, isFault } from "../../src/kernel/errors.ts";
import { openEtcd } from "../../src/store/etcd.ts";
import { add64, type Store } from "../../src/store/store.ts";
import { type EtcdCluster, startEtcd } from "../world/etcd.ts";
import { startProxy, type TcpProxy } from "../world/proxy.ts";
import { until } from "../world/wait.ts";
import { follow } from "./follow.ts";
import { call, failure } from "./suite.ts";

const ports = { clock: realClock(), log: () => undefined };
let cluster: EtcdCluster;
let direct: Store;
let proxy: TcpProxy;
let store: Store;
const opened: (() => Promise<void>)[] = [];

beforeAll(async () => {
  cluster = await startEtcd();
  direct = openEtcd({ endpoints: cluster.endpoints }, ports);
  proxy = await startProxy(cluster.endpoints[0]!);
  store = openEtcd({ endpoints: [proxy.url], timeoutMs: 1000, quietMs: 1500 }, ports);
}, 60_000);

afterEach(async () => {
  await proxy.set("pass");
  for (const close of opened.splice(0)) await close();
});

afterAll(async () => {
  await store.close();
  await direct.close();
  await proxy.stop();
  await cluster.stop();
}, 30_000);

const put = (to: Store, key: string, value: string) => to.txn(call("put"), { then: [{ put: key, value }] });
const stored = async (key: string) => (await direct.range(call(), key)).kvs[0]?.value;

describe("one endpoint", () => {
  test("the answer to a write is lost: store.unknown, and the write has landed", async () => {
    await put(store, "warm", "up");
    await proxy.set("swallow");
    const error = await failure(put(store, "swallowed", "landed"));
    expect(isFault(error, "store.unknown")).toBe(true);
    expect((error as Fault).retry).toBe("later");
    expect(await stored("swallowed")).toBe("landed");
    expect(isFault(await failure(store.range(call(), "swallowed")), "store.away")).toBe(true);
  });

  test("the connection is cut after the request was sent: store.unknown at once, and the write has landed", async () => {
    proxy.setWhen(btoa("cut off"), "swallow");
    const began = performance.now();
    const work = put(store, "cut off", "landed");
    await until("the write to land", async () => (await stored("cut off")) === "landed");
    await proxy.set("close");
    expect(isFault(await failure(work), "store.unknown")).toBe(true);
    expect(performance.now() - began).toBeLessThan(900);
  });

  test("nobody listens: store.away, at once, and nothing happened", async () => {
    await proxy.set("refuse");
    const began = performance.now();
    const calls = [put(store, "refused", "x"), store.range(call(), "x"), store.grant(call(), 5)];
    for (const error of await Promise.all(calls.map(failure))) expect(isFault(error, "store.away")).toBe(true);
    expect(performance.now() - began).toBeLessThan(500);
    expect(await stored("refused")).toBeUndefined();
  });

  test("frozen both ways: a write is unknown, a read away, both by the deadline; the write lands when it thaws", async () => {
    await proxy.set("freeze");
    const began = performance.now();
    const [write, read, renewal] = await Promise.all([
      failure(put(store, "frozen", "late")),
      failure(store.range(call(), "frozen")),
      failure(store.keepAlive(call(), "7")),
    ]);
    expect(performance.now() - began).toBeLessThan(1500);
    expect(isFault(write, "store.unknown")).toBe(true);
    expect(isFault(read, "store.away")).toBe(true);
    expect(isFault(renewal, "store.unknown")).toBe(true);
    expect(await stored("frozen")).toBeUndefined();
    await proxy.set("pass");
    await until("the late write to land", async () => (await stored("frozen")) === "late");
    await put(store, "frozen", "and on");
  });

  test("a request that is never delivered is unknown too: nobody here can tell the difference", async () => {
    await proxy.set("deaf");
    expect(isFault(await failure(put(store, "deaf", "x")), "store.unknown")).toBe(true);
    expect(await stored("deaf")).toBeUndefined();
  });

  test("an abort ends a read with the reason, and a write under way as unknown with the reason as its cause", async () => {
    await proxy.set("freeze");
    const reason = new Error("shutting down");
    const abort = new AbortController();
    const aborted = { label: "test", signal: abort.signal };
    const read = failure(store.range(aborted, "x"));
    const write = failure(store.txn(aborted, { then: [{ put: "aborted", value: "" }] }));
    abort.abort(reason);
    expect(await read).toBe(reason);
    const error = (await write) as Fault;
    expect(error.kind).toBe("store.unknown");
    expect(error.cause).toBe(reason);
  });

  test("a call may have a deadline of its own", async () => {
    await proxy.set("freeze");
    const began = performance.now();
    await failure(store.range({ label: "quick", timeoutMs: 100 }, "x"));
    expect(performance.now() - began).toBeLessThan(600);
  });

  test("after the store was restarted the first write succeeds: no old connection is in the way", async () => {
    await put(store, "before", "x");
    await cluster.members[0]!.kill();
    await cluster.members[0]!.start();
    await put(store, "after", "x");
    expect(await stored("after")).toBe("x");
  }, 20_000);

  test("close ends what is under way", async () => {
    await proxy.set("freeze");
    const other = openEtcd({ endpoints: [proxy.url] }, ports);
    const write = failure(put(other, "closed", "x"));
    const watch = follow(other, { key: "closed", from: "1" });
    await other.close();
    expect(isFault(await write, "store.unknown")).toBe(true);
    expect(isFault(await failure(put(other, "closed", "x")), "store.away")).toBe(true);
    await watch.stop();
  });
});

describe("two endpoints", () => {
  const pair = async (first: "refuse" | "freeze") => {
    const bad = await startProxy(cluster.endpoints[0]!, first);
    const both = openEtcd({ endpoints: [bad.url, proxy.url], timeoutMs: 2000, quietMs: 1000 }, ports);
    opened.push(async () => {
      await both.close();
      await bad.stop();
    });
    return { bad, both };
  };

  test("the first refuses: everything goes to the second, writes too", async () => {
    const { both } = await pair("refuse");
    await put(both, "failover", "1");
    expect(await stored("failover")).toBe("1");
  });

  test("the first is frozen: reads and keep-alives go on within the deadline, and later writes go straight to the second", async () => {
    const { bad, both } = await pair("freeze");
    const lease = await direct.grant(call(), 30);
    expect(await both.keepAlive(call(), lease)).toBe(30);
    await both.range(call(), "x");
    const began = performance.now();
    await put(both, "sticky", "1");
    expect(performance.now() - began).toBeLessThan(500);
    expect(bad.accepted).toBeLessThanOrEqual(2);
  });

  test("a write to the frozen first is unknown and is not sent again to the second", async () => {
    const { bad, both } = await pair("freeze");
    expect(isFault(await failure(put(both, "once", "1")), "store.unknown")).toBe(true);
    expect(await stored("once")).toBeUndefined();
    await bad.set("pass");
    await until("the late write", async () => (await stored("once")) === "1");
    expect((await direct.range(call(), "once")).kvs[0]?.version).toBe("1");
  }, 20_000);

  test("a watch moves on when its endpoint freezes without a word, and misses nothing", async () => {
    const { bad, both } = await pair("refuse");
    await bad.set("pass");
    const { revision } = await put(direct, "moving", "0");
    const watch = follow(both, { key: "moving", from: add64(revision, 1) });
    await put(direct, "moving", "1");
    expect((await watch.events(1))[0]?.kv.value).toBe("1");
    await bad.set("freeze");
    await proxy.set("freeze");
    await put(direct, "moving", "2");
    await proxy.set("pass");
    expect((await watch.events(1, 15_000))[0]?.kv.value).toBe("2");
    await put(direct, "moving", "3");
    expect((await watch.events(1))[0]?.kv.value).toBe("3");
    await watch.stop();
  }, 30_000);
});

describe("watches", () => {
  test("a watch resumes after its connection was cut, again and again, without loss or repetition", async () => {
    const { revision } = await put(direct, "cut", "0");
    const watch = follow(store, { key: "cut", from: add64(revision, 1) });
    for (let i = 1; i <= 30; i++) {
      await put(direct, "cut", String(i));
      if (i % 3 === 0) {
        await proxy.set("close");
        await proxy.set("pass");
      }
    }
    expect((await watch.events(30, 15_000)).map((e) => e.kv.value)).toEqual(
      Array.from({ length: 30 }, (_, i) => `${i + 1}`),
    );
    await watch.stop();
  }, 30_000);

  test("a quiet watch is renewed without its consumer noticing", async () => {
    const { revision } = await put(direct, "quiet", "0");
    const before = proxy.accepted;
    const watch = follow(store, { key: "quiet", from: add64(revision, 1) });
    expect((await watch.next()).kind).toBe("open");
    await until("three connections", () => proxy.accepted >= before + 3);
    await put(direct, "quiet", "1");
    const item = await watch.next();
    expect(item.kind === "events" && item.events[0]?.kv.value).toBe("1");
    await watch.stop();
  }, 20_000);

  test("a watch that was away during a compaction says that it lost something", async () => {
    const { revision } = await put(direct, "compacted", "0");
    const watch = follow(store, { key: "compacted", from: add64(revision, 1) });
    expect((await watch.next()).kind).toBe("open");
    await proxy.set("refuse");
    await put(direct, "compacted", "1");
    const last = await put(direct, "compacted", "2");
    await cluster.post("/v3/kv/compaction", { revision: last.revision, physical: true });
    await proxy.set("pass");
    expect((await watch.next(15_000)).kind).toBe("lost");
    await watch.stop();
  }, 20_000);

  test("a store that comes back older says so to the watch, although etcd itself is silent about it", async () => {
    const old = await startEtcd();
    const member = old.members[0]!;
    const client = openEtcd({ endpoints: old.endpoints, timeoutMs: 1000, quietMs: 1000 }, ports);
    opened.push(async () => {
      await client.close();
      await old.stop();
    });
    for (let i = 0; i < 20; i++) await put(client, "k", String(i));
    const { revision, storeId } = await client.range(call(), "k");
    const watch = follow(client, { key: "k", from: add64(revision, 1) });
    expect((await watch.next()).kind).toBe("open");
    await member.kill();
    member.wipe();
    await member.start();
    const item = await watch.next(20_000);
    expect(item.kind).toBe("lost");
    // The id of a cluster comes from its members' names and addresses: it alone would have told nothing.
    expect((await client.range(call(), "k")).storeId).toBe(storeId);
    await watch.stop();
  }, 40_000);
});

describe("what a server may answer", () => {
  /** A server that reads a whole request, then does as it is told. */
  const server = async (respond: (socket: Socket, request: string) => void) => {
    let requests = 0;
    const listener = createServer((socket) => {
      let text = "";
      socket.on("error", () => undefined);
      socket.on("data", (piece) => {
        text += piece.toString("latin1");
        const [head, body] = text.split("\r\n\r\n", 2);
        const length = Number(/content-length: (\d+)/i.exec(head ?? "")?.[1] ?? 0);
        if (body === undefined || body.length < length) return;
        text = "";
        requests++;
        respond(socket, body);
      });
    });
    await new Promise<void>((resolve) => listener.listen(0, "127.0.0.1", () => resolve()));
    const { port } = listener.address() as { port: number };
    const client = openEtcd({ endpoints: [`127.0.0.1:${port}`], timeoutMs: 400, quietMs: 400 }, ports);
    opened.push(async () => {
      await client.close();
      listener.close();
    });
    return { client, requests: () => requests };
  };
  const answer = (status: number, body: string) => (socket: Socket) => {
    socket.write(`HTTP/1.1 ${status} X\r\nContent-Length: ${Buffer.byteLength(body)}\r\n\r\n${body}`);
  };
  const etcd = (code: number, message: string) => JSON.stringify({ error: message, message, code });
  const header = '"header":{"cluster_id":"1","revision":"5"}';

  const table: readonly [string, (socket: Socket) => void, string][] = [
    ["leader changed", answer(503, etcd(14, "etcdserver: leader changed")), "store.unknown"],
    ["request timed out", answer(503, etcd(14, "etcdserver: request timed out")), "store.unknown"],
    ["deadline exceeded", answer(408, etcd(4, "context deadline exceeded")), "store.unknown"],
    ["cancelled", answer(408, etcd(1, "context canceled")), "store.unknown"],
    ["a code that nobody knows", answer(500, etcd(2, "?")), "store.unknown"],
    ["a bad gateway in between", answer(502, "<html>Bad gateway</html>"), "store.unknown"],
    ["a redirect", answer(302, ""), "store.unknown"],
    ["200 with half an answer", answer(200, '{"header":{"clu'), "store.unknown"],
    ["200 with a page that is no etcd's", answer(200, "<html>Log in to the network</html>"), "store.unknown"],
    ["200 with JSON that is no etcd's", answer(200, '{"ok":true,"succeeded":true}'), "store.unknown"],
    ["an error status with etcd's success", answer(500, `{${header},"succeeded":true}`), "store.unknown"],
    ["permission denied", answer(403, etcd(7, "etcdserver: permission denied")), "store.refused"],
    ["no space", answer(429, etcd(8, "etcdserver: mvcc: database space exceeded")), "store.refused.full"],
    ["lease not found", answer(404, etcd(5, "etcdserver: requested lease not found")), "store.no-lease"],
    ["cut before the answer", (socket) => socket.destroy(), "store.unknown"],
    ["reset before the answer", (socket) => socket.resetAndDestroy(), "store.unknown"],
    [
      "closed in the middle of the answer",
      (s) => s.end("HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"),
      "store.unknown",
    ],
    ["noise instead of HTTP", (socket) => socket.end("SSH-2.0-OpenSSH_9.2\r\n"), "store.unknown"],
    ["silence", () => undefined, "store.unknown"],
    ["a head and then silence", (s) => s.write("HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"), "store.unknown"],
  ];
  for (const [name, respond, kind] of table)
    test(`${name}: ${kind}, and a write is sent once`, async () => {
      const { client, requests } = await server(respond);
      expect(((await failure(put(client, "k", "v"))) as Fault).kind).toBe(kind);
      expect(requests()).toBe(1);
    });

  test("zero fields that etcd leaves out come back as zeros", async () => {
    const { client } = await server(answer(200, `{${header},"kvs":[{"key":"aw=="}],"count":"1"}`));
    const { kvs } = await client.range(call(), "k");
    expect(kvs).toEqual([{ key: "k", value: "", createRevision: "0", modRevision: "0", version: "0", lease: "0" }]);
    const { client: other } = await server(answer(200, `{${header}}`));
    expect(await other.txn(call(), { then: [{ put: "k", value: "" }] })).toMatchObject({ succeeded: false, reads: [] });
  });

  test("a stream is understood however it is cut, inside a line, a number, or a character", async () => {
    const line = (result: string) => `{"result":{${header}${result}}}\n`;
    const stream = Buffer.from(
      line(',"created":true,"note":"漢字 😀"') +
        "\n" +
        line(',"events":[{"kv":{"key":"aw==","mod_revision":"6","value":"8J+YgA=="},"note":"é漢😀"}]') +
        line(',"events":[{"type":"DELETE","kv":{"key":"aw==","mod_revision":"7"}}]'),
    );
    for (const size of [1, 2, 3, 7, 64, stream.length]) {
      const { client } = await server((socket) => {
        socket.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        const send = (at: number) => {
          if (at >= stream.length) return;
          const piece = stream.subarray(at, at + size);
          socket.write(Buffer.concat([Buffer.from(`${piece.length.toString(16)}\r\n`), piece, Buffer.from("\r\n")]));
          setImmediate(send, at + size);
        };
        send(0);
      });
      const watch = follow(client, { key: "k", from: "6" });
      expect((await watch.events(2)).map((e) => [e.type, e.kv.modRevision, e.kv.value])).toEqual([
        ["put", "6", "😀"],
        ["delete", "7", ""],
      ]);
      await watch.stop();
    }
  });

  test("a watch that is never confirmed, or answered with noise, is tried again and again, not given up", async () => {
    let n = 0;
    const { client } = await server((socket) => {
      n++;
      if (n === 1) return; // silence
      if (n === 2) return answer(200, "noise\n")(socket);
      if (n === 3) return answer(503, etcd(14, "etcdserver: no leader"))(socket);
      answer(200, `{"result":{${header},"created":true}}\n`)(socket);
    });
    const watch = follow(client, { key: "k", from: "6" });
    expect((await watch.next()).kind).toBe("open");
    await watch.stop();
  }, 15_000);

  test("a watch that is refused for good throws", async () => {
    const { client } = await server(answer(403, etcd(7, "etcdserver: permission denied")));
    const watch = follow(client, { key: "k", from: "6" });
    await until("the watch to end", () => watch.ended());
    expect(isFault(watch.error(), "store.refused")).toBe(true);
  });
});
