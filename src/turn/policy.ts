/** May the fleet spare this machine? Judged on the world after the act: I am down, so is every other holder, and silence is not health. PURE. */
import type { Line } from "./line.ts";
import type { Fleet } from "./roster.ts";

export interface PolicySettings {
  /** Share of the roster that has to be up afterwards, in (0, 1]. */
  readonly minHealthyFraction?: number;
  /** Number of nodes that have to be up afterwards. */
  readonly minHealthyAbsolute?: number;
  /** Refuse when only fallback nodes would be up afterwards. */
  readonly forbidIfOnlyFallbackLeft: boolean;
  readonly fallbackNodes: readonly string[];
  /** Refuse while any other node is down that is not in its turn. */
  readonly blockOnUnhealthyPeer: boolean;
}

/** Something that can say no, and why it does. `why` is for people and is filled in also when the gate is open, if it knows something. */
export interface Gate {
  readonly name: "kill_switch" | "window" | "detectors" | "health" | "store" | "stop" | "cooldown" | "policy" | "line";
  readonly open: boolean;
  readonly why: string;
  /** It could not be asked at all (timeout, not executable): closed, and an error. */
  readonly failed?: boolean;
}

/** The nodes that would be up and down if `self` went down now, with a reason for each that is down. */
export function worldAfter(
  fleet: Fleet,
  line: Line,
  self: { readonly node: string; readonly machine: string },
): { readonly up: readonly string[]; readonly down: ReadonlyMap<string, string> } {
  const holders = new Set(line.filter((c) => c.permanent).map((c) => c.value?.machine ?? ""));
  const up: string[] = [];
  const down = new Map<string, string>();
  for (const { node, machine, health } of fleet.nodes) {
    if (machine === self.machine) continue;
    if (holders.has(machine) || health?.turn !== undefined) down.set(node, "in its turn");
    else if (health === undefined) down.set(node, "silent");
    else if (!health.healthy) down.set(node, `unhealthy: ${health.reason ?? health.stage}`);
    else up.push(node);
  }
  down.set(self.node, "this node");
  return { up, down };
}

/** The policy gate at one revision. Counts over the whole namespace, whatever the group. */
export function policyGate(
  policy: PolicySettings,
  fleet: Fleet,
  line: Line,
  self: { readonly node: string; readonly machine: string },
): Gate {
  const { up, down } = worldAfter(fleet, line, self);
  const total = up.length + down.size;
  const refuse = (why: string): Gate => ({ name: "policy", open: false, why });
  if (policy.blockOnUnhealthyPeer) {
    const sick = [...down].filter(([, why]) => why !== "this node" && why !== "in its turn");
    if (sick.length > 0) return refuse(`down already: ${list(sick.map(([node, why]) => `${node} (${why})`))}`);
  }
  const { minHealthyAbsolute: absolute, minHealthyFraction: fraction } = policy;
  if (absolute !== undefined && up.length < absolute)
    return refuse(`${up.length} of ${total} nodes would be up, min_healthy_absolute is ${absolute}`);
  if (fraction !== undefined && up.length / total < fraction)
    return refuse(`${up.length} of ${total} nodes would be up, min_healthy_fraction is ${fraction}`);
  const fallback = new Set(policy.fallbackNodes);
  if (policy.forbidIfOnlyFallbackLeft && !up.some((node) => !fallback.has(node)))
    return refuse(up.length === 0 ? "no node would be up" : `only fallback nodes would be up: ${list(up)}`);
  return { name: "policy", open: true, why: `${up.length} of ${total} nodes would be up` };
}

function list(words: readonly string[]): string {
  const shown = words.slice(0, 5).join(", ");
  return words.length > 5 ? `${shown} and ${words.length - 5} more` : shown;
}
