/** Planted faults: each leaves out or breaks one rule of the turn, and the simulator must notice. */
import { isFault } from "../../src/kernel/errors.ts";
import type { HealthVerdict, Ports } from "../../src/reboot/ports.ts";
import type { Call, Compare, KeyValue, Op, Store, Txn, TxnResult } from "../../src/store/store.ts";
import { readTurnValue } from "../../src/turn/keys.ts";
import type { Plan } from "./plan.ts";

export interface Plant {
  readonly name: string;
  /** Builds the faulty ports from the true ones. */
  inside(ports: Ports): Ports;
  /** The operator's store, when the fault is in the operator's command. */
  operator?(store: Store): Store;
  /** Makes the situation in which the rule matters more frequent. */
  tune?(plan: Plan): Plan;
}

type Send = (call: Call, txn: Txn) => Promise<TxnResult>;
type Forge = (txn: Txn, send: Send, call: Call) => Promise<TxnResult>;

/** The store with one kind of transaction, by its label, done differently. */
function forged(store: Store, label: string, forge: Forge): Store {
  const send: Send = (call, txn) => store.txn(call, txn);
  return { ...store, txn: (call, txn) => (call.label === label ? forge(txn, send, call) : send(call, txn)) };
}

const forging =
  (label: string, forge: (ports: Ports) => Forge) =>
  (ports: Ports): Ports => ({
    ...ports,
    store: forged(ports.store, label, forge(ports)),
  });

/** Leaves out the conditions that `unwanted` names. */
const without =
  (unwanted: (condition: Compare, ports: Ports) => boolean) =>
  (ports: Ports): Forge =>
  (txn, send, call) =>
    send(call, { ...txn, if: (txn.if ?? []).filter((condition) => !unwanted(condition, ports)) });

/** Changes what is put. */
const rewriting =
  (change: (op: Op, ports: Ports) => Op | undefined) =>
  (ports: Ports): Forge =>
  (txn, send, call) =>
    send(call, { ...txn, then: (txn.then ?? []).map((op) => change(op, ports)).filter((op) => op !== undefined) });

/** Changes what was read. */
const misreading = (
  label: string,
  change: (reads: readonly (readonly KeyValue[])[], ports: Ports) => readonly (readonly KeyValue[])[],
) =>
  forging(label, (ports) => async (txn, send, call) => {
    const answer = await send(call, txn);
    return { ...answer, reads: change(answer.reads, ports) };
  });

const isMine = (kv: KeyValue, ports: Ports) => readTurnValue(kv.value)?.machine === ports.self.machine;
const twoGroups = (plan: Plan): Plan => ({
  ...plan,
  groups: 2,
  minUp: plan.nodes.length - 1,
  blockOnUnhealthyPeer: false,
  maxHoldSec: 0,
  nodes: plan.nodes.map((node, i) => ({ ...node, name: `n${i}`, group: i % 2, wantsAt: 0 })),
});
const operators = (plan: Plan): Plan => ({ ...plan, operator: 0.5, pause: 0.02, crash: 0, power: 0 });
export const PLANTS: readonly Plant[] = [
  {
    name: "skip the fence",
    inside: forging("turn.fence", () => async (_, send, call) => ({
      ...(await send({ ...call, label: "read" }, {})),
      succeeded: true,
    })),
  },
  {
    name: "keep the lease on the fenced key",
    inside: forging(
      "turn.fence",
      rewriting((op, { space }) =>
        "put" in op && op.put.startsWith(space.line) ? { put: op.put, value: op.value, keepLease: true } : op,
      ),
    ),
  },
  {
    name: "do not compare the stop in the fence",
    inside: forging(
      "turn.fence",
      without(({ key }, { space }) => space.stops.includes(key)),
    ),
    tune: (plan) => ({ ...plan, operator: 0.3, late: 0.15 }),
  },
  {
    name: "forget the cooldown",
    inside: (ports) => {
      const blind = misreading("turn.snapshot", (reads) => reads.map((kvs, i) => (i === 5 ? [] : kvs)))(ports);
      return {
        ...blind,
        store: forged(blind.store, "turn.fence", without(({ key }) => key === ports.space.cooldown)(ports)),
      };
    },
    tune: (plan) => ({ ...plan, cooldownSec: 40 }),
  },
  {
    name: "do not compare health, roster and line in the fence",
    inside: forging(
      "turn.fence",
      without(({ rangeEnd, key }, { space }) => rangeEnd !== undefined && key !== space.cooldown),
    ),
    tune: twoGroups,
  },
  {
    name: "do not write down into the live record with the fence",
    inside: forging(
      "turn.fence",
      rewriting((op, { space }) => ("put" in op && op.put.startsWith(space.health) ? undefined : op)),
    ),
    tune: twoGroups,
  },
  {
    name: "take an unknown fence for a yes",
    inside: forging("turn.fence", () => async (txn, send, call) => {
      try {
        return await send(call, txn);
      } catch (error) {
        if (!isFault(error, "store.unknown")) throw error;
        return { succeeded: true, revision: "1", storeId: "1", reads: [] };
      }
    }),
  },
  {
    name: "bring a lapsed key back with a plain put",
    inside: forging("turn.own", () => async (txn, send, call) => {
      const answer = await send(call, txn);
      if (answer.succeeded) return answer;
      const revived = (txn.then ?? []).map((op) => ("put" in op ? { put: op.put, value: op.value } : op));
      return await send(call, { then: revived });
    }),
    tune: (plan) => ({ ...plan, pause: 0.004 }),
  },
  {
    name: "release at start",
    inside: forging("turn.survey", (ports) => async (txn, send, call) => {
      const answer = await send(call, txn);
      const turn = answer.reads[0]?.find((kv) => isMine(kv, ports) && kv.lease === "0");
      if (turn) await send({ ...call, label: "turn.end" }, { then: [{ delete: turn.key }] });
      return turn ? await send(call, txn) : answer;
    }),
  },
  {
    name: "release on any other boot id, healthy or not",
    inside: (ports) => ({
      ...ports,
      probes: {
        ...ports.probes,
        health: (phase, lock, signal): Promise<HealthVerdict> =>
          phase === "post-reboot"
            ? Promise.resolve({ healthy: true, error: false })
            : ports.probes.health(phase, lock, signal),
      },
    }),
  },
  {
    name: "release a turn however young, and reboot on a fence however old",
    inside: (ports) => {
      // The clock of the deadline stands still from the fence to the start of the command.
      let stopped: number | undefined;
      const boottime = () => stopped ?? ports.clock.boottime();
      const txn: Store["txn"] = (call, request) => {
        stopped = call.label === "turn.fence" ? boottime() : undefined;
        return ports.store.txn(call, request);
      };
      const launch: Ports["host"]["launch"] = (turnId, reason) => {
        stopped = undefined;
        return ports.host.launch(turnId, reason);
      };
      return {
        ...ports,
        clock: { ...ports.clock, boottime },
        store: { ...ports.store, txn },
        host: { ...ports.host, launch },
      };
    },
    operator: (store) => forged(store, "turn.release", without(({ key }) => key.includes("/fresh/"))({} as Ports)),
    tune: operators,
  },
  {
    name: "release by key only, not as it was shown",
    inside: (ports) => ports,
    operator: (store) => forged(store, "turn.release", (txn, send, call) => send(call, { ...txn, if: [] })),
    tune: operators,
  },
  {
    name: "start the cooldown after the turn has ended",
    inside: forging("turn.end", ({ space }) => async (txn, send, call) => {
      const late = (txn.then ?? []).filter((op) => "put" in op && op.put.startsWith(space.cooldown));
      const answer = await send(call, { ...txn, then: (txn.then ?? []).filter((op) => !late.includes(op)) });
      if (answer.succeeded) await send({ ...call, label: "late" }, { then: late });
      return answer;
    }),
    tune: (plan) => ({ ...plan, cooldownSec: 40, late: 0.1 }),
  },
  {
    name: "know oneself by name",
    inside: (ports) => ({ ...ports, self: { ...ports.self, machine: ports.self.node } }),
    tune: (plan) => ({
      ...plan,
      groups: 1,
      nodes: plan.nodes.map((node, i) => ({ ...node, group: 0, slots: 2, wantsAt: 0, name: i < 2 ? "n0" : `n${i}` })),
    }),
  },
  {
    name: "believe in more slots than the key says",
    inside: (ports) => ({ ...ports, self: { ...ports.self, slots: 9 } }),
  },
  {
    name: "not to ask who stands ahead",
    inside: (ports) => {
      const blind = (kvs: readonly KeyValue[]) => kvs.filter((kv) => isMine(kv, ports));
      const seeing = misreading("turn.snapshot", (reads) => reads.map((kvs, i) => (i === 0 ? blind(kvs) : kvs)))(ports);
      const range: Store["range"] = async (call, key, end) => {
        const answer = await ports.store.range(call, key, end);
        return call.label === "turn.line" ? { ...answer, kvs: blind(answer.kvs) } : answer;
      };
      return { ...seeing, store: { ...seeing.store, range } };
    },
  },
  {
    name: "wait out the grace by timer only",
    inside: (ports) => ({
      ...ports,
      host: { ...ports.host, goingDown: async () => undefined, endCommand: async () => undefined },
    }),
    tune: (plan) => ({ ...plan, slowDown: 0.5 }),
  },
  {
    name: "do not verify a machine whose turn was taken away",
    inside: (ports) => ({
      ...ports,
      memory: {
        ...ports.memory,
        loadTurn: async () => {
          const record = await ports.memory.loadTurn();
          return record?.bootId === ports.self.bootId ? record : undefined;
        },
      },
    }),
    tune: (plan) => ({ ...plan, operator: 0.3, slowBoot: 0.6 }),
  },
  {
    name: "leave no mark that the command was started",
    inside: (ports) => ({
      ...ports,
      memory: {
        ...ports.memory,
        saveTurn: async (record) => (record.state === "launched" ? undefined : await ports.memory.saveTurn(record)),
      },
    }),
    tune: (plan) => ({ ...plan, crash: 0.004, slowDown: 0.5 }),
  },
  {
    name: "get in line beside a permanent key of one's own",
    inside: misreading("turn.survey", (reads, ports) =>
      reads.map((kvs, i) => (i === 0 ? kvs.filter((kv) => kv.lease !== "0" || !isMine(kv, ports)) : kvs)),
    ),
  },
  {
    name: "let a late health report overwrite the down of the fence",
    inside: forging(
      "live.report",
      without(() => true),
    ),
    tune: (plan) => ({ ...twoGroups(plan), late: 0.3, loss: 0.05 }),
  },
  {
    name: "take the turn over from a machine whose daemon is alive",
    inside: (ports) => {
      const deaf = misreading("turn.snapshot", (reads) => reads.map((kvs, i) => (i === 6 ? [] : kvs)))(ports);
      const store = forged(deaf.store, "turn.takeover", without(({ key }) => key.startsWith(ports.space.alive))(ports));
      return { ...deaf, store };
    },
    tune: (plan) => ({ ...plan, minUp: 0, blockOnUnhealthyPeer: false, maxHoldSec: 30, sick: 0.8 }),
  },
  {
    name: "count silence as health",
    inside: (ports) => {
      const put = rewriting((op) => ("put" in op && op.put.startsWith(ports.space.health) ? undefined : op));
      const store = forged(ports.store, "turn.fence", put(ports));
      return misreading("turn.snapshot", (reads) =>
        reads.map((kvs, i) => {
          if (i !== 1) return kvs;
          return (reads[2] ?? []).map((kv) => ({
            ...kv,
            key: kv.key.replace(ports.space.roster, ports.space.health),
            value: JSON.stringify({ ...JSON.parse(kv.value), healthy: true, stage: "monitor" }),
          }));
        }),
      )({ ...ports, store });
    },
    tune: twoGroups,
  },
];
