/** A network of the test's own: a switch in a namespace that nobody else is in, and a cable from it into a namespace for each host. */
import type { Guard } from "./guard.ts";
import { run } from "./run.ts";

/** Nothing outside sees these addresses: no interface of this machine leads there, so they cannot collide with any it uses. */
const NETWORK = "10.77.0";

export class Lan {
  readonly #guard: Guard;
  readonly #name: string;
  /** The words that start a program at the switch. */
  readonly within: readonly string[];

  private constructor(guard: Guard, name: string) {
    this.#guard = guard;
    this.#name = name;
    this.within = ["nsenter", `--net=/run/netns/${name}`];
  }

  /** `addresses` are the last numbers of those that the switch itself has. */
  static async make(guard: Guard, name: string, addresses: readonly number[]): Promise<Lan> {
    const lan = new Lan(guard, name);
    await guard.owes({ what: "namespace", name });
    await run(["ip", "netns", "add", name]);
    await run(["ip", "-n", name, "link", "add", "switch", "type", "bridge"]);
    for (const number of addresses)
      await run(["ip", "-n", name, "addr", "add", `${lan.address(number)}/24`, "dev", "switch"]);
    for (const link of ["lo", "switch"]) await run(["ip", "-n", name, "link", "set", link, "up"]);
    return lan;
  }

  address(number: number): string {
    return `${NETWORK}.${number}`;
  }

  /** A namespace with one cable to the switch; resolves to its name. `host` is at most 8 characters. */
  async attach(host: string, number: number): Promise<string> {
    const name = `${this.#name}-${host}`;
    await this.#guard.owes({ what: "namespace", name });
    await run(["ip", "netns", "add", name]);
    const plug = ["type", "veth", "peer", "name", "eth0", "netns", name];
    await run(["ip", "-n", this.#name, "link", "add", `to-${host}`, ...plug]);
    await run(["ip", "-n", this.#name, "link", "set", `to-${host}`, "master", "switch", "up"]);
    await run(["ip", "-n", name, "addr", "add", `${this.address(number)}/24`, "dev", "eth0"]);
    for (const link of ["lo", "eth0"]) await run(["ip", "-n", name, "link", "set", link, "up"]);
    return name;
  }

  /** Pulls a host's cable out of the switch, or puts it in again. */
  async cable(host: string, state: "up" | "down"): Promise<void> {
    await run(["ip", "-n", this.#name, "link", "set", `to-${host}`, state]);
  }
}
