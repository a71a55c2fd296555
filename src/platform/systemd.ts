/** systemd, as far as Rota asks it: is the system going down, and is this still the same userspace? */
import { existsSync, readFileSync } from "node:fs";
import { Fault } from "../kernel/errors.ts";
import type { Run } from "../kernel/exec.ts";

const ASK_MS = 5_000;
/** `shutdown -r +5` and its kin leave their time here (systemd-logind). */
const SCHEDULE = "/run/systemd/shutdown/scheduled";
/** Targets whose start job means that the machine is about to go down. */
const DOWN_TARGETS = ["reboot", "poweroff", "halt", "kexec", "shutdown", "soft-reboot"];

/** systemd runs this machine (sd_booted(3)). */
export function underSystemd(): boolean {
  return existsSync("/run/systemd/system");
}

async function ask(run: Run, label: string, args: readonly string[], signal?: AbortSignal) {
  const env = { PATH: "/usr/sbin:/usr/bin:/sbin:/bin", LC_ALL: "C", SYSTEMD_PAGER: "" };
  return await run(label, ["systemctl", "--no-ask-password", ...args], {
    timeoutMs: ASK_MS,
    env,
    ...(signal && { signal }),
  });
}

/**
 * Why the machine may still go down by itself: a schedule, a shutdown job, a system that is stopping. Undefined when nothing speaks for
 * it, or when there is no systemd. A systemd that does not answer counts as going down: it may be on its way.
 */
export async function goingDown(run: Run, signal?: AbortSignal): Promise<string | undefined> {
  if (!underSystemd()) return undefined;
  if (existsSync(SCHEDULE))
    return `a shutdown is scheduled (${readFileSync(SCHEDULE, "utf8").trim().split("\n").join(", ")})`;
  const state = await ask(run, "systemd.state", ["is-system-running"], signal);
  const word = state.stdout.trim();
  if (word === "stopping") return "systemd is stopping the system";
  if (word === "") return `systemd does not answer (${state.reason ?? "no state"})`;
  const jobs = await ask(run, "systemd.jobs", ["list-jobs", "--no-legend", "--plain"], signal);
  if (jobs.reason !== undefined) return `systemd does not answer (list-jobs: ${jobs.reason})`;
  const job = jobs.stdout
    .split("\n")
    .find((line) => DOWN_TARGETS.some((target) => line.includes(` ${target}.target `)));
  return job && `systemd has a job: ${job.trim().split(/\s+/).slice(1).join(" ")}`;
}

/**
 * How often `systemctl soft-reboot` has replaced the userspace in this boot: it keeps the boot id, but is a reboot all the same. "" where
 * systemd is too old to know the word (below 254) or absent. Fault `host.unknown-boot` when it cannot be found out.
 */
export async function softReboots(run: Run): Promise<string> {
  if (!underSystemd()) return "";
  const answer = await ask(run, "systemd.soft-reboots", ["show", "--property=SoftRebootsCount", "--value"]);
  if (answer.reason !== undefined)
    throw new Fault("host.unknown-boot", "systemd does not say how often the userspace was replaced in this boot", {
      cause: answer.stderr.trim() || answer.reason,
      retry: "later",
    });
  const count = answer.stdout.trim();
  return count === "0" ? "" : count;
}
