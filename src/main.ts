/** The program: its name and its words become a command, and the command an exit code. */
import { COMMANDS, GROUPS } from "./commands/index.ts";
import { invoke } from "./commands/invoke.ts";
import { processSignals, processTerminal } from "./commands/terminal.ts";

const code = await invoke({
  // The built executable sees the name it was called by here, also through a symbolic link; run from source it is "bun".
  argv0: process.argv0,
  argv: process.argv.slice(2),
  terminal: processTerminal(),
  signals: processSignals(),
  commands: COMMANDS,
  groups: GROUPS,
});
process.exit(code);
