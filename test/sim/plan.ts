/** What a round is like: its fleet, its settings, and how likely each fault is. All of it follows from the seed. */
import { Chance } from "./scheduler.ts";

export interface NodePlan {
  readonly name: string;
  readonly group: number;
  readonly slots: number;
  /** When it begins to want a reboot, ms; Infinity: never. */
  readonly wantsAt: number;
  /** Clock error: ms added to the wall clock, and how fast it runs. */
  readonly clockOffset: number;
  readonly drift: number;
}

export interface Plan {
  readonly seed: number;
  readonly nodes: readonly NodePlan[];
  readonly groups: number;
  readonly lockTtlSec: number;
  readonly checkSec: number;
  readonly graceSec: number;
  readonly cooldownSec: number;
  readonly maxHoldSec: number;
  readonly minUp: number;
  readonly blockOnUnhealthyPeer: boolean;
  /** When faults end, ms. After that everything heals and the line has to drain. */
  readonly faultsUntil: number;
  /** Probabilities: each call of a port (crash, power, pause), each request (loss, late), or once a simulated second (the others). */
  readonly crash: number;
  readonly power: number;
  readonly pause: number;
  readonly loss: number;
  readonly late: number;
  readonly partition: number;
  readonly storeRestart: number;
  /** The store is restored from a backup that is up to 20 s old. */
  readonly storeRestore: number;
  readonly clockJump: number;
  readonly killSwitch: number;
  readonly needClears: number;
  readonly operator: number;
  /** Probabilities for each reboot. */
  readonly commandFails: number;
  readonly commandHangs: number;
  readonly comesToNothing: number;
  readonly slowDown: number;
  readonly slowBoot: number;
  readonly neverBack: number;
  readonly sick: number;
  readonly rename: boolean;
}

/** The plan of a seed. Half of the fault kinds are off in any round, so that rare combinations get room (swarm testing). */
export function planOf(seed: number): Plan {
  const chance = new Chance(seed * 2654435761 + 1);
  const kind = chance.next();
  const large = kind < 0.0005;
  const count = large ? 200 : kind < 0.75 ? chance.whole(3, 4) : chance.whole(5, 10);
  const groups = chance.hit(0.25) ? 2 : 1;
  const slots = chance.hit(0.7) ? [1] : chance.hit(0.6) ? [2] : [1, 2, 3];
  const twins = !large && chance.hit(0.04);
  const wanting = large ? 0.03 : chance.pick([0.6, 1, 1]);
  const nodes: NodePlan[] = [];
  for (let i = 0; i < count; i++) {
    nodes.push({
      name: twins && i === 1 ? "n0" : `n${i}`,
      group: i % groups,
      slots: chance.pick(slots),
      wantsAt: chance.hit(wanting) ? chance.between(0, chance.pick([1, 30_000])) : Number.POSITIVE_INFINITY,
      clockOffset: chance.hit(0.2) ? chance.between(-1, 1) * 86_400_000 * chance.pick([1, 400]) : 0,
      drift: 1 + (chance.hit(0.3) ? chance.between(-0.005, 0.005) : 0),
    });
  }
  const some = (p: number) => (chance.hit(0.5) ? p * chance.between(0.2, 2) : 0);
  const policy = !twins && chance.hit(0.5);
  const rename = !policy && !twins && chance.hit(0.03);
  return {
    seed,
    nodes,
    groups,
    lockTtlSec: chance.pick([6, 10, 15]),
    checkSec: chance.pick([10, 20]),
    graceSec: chance.pick([20, 40]),
    cooldownSec: chance.hit(0.4) ? chance.whole(5, 40) : 0,
    maxHoldSec: !policy && chance.hit(0.12) ? chance.whole(60, 120) : 0,
    minUp: policy ? chance.whole(1, Math.max(1, count - 2)) : 0,
    blockOnUnhealthyPeer: policy && chance.hit(0.3),
    faultsUntil: large ? 200_000 : chance.between(60_000, 240_000),
    crash: some(0.002) / (large ? 20 : 1),
    power: some(0.0007) / (large ? 20 : 1),
    pause: some(0.0015) / (large ? 20 : 1),
    loss: some(0.03),
    late: some(0.02),
    partition: some(0.01),
    storeRestart: some(0.004),
    storeRestore: chance.hit(0.1) ? 0.01 : 0,
    clockJump: some(0.01),
    killSwitch: some(0.004),
    needClears: some(0.003),
    operator: some(0.03),
    commandFails: some(0.15),
    commandHangs: some(0.1),
    comesToNothing: some(0.1),
    slowDown: some(0.3),
    slowBoot: some(0.3),
    neverBack: some(0.08),
    sick: some(0.3),
    rename,
  };
}
