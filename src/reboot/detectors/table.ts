/** The kinds of detectors: which keys each has in the configuration, and how it is made. A new kind is a file and a row here. */
import * as z from "zod/mini";
import { absolutePath, text, whole } from "../../kernel/config.ts";
import { nearest } from "../../kernel/nearest.ts";
import { type CommandDetectorSettings, commandDetector } from "./command.ts";
import type { Detector, DetectorTools } from "./detector.ts";
import { type FileDetectorSettings, fileDetector } from "./file.ts";

export type DetectorSettings = FileDetectorSettings | CommandDetectorSettings;
export type DetectorType = DetectorSettings["type"];

/** A detector as it stands in a configuration file. */
export type DetectorEntry = z.infer<ReturnType<typeof entryShape>>;

/** The shape of one entry of `reboot_required_detectors`: the keys of all kinds, checked against those of its own. */
export function detectorShape() {
  return entryShape().check((entry) => {
    for (const [key, message] of detectorProblems(entry.value))
      entry.issues.push({ code: "custom", path: [key], message, input: entry.value });
  });
}

function entryShape() {
  return z.object({
    type: text(),
    name: z.optional(text()),
    timeout_sec: z._default(whole(1, 86_400), 30),
    path: z.optional(absolutePath()),
    cmd: z.optional(z.array(z.string()).check(z.minLength(1, "must name a program"))),
    success_exit_codes: z.optional(z.array(whole(0, 255))),
  });
}

type OwnKey = Exclude<keyof DetectorEntry, "type" | "name" | "timeout_sec">;

interface Kind<T extends DetectorType> {
  readonly required: readonly OwnKey[];
  readonly optional: readonly OwnKey[];
  settings(entry: DetectorEntry): Extract<DetectorSettings, { type: T }>;
  make(settings: Extract<DetectorSettings, { type: T }>, tools: DetectorTools): Detector;
}

const KINDS: { readonly [T in DetectorType]: Kind<T> } = {
  file: {
    required: ["path"],
    optional: [],
    settings: ({ name, path = "", timeout_sec }) => ({
      type: "file",
      name: name ?? `file:${path}`,
      path,
      timeoutMs: timeout_sec * 1000,
    }),
    make: fileDetector,
  },
  command: {
    required: ["cmd"],
    optional: ["success_exit_codes"],
    settings: ({ name, cmd: [program = "", ...args] = [], success_exit_codes, timeout_sec }) => ({
      type: "command",
      name: name ?? `command:${program}`,
      cmd: [program, ...args],
      successExitCodes: success_exit_codes ?? [],
      timeoutMs: timeout_sec * 1000,
    }),
    make: commandDetector,
  },
};

/** What is wrong with an entry beyond the form of its values. */
function detectorProblems(entry: DetectorEntry): (readonly [key: string, sentence: string])[] {
  const kind = kindOf(entry);
  if (!kind) {
    const meant = nearest(entry.type, Object.keys(KINDS));
    const hint = meant ? `; did you mean ${JSON.stringify(meant)}?` : "";
    return [["type", `must be ${Object.keys(KINDS).join(" or ")}, not ${JSON.stringify(entry.type)}${hint}`]];
  }
  const missing = kind.required.filter((key) => entry[key] === undefined);
  const own: readonly string[] = ["type", "name", "timeout_sec", ...kind.required, ...kind.optional];
  const strange = Object.keys(entry).filter((key) => !own.includes(key) && entry[key as OwnKey] !== undefined);
  return [
    ...missing.map((key) => [key, `is required for ${entry.type} detectors`] as const),
    ...strange.map((key) => [key, `means nothing to a ${entry.type} detector; take it out`] as const),
    ...(entry.success_exit_codes?.some((code) => code === 126 || code === 127)
      ? [
          [
            "success_exit_codes",
            "126 and 127 are how a shell says that a program cannot be run or is missing; they never mean yes",
          ] as const,
        ]
      : []),
    ...(entry.cmd?.[0]?.trim() === "" ? [["cmd", "must begin with the name of a program"] as const] : []),
  ];
}

/** The settings of an entry that fits `detectorShape`. */
export function detectorSettings(entry: DetectorEntry): DetectorSettings {
  return (kindOf(entry) ?? KINDS.file).settings(entry);
}

/** A detector ready to be asked. */
export function makeDetector(settings: DetectorSettings, tools: DetectorTools): Detector {
  return (KINDS[settings.type] as Kind<DetectorType>).make(settings, tools);
}

function kindOf(entry: DetectorEntry): Kind<DetectorType> | undefined {
  return Object.hasOwn(KINDS, entry.type) ? (KINDS[entry.type as DetectorType] as Kind<DetectorType>) : undefined;
}
