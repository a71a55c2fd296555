/** The acts of a machine that holds its turn: launch the reboot, give an unused turn back, come back, prove itself, end it. */
import { isFault } from "../kernel/errors.ts";
import type { Fenced } from "../turn/context.ts";
import { EXEC_DEADLINE_MS, withdraw } from "../turn/fence.ts";
import { endTurn, endTurnWithoutRoom, survey } from "../turn/recover.ts";
import type { FactOf, Held, State } from "./machine.ts";
import type { NodeState } from "./node.ts";
import type { Launched } from "./ports.ts";

/** How often a machine that should be going down looks whether it is, ms. */
const GOING_DOWN_MS = 1_000;

interface Command {
  readonly launched: Launched;
  /** How it ended, once it has. */
  ended?: { readonly ok: boolean; readonly why: string };
}

export class Holding {
  readonly #node: NodeState;
  #command: Command | undefined;
  /** A turn that has been ended, and turn.json does not say so yet. */
  #ended: string | undefined;

  constructor(node: NodeState) {
    this.#node = node;
  }

  async launch(fenced: Fenced, sentAt: number): Promise<FactOf["launching"]> {
    const { clock, memory, probes, host, settings } = this.#node.ports;
    const record = await memory.loadTurn();
    const shut = (await probes.quick()).find((gate) => !gate.open);
    const launchedAt = clock.boottime();
    if (record?.turnId !== fenced.place.turnId)
      return { launched: false, why: "the turn record is not there any more", until: 0 };
    if (shut !== undefined) return { launched: false, why: shut.why, until: 0 };
    // The marker is on disk before the command can be: a crash in between counts as launched, which is slow but safe.
    await memory.saveTurn({ ...record, state: "launched", launchedAt });
    const age = clock.boottime() - sentAt;
    // A clock that went back says nothing about the age.
    const late = !(age >= 0 && age <= EXEC_DEADLINE_MS);
    if (late || this.#node.signal.aborted) {
      await memory.saveTurn(record);
      const why = late ? `the fence was ${Math.round(age)} ms old, too old to reboot on` : "the daemon was stopped";
      return { launched: false, why, until: 0 };
    }
    const launched = host.launch(fenced.place.turnId, fenced.place.reason);
    this.#node.drop();
    const command: Command = { launched };
    this.#command = command;
    void launched.ended.then((ended) => {
      command.ended = ended;
    });
    return { launched: true, why: "", until: launchedAt + settings.rules.graceMs };
  }

  async withdraw({ fenced, keep, failures }: Extract<State, { at: "withdrawing" }>): Promise<FactOf["withdrawing"]> {
    const { memory } = this.#node.ports;
    const live = await this.#node.live.mark(this.#node.report);
    const left = await withdraw(this.#node.turn, fenced, live, keep && !this.#node.placeLost);
    this.#node.live.forget();
    const record = await memory.loadTurn();
    // A turn that was given back before its command says nothing about those whose command came to nothing.
    if (record !== undefined)
      await memory.saveTurn({ ...record, state: "closed", failures: Math.max(failures, record.failures) });
    if (this.#node.contention) this.#node.contention.waitMs = 0;
    return { left };
  }

  async goDown(until: number): Promise<FactOf["rebooting"]> {
    const { clock } = this.#node.ports;
    const command = this.#command;
    const left = until - clock.boottime();
    if (command?.ended && !command.ended.ok)
      return { over: true, why: `the reboot command failed: ${command.ended.why}` };
    if (left <= 0 || command === undefined)
      return { over: true, why: "the machine did not go down within reboot_grace_sec after the reboot command" };
    await clock.sleep(Math.min(left, GOING_DOWN_MS), this.#node.signal);
    return { over: false, why: command.ended ? "the reboot command has ended; going down" : "the reboot command runs" };
  }

  async settleDown(turnId: string, until: number): Promise<FactOf["aftermath"]> {
    const { clock, host, memory, probes } = this.#node.ports;
    const record = await memory.loadTurn();
    const failures = (record?.failures ?? 0) + 1;
    const no = (why: string) => ({ settled: false, why, failures });
    await host.endCommand(turnId);
    const down = await host.goingDown(this.#node.signal);
    if (down !== undefined) return no(`the system may still go down: ${down}`);
    if (clock.boottime() < until) return no("waiting until reboot_grace_sec is over");
    const verdict = await probes.health("post-reboot", { held: true, attempts: 0 }, this.#node.signal);
    this.#node.note("post-reboot", verdict);
    if (!verdict.healthy) return no(`not healthy: ${verdict.reason ?? ""}`);
    // Once more: the script took its time.
    const late = await host.goingDown(this.#node.signal);
    if (late !== undefined) return no(`the system may still go down: ${late}`);
    const held = (await survey(this.#node.turn, this.#node.signal, record?.key)).turn;
    if (held === undefined && record !== undefined) await memory.saveTurn({ ...record, state: "closed", failures });
    return { settled: true, why: "", failures };
  }

  async recover(turnId: string): Promise<FactOf["recovering"]> {
    const { probes, log } = this.#node.ports;
    const verdict = await probes.health("post-reboot", { held: true, attempts: 0 }, this.#node.signal);
    this.#node.note("post-reboot", verdict);
    log(verdict.healthy ? "info" : "warn", "post_reboot_health", verdict.reason ?? "", {
      healthy: verdict.healthy,
      lock_id: turnId,
    });
    return { healthy: verdict.healthy, why: verdict.reason ?? "" };
  }

  async finish({ held }: Extract<State, { at: "finishing" }>): Promise<FactOf["finishing"]> {
    const { memory } = this.#node.ports;
    const { turnId } = held.place;
    // Once is enough: while turn.json cannot be written this act is repeated, and each time would start the cooldown anew.
    if (this.#ended !== turnId) {
      const ended = await this.#end(held, turnId);
      this.#node.live.forget();
      if (ended !== "ended") return { ended };
      this.#ended = turnId;
    }
    const record = await memory.loadTurn();
    if (record !== undefined) await memory.saveTurn({ ...record, state: "closed", failures: 0 });
    this.#ended = undefined;
    return { ended: "ended" };
  }

  async #end(held: Held, turnId: string): Promise<FactOf["finishing"]["ended"]> {
    const { settings, log } = this.#node.ports;
    const { key } = held.place;
    try {
      const live = await this.#node.live.mark(this.#node.report);
      const ending = { turnId, live, cooldownSec: settings.cooldownSec };
      return await endTurn(this.#node.turn, { key, mod: held.mod }, ending);
    } catch (error) {
      if (!isFault(error, "store.refused.full") || held.mod === undefined) throw error;
      if (!(await endTurnWithoutRoom(this.#node.turn, { key, mod: held.mod }, turnId))) throw error;
      log("warn", "store_full", "the store has no space left: this verified turn was ended without its cooldown", {
        lock_id: turnId,
      });
      return "ended";
    }
  }
}
