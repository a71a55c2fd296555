/** `rota version`. */
import { COMMIT, VERSION } from "../kernel/version.ts";
import { command } from "./command.ts";

/** What this executable is. */
export const version = command({
  path: "version",
  summary: "Print the version",
  everywhere: true,
  flags: { json: { type: "boolean", summary: "print JSON" } },
  examples: [{ args: "", says: "one line" }],
  async run({ tool, flags, out }) {
    const platform = `${process.platform}-${process.arch}`;
    if (flags.json) out.json({ version: VERSION, commit: COMMIT, platform, runtime: `bun ${Bun.version}` });
    else out.line(`${tool} ${VERSION} (${[COMMIT, platform, `bun ${Bun.version}`].filter(Boolean).join(", ")})`);
    return 0;
  },
});
