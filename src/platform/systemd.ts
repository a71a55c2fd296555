/** systemd, as far as Rota asks it: is the system going down, and is this still the same userspace? */
import { existsSync, readFileSync } from "node:fs";
import { Fault } from "../kernel/errors.ts";
import type { Run } from "../kernel/exec.ts";

const ASK_MS = 5_000;
const RUN = "/run/systemd";
/** Targets whose start job means that the machine is about to go down. */
const DOWN_TARGETS = ["reboot", "poweroff", "halt", "kexec", "shutdown", "soft-reboot"];

/** systemd runs this machine (sd_booted(3)). `root` is where it keeps what it tells. */
export function underSystemd(root = RUN): boolean {
  return existsSync(`${root}/system`);
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
export async function goingDown(run: Run, signal?: AbortSignal, root = RUN): Promise<string | undefined> {
  if (!underSystemd(root)) return undefined;
  // `shutdown -r +5` and its kin leave their time here (systemd-logind).
  const schedule = `${root}/shutdown/scheduled`;
  if (existsSync(schedule)) return `a shutdown is scheduled (${wordsOf(schedule)})`;
  const state = await ask(run, "systemd.state", ["is-system-running"], signal);
  const word = state.stdout.trim();
  if (word === "stopping") return "systemd is stopping the system";
  if (word === "") return `systemd does not answer (${state.reason ?? "no state"})`;
  const jobs = await ask(run, "systemd.jobs", ["list-jobs", "--no-legend", "--plain"], signal);
  if (jobs.reason !== undefined) return `systemd does not answer (list-jobs: ${jobs.reason})`;
  if (jobs.truncated) return "systemd has more jobs than can be looked through";
  const job = jobs.stdout
    .split("\n")
    .find((line) => DOWN_TARGETS.some((target) => line.includes(` ${target}.target `)));
  return job && `systemd has a job: ${job.trim().split(/\s+/).slice(1).join(" ")}`;
}

/** What stands in the schedule; it may be taken back, or carried out, while it is read. */
function wordsOf(schedule: string): string {
  try {
    return readFileSync(schedule, "utf8").trim().split("\n").join(", ");
  } catch {
    return "it cannot be read"; // it was there a moment ago, and that is what counts; the next look sees what has become of it
  }
}

/**
 * How often `systemctl soft-reboot` has replaced the userspace in this boot: it keeps the boot id, but is a reboot all the same. "" where
 * systemd is too old to know the word (below 254) or absent. Fault `host.unknown-boot` when it cannot be found out.
 */
export async function softReboots(run: Run, root = RUN): Promise<string> {
  if (!underSystemd(root)) return "";
  const answer = await ask(run, "systemd.soft-reboots", ["show", "--property=SoftRebootsCount", "--value"]);
  if (answer.reason !== undefined)
    throw new Fault("host.unknown-boot", "systemd does not say how often the userspace was replaced in this boot", {
      cause: answer.stderr.trim() || answer.reason,
      retry: "later",
    });
  const count = answer.stdout.trim();
  return count === "0" ? "" : count;
}
