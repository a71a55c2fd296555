/** Which machine this is, and which boot of it: the two facts that a turn is held by. */
import { readFileSync } from "node:fs";
import { EXIT, Fault } from "./errors.ts";

/** Part of what every store holds: another value here would make every machine of a fleet a stranger to its own turn. */
const APPLICATION = "rota reboot coordinator 6f1d3a0b9c2e4f58a7d0c4b18e35f962";

type Read = (path: string) => string;
const readText: Read = (path) => readFileSync(path, "utf8");

/**
 * 32 hexadecimal characters that are the same in every boot of this machine and differ between machines. The id itself is a secret of
 * the machine (machine-id(5)), so it is hashed with a constant of our own, as sd_id128_get_machine_app_specific does.
 * Fault `machine.no-id` (exit code 2) when the file is missing, empty or not yet initialized: without identity no turn can be held.
 */
export function machineIdentity(file = "/etc/machine-id", read: Read = readText): string {
  const id = oneLine("machine.no-id", "the machine id", file, read).toLowerCase();
  if (id === "uninitialized")
    throw new Fault("machine.no-id", `${file} says "uninitialized": this image has not finished its first boot`, {
      exitCode: EXIT.config,
    });
  return new Bun.CryptoHasher("sha256", id).update(APPLICATION).digest("hex").slice(0, 32);
}

/** The id of the running boot, as the kernel words it. Fault `machine.no-boot-id` (exit code 2) when it cannot be had. */
export function bootId(file = "/proc/sys/kernel/random/boot_id", read: Read = readText): string {
  return oneLine("machine.no-boot-id", "the boot id", file, read);
}

function oneLine(kind: string, what: string, file: string, read: Read): string {
  let text: string;
  try {
    text = read(file).trim();
  } catch (cause) {
    throw new Fault(kind, `cannot read ${what} from ${file}`, { cause, exitCode: EXIT.config });
  }
  if (text === "") throw new Fault(kind, `${file} is empty; it must hold ${what}`, { exitCode: EXIT.config });
  if (/[\n\r\0]/.test(text))
    throw new Fault(kind, `${file} holds more than one line; it must hold ${what} alone`, { exitCode: EXIT.config });
  return text;
}
