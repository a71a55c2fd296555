/** The commands of the coordinator: `rota reboot …`, or `reboot-coordinator …`. What they do is imported when they run. */
import { command } from "./command.ts";

const config = {
  type: "string",
  value: "FILE",
  default: "/etc/reboot-coordinator/config.yaml",
  completes: "file",
  summary: "configuration file",
} as const;
const json = { type: "boolean", summary: "print JSON" } as const;
const reason = { type: "string", value: "TEXT", required: true, summary: "why, for whoever asks later" } as const;
const CONFIG = { 2: "invalid configuration" } as const;
const GATES = {
  3: "blocked by health or by policy",
  4: "somebody else has the turn, or stands ahead",
  5: "stopped: kill switch or cluster stop",
} as const;

export const run = command({
  path: "reboot run",
  summary: "Run the daemon: reboot this machine when it needs it and when it is its turn",
  description:
    "Watches the detectors, gets in line when a reboot is needed, and runs the reboot command when this machine owns the turn and every gate is open. " +
    "After the reboot it proves the machine healthy and only then gives the turn to the next.\n\n" +
    "SIGTERM ends it at any moment without harm: the turn is kept in the store.",
  flags: {
    config,
    "dry-run": { type: "boolean", summary: "do everything except the reboot" },
    once: { type: "boolean", summary: "one pass, without the reboot; the exit code says what it came to" },
    json: { type: "boolean", summary: "with --once: print what it came to as JSON" },
    "log-level": {
      type: "string",
      value: "LEVEL",
      default: "info",
      choices: ["debug", "info", "warn", "error"],
      summary: "how much to log",
    },
    "log-format": {
      type: "string",
      value: "FORMAT",
      choices: ["json", "text"],
      summary: "json, or text for people (default: text on a terminal)",
    },
  },
  exits: { ...CONFIG, ...GATES },
  examples: [
    { args: "", says: "as the service does" },
    { args: "--once --config ./config.yaml", says: "see what a pass would come to" },
  ],
  async run(ctx): Promise<number> {
    return (await import("./reboot-run.ts")).runNode(ctx);
  },
});

export const validateConfig = command({
  path: "reboot validate-config",
  summary: "Check a configuration file, and everything that it names",
  flags: {
    config,
    json,
    print: { type: "boolean", summary: "print the settings as they take effect, secrets masked" },
  },
  exits: { 2: "invalid configuration; every fault is printed" },
  examples: [{ args: "--config ./config.yaml", says: "refuses exactly what `run` would refuse" }],
  async run(ctx): Promise<number> {
    return (await import("./reboot-look.ts")).validate(ctx);
  },
});

export const simulate = command({
  path: "reboot simulate",
  summary: "Run the detectors once and show what they say",
  description: "Touches neither the store nor the machine.",
  flags: { config, json },
  exits: { ...CONFIG, 6: "a detector failed" },
  async run(ctx): Promise<number> {
    return (await import("./reboot-look.ts")).simulate(ctx);
  },
});

export const status = command({
  path: "reboot status",
  summary: "Show what this machine would do now, and what stands in its way",
  description: "Runs the detectors and the health script and reads the store. Changes nothing.",
  flags: {
    config,
    json,
    "skip-health": { type: "boolean", summary: "do not run the health script" },
    "skip-lock": { type: "boolean", summary: "do not ask the store" },
  },
  exits: { ...CONFIG, ...GATES },
  async run(ctx): Promise<number> {
    return (await import("./reboot-look.ts")).status(ctx);
  },
});

export const queue = command({
  path: "reboot queue",
  summary: "Show the line: whose turn it is, and who waits",
  flags: { config, json },
  exits: CONFIG,
  async run(ctx): Promise<number> {
    return (await import("./reboot-line.ts")).queue(ctx);
  },
});

export const release = command({
  path: "reboot release",
  summary: "End the turn of a machine that will not end it itself",
  description:
    "For a machine that did not come back, or came back sick: the next one may go on. The released machine counts as down until it has proven itself healthy.\n\n" +
    "Ends the turn only as it was shown to you: if it has changed since, nothing happens.",
  flags: {
    config,
    json,
    node: { type: "string", value: "NAME", summary: "the node whose turn to end" },
    key: { type: "string", value: "KEY", summary: "or the key in the line, as `queue` shows it" },
    revision: { type: "string", value: "N", summary: "only if the key is still at this revision" },
    reason,
    force: { type: "boolean", summary: "although its daemon is alive, or the key is not Rota's" },
    yes: { type: "boolean", short: "y", summary: "do not ask" },
  },
  exits: { ...CONFIG, 3: "refused: it is not safe" },
  examples: [{ args: '--node web-3 --reason "mainboard died"', says: "let the others go on" }],
  async run(ctx): Promise<number> {
    return (await import("./reboot-line.ts")).releaseTurn(ctx);
  },
});

export const stop = command({
  path: "reboot stop",
  summary: "Stop all reboots of the fleet",
  description:
    "Nobody is fenced while the stop is set. A machine that is already going down comes back and is verified all the same.",
  flags: {
    config,
    json,
    reason,
    group: { type: "boolean", summary: "only the nodes with this lock_key" },
    for: { type: "duration", value: "TIME", summary: "ends by itself after this time, e.g. 2h" },
  },
  exits: CONFIG,
  examples: [{ args: '--reason "incident 4711" --for 2h', says: "no reboots for two hours" }],
  async run(ctx): Promise<number> {
    return (await import("./reboot-line.ts")).stopAll(ctx);
  },
});

export const resume = command({
  path: "reboot resume",
  summary: "Take the stop back",
  flags: { config, json, group: { type: "boolean", summary: "the stop of the nodes with this lock_key" } },
  exits: CONFIG,
  async run(ctx): Promise<number> {
    return (await import("./reboot-line.ts")).resume(ctx);
  },
});

export const forget = command({
  path: "reboot forget",
  summary: "Take a machine that is gone for good off the roster",
  args: { node: { summary: "its node_name" } },
  flags: { config, json, reason },
  exits: { ...CONFIG, 3: "refused: it is in its turn, or its daemon is alive" },
  async run(ctx): Promise<number> {
    return (await import("./reboot-line.ts")).forgetNode(ctx);
  },
});

export const rebootCommands = [run, validateConfig, simulate, status, queue, release, stop, resume, forget];
