/** Planted faults: each leaves out or breaks one rule of the turn, and the simulator must notice. */
import type { Ports } from "../../src/reboot/ports.ts";
import type { Store } from "../../src/store/store.ts";
import type { Life } from "./host.ts";
import type { World } from "./world.ts";

export interface Plant {
  readonly name: string;
  /** Builds the faulty ports from the true ones. */
  inside(ports: Ports, world: World, life: Life): Ports;
  /** The operator's store, when the fault is in his command. */
  operator?(store: Store): Store;
}
