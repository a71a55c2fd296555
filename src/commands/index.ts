/** The table of all commands. An entry is light; what a command does is imported when it runs. */
import type { AnyCommand } from "./command.ts";
import { rebootCommands } from "./reboot.ts";
import { serveCommands } from "./serve.ts";
import { version } from "./version.ts";

/** In the order of the help. */
export const COMMANDS: readonly AnyCommand[] = [...rebootCommands, ...serveCommands, version];

/** What groups of commands are for, by their words under `rota`. */
export const GROUPS: Readonly<Record<string, string>> = {
  reboot: "Reboot this fleet's nodes one at a time",
  serve: "Be the store of a fleet that has no etcd",
  "serve user": "Who may use the store that `rota serve` runs",
};
