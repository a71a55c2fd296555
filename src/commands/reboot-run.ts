/** `reboot run`: the daemon, and its single pass. */

import { inWords } from "../kernel/config.ts";
import type { Level } from "../kernel/log.ts";
import { runDaemon } from "../reboot/daemon.ts";
import { loadSettings } from "../reboot/settings.ts";
import { wireLog, wireNode, wireStateLock } from "../wire.ts";
import type { ContextOf } from "./command.ts";
import { usage } from "./flags.ts";
import type { run } from "./reboot.ts";
import { blockingCode, exitCodeOf } from "./reboot-exits.ts";

export async function runNode(ctx: ContextOf<typeof run>): Promise<number> {
  const { flags, signal, stderr, env, out } = ctx;
  if (flags.json && !flags.once)
    throw usage("--json goes with --once; the daemon's log is JSON by itself, or with --log-format json");
  const { settings, warnings } = loadSettings({ path: flags.config });
  const json = flags["log-format"] === undefined ? !stderr.isTTY : flags["log-format"] === "json";
  const log = wireLog({
    write: (line) => stderr.write(line),
    level: flags["log-level"] as Level,
    json,
    node: settings.nodeName,
  });
  for (const warning of warnings) log("warn", "config_warning", inWords(warning));
  const mode = flags.once ? "once" : flags["dry-run"] || settings.dryRun ? "dry" : "run";
  const lock = wireStateLock(settings);
  const node = await wireNode(settings, { mode, log, processEnv: env, daemon: true });
  try {
    log("info", "started", mode === "dry" ? "dry run: the reboot command will not be run" : "", {
      mode,
      boot_id: node.self.bootId,
      lock_key: settings.lockKey,
      slots: settings.slots,
    });
    if (node.alone)
      log(
        "info",
        "alone",
        `no etcd_endpoints: this machine coordinates itself alone, with the store in ${settings.store.state_dir}`,
      );
    let why = "";
    const outcome = await runDaemon(node, signal, {
      entered: () => undefined,
      noticed: (notice) => {
        why = notice.why;
      },
    });
    log("info", "ended", "", { last_outcome: outcome });
    if (!flags.once) return blockingCode(outcome);
    if (flags.json) {
      out.json({ node: settings.nodeName, outcome, why });
      return exitCodeOf(outcome);
    }
    out.line(`outcome: ${outcome}${why === "" ? "" : ` - ${why}`}`);
    if (outcome === "ready") out.line("ready outcome reached; run without --once to execute the reboot command");
    return exitCodeOf(outcome);
  } finally {
    await node.store.close();
    lock.release();
  }
}
