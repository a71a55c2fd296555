/** What an outcome is as an exit code (seed 000's table, and its neighbours for our own outcomes). */
import { EXIT } from "../kernel/errors.ts";
import type { Outcome } from "../reboot/machine.ts";

const CODES: Readonly<Record<Outcome, number>> = {
  no_action: EXIT.ok,
  ready: EXIT.ok,
  recheck_cleared: EXIT.ok,
  window_denied: EXIT.ok,
  window_outside_allow: EXIT.ok,
  cooldown_active: EXIT.ok,
  rebooting: EXIT.ok,
  verified: EXIT.ok,
  health_blocked: EXIT.health,
  policy_blocked: EXIT.health,
  recovering: EXIT.health,
  lock_unavailable: EXIT.contended,
  kill_switch_active: EXIT.stopped,
  stopped: EXIT.stopped,
  health_error: EXIT.failed,
  detector_error: EXIT.failed,
  name_taken: EXIT.failed,
  store_away: EXIT.failed,
  reboot_failed: EXIT.failed,
};

/** For commands that end with an outcome. */
export function exitCodeOf(outcome: Outcome): number {
  return CODES[outcome];
}

/** For a daemon that a signal ends: only what blocks it is passed on (3, 4, 5); a supervisor must not take anything else for a crash. */
export function blockingCode(outcome: Outcome): number {
  const code = CODES[outcome];
  return code >= EXIT.health && code <= EXIT.stopped ? code : EXIT.ok;
}
