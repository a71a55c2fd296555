/** The commands about the line of the whole group: queue, release, stop, resume, forget. */
import { EXIT, Fault } from "../kernel/errors.ts";
import { loadSettings } from "../reboot/settings.ts";
import { compare64, type Store } from "../store/store.ts";
import { call } from "../turn/context.ts";
import { type Keyspace, keyspace } from "../turn/keys.ts";
import { forget as forgetNodeIn } from "../turn/live.ts";
import { release, type ShownTurn, showLine } from "../turn/recover.ts";
import { clearStop, findStops, setStop } from "../turn/stop.ts";
import { wireClock, wireLog, wireStore, wireUser } from "../wire.ts";
import type { Context, ContextOf } from "./command.ts";
import type * as commands from "./reboot.ts";

/** Opens the store of the configuration for the time of `work`. */
async function withStore<T>(
  config: string,
  ctx: Pick<Context, "stderr" | "env">,
  work: (store: Store, space: Keyspace) => Promise<T>,
): Promise<T> {
  const { settings } = loadSettings({ path: config, storeOnly: true });
  const clock = wireClock();
  const log = wireLog({ write: (line) => ctx.stderr.write(line), level: "warn", json: false, node: settings.nodeName });
  const { store } = await wireStore(settings, { clock, log, daemon: false, processEnv: ctx.env });
  try {
    return await work(store, keyspace(settings.lockKey));
  } finally {
    await store.close();
  }
}

/** One row of the queue, in the words of its JSON. */
function row({ contender, daemonAlive, cameBack, young }: ShownTurn, place: number, now: number) {
  const { value } = contender;
  const since = value?.fenced_at ?? value?.acquired_at ?? value?.queued_at;
  return {
    place,
    node: value?.node ?? null,
    phase: cameBack ? "recovering" : (value?.phase ?? "foreign"),
    in_turn: contender.permanent,
    daemon_alive: daemonAlive,
    daemon: cameBack ? "back" : daemonAlive ? "alive" : "silent",
    young,
    since: since ?? null,
    age_sec: since === undefined ? null : Math.max(0, Math.round((now - Date.parse(since)) / 1000)),
    reason: value?.reason ?? null,
    lock_id: value?.turn_id ?? null,
    key: contender.key,
    revision: contender.mod,
  };
}

export async function queue(ctx: ContextOf<typeof commands.queue>): Promise<number> {
  const { flags, out, signal } = ctx;
  const shown = await withStore(flags.config, ctx, (store, space) => showLine(store, space, signal));
  const now = wireClock().now();
  const rows = shown.map((turn, index) => row(turn, index + 1, now));
  if (flags.json) {
    out.json(rows);
    return EXIT.ok;
  }
  const { style } = out;
  out.table(
    rows,
    [
      { title: "#", cell: (r) => r.place, align: "right" },
      { title: "NODE", cell: (r) => r.node ?? style.dim("(foreign)") },
      { title: "PHASE", cell: (r) => (r.in_turn ? style.yellow(r.phase) : r.phase) },
      { title: "FOR", cell: (r) => (r.age_sec === null ? "" : ageInWords(r.age_sec)), align: "right" },
      { title: "DAEMON", cell: (r) => (r.node === null ? "" : r.daemon === "silent" ? style.red(r.daemon) : r.daemon) },
      { title: "REASON", cell: (r) => r.reason ?? "", max: 40 },
      { title: "REVISION", cell: (r) => r.revision, align: "right" },
      { title: "KEY", cell: (r) => r.key },
    ],
    "nobody is in line",
  );
  return EXIT.ok;
}

/** "45s", "12m", "3h5m", "2d4h". */
export function ageInWords(seconds: number): string {
  if (seconds < 60) return `${seconds}s`;
  if (seconds < 3600)
    return `${Math.floor(seconds / 60)}m${seconds % 60 > 0 && seconds < 600 ? `${seconds % 60}s` : ""}`;
  if (seconds < 86_400) return `${Math.floor(seconds / 3600)}h${Math.floor((seconds % 3600) / 60)}m`;
  return `${Math.floor(seconds / 86_400)}d${Math.floor((seconds % 86_400) / 3600)}h`;
}

export async function releaseTurn(ctx: ContextOf<typeof commands.release>): Promise<number> {
  const { flags, out, signal, stdin } = ctx;
  if ((flags.node === undefined) === (flags.key === undefined))
    throw new Fault("usage", "say whose turn to end: either --node NAME or --key KEY", { exitCode: EXIT.usage });
  if (flags.reason.trim() === "") throw new Fault("usage", "--reason must say something", { exitCode: EXIT.usage });
  return await withStore(flags.config, ctx, async (store, space) => {
    const shown = (await showLine(store, space, signal)).filter(
      ({ contender }) =>
        contender.key === flags.key || (flags.node !== undefined && contender.value?.node === flags.node),
    );
    // A node has one key, unless an earlier daemon of it left one behind; the turn is the permanent one.
    const turn = shown.find(({ contender }) => contender.permanent) ?? shown[0];
    if (turn === undefined) throw new Fault("turn.absent", `${flags.node ?? flags.key} is not in line`);
    if (flags.revision !== undefined && compare64(turn.contender.mod, flags.revision) !== 0)
      throw new Fault(
        "turn.changed",
        `the key is at revision ${turn.contender.mod}, not ${flags.revision}; look at the queue again`,
      );
    const now = wireClock().now();
    const facts = row(turn, 0, now);
    const words = `${facts.node ?? facts.key} (${facts.phase}${facts.age_sec === null ? "" : ` for ${ageInWords(facts.age_sec)}`}, revision ${facts.revision})`;
    if (stdin.isTTY && !flags.yes && !flags.json) {
      out.note(`This ends the turn of ${words}. The next machine may then go down, whatever this one is doing.`);
      if (!/^y(es)?$/i.test((await ctx.stdin.line("End it? [y/N] ")).trim())) {
        out.note("nothing was changed");
        return EXIT.failed;
      }
    }
    const by = { who: wireUser(), why: flags.reason, at: now, force: flags.force };
    try {
      await release(store, space, turn, by, signal);
    } catch (error) {
      if (error instanceof Fault && error.kind === "turn.refused")
        throw new Fault(error.kind, error.message, { cause: error.cause, exitCode: EXIT.health, retry: error.retry });
      throw error;
    }
    if (flags.json) out.json({ released: facts, who: by.who, why: by.why });
    else out.line(`ended the turn of ${words}; it counts as down until it has proven itself healthy`);
    return EXIT.ok;
  });
}

export async function stopAll(ctx: ContextOf<typeof commands.stop>): Promise<number> {
  const { flags, out, signal } = ctx;
  return await withStore(flags.config, ctx, async (store, space) => {
    const forSec = flags.for === undefined ? undefined : Math.max(1, Math.ceil(flags.for / 1000));
    const stop = {
      who: wireUser(),
      why: flags.reason,
      now: wireClock().now(),
      everywhere: !flags.group,
      ...(forSec !== undefined && { forSec }),
    };
    const set = await setStop(store, space, call("stop", signal), stop);
    if (!set) throw new Fault("stop.set", "a stop is set already; see it with `status`, take it back with `resume`");
    if (flags.json)
      out.json({ stopped: flags.group ? "group" : "everybody", who: stop.who, why: stop.why, for_sec: forSec ?? null });
    else
      out.line(
        `stopped${flags.group ? " this group" : ""}${flags.for === undefined ? " until somebody says resume" : ` for ${ageInWords(forSec ?? 0)}`}`,
      );
    return EXIT.ok;
  });
}

export async function resume(ctx: ContextOf<typeof commands.resume>): Promise<number> {
  const { flags, out, signal } = ctx;
  return await withStore(flags.config, ctx, async (store, space) => {
    const cleared = await clearStop(store, space, call("resume", signal), !flags.group);
    const left = await findStops(store, space, call("resume", signal));
    if (flags.json) out.json({ resumed: cleared, still_stopped: left });
    else out.line(cleared ? "resumed" : `there was no stop${flags.group ? " of this group" : ""}`);
    for (const stop of left) out.note(`still ${stop.why}${stop.group ? "; take it back with: resume --group" : ""}`);
    return EXIT.ok;
  });
}

export async function forgetNode(ctx: ContextOf<typeof commands.forget>): Promise<number> {
  const { flags, args, out, signal } = ctx;
  return await withStore(flags.config, ctx, async (store, space) => {
    await forgetNodeIn(store, space, args.node, signal);
    if (flags.json) out.json({ forgotten: args.node, why: flags.reason });
    else out.line(`${args.node} is forgotten (${flags.reason}); if its daemon starts again, it enrols again`);
    return EXIT.ok;
  });
}
