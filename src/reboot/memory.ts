/** What a node remembers on its own disk, in state_dir: turn.json and store.json. Written so that a power cut leaves the old or the new, whole. */
import { closeSync, fsyncSync, mkdirSync, openSync, readFileSync, renameSync, writeSync } from "node:fs";
import { join } from "node:path";
import * as z from "zod/mini";
import { Fault } from "../kernel/errors.ts";
import type { Memory, SeenRecord, TurnRecord } from "./ports.ts";

/** The memory in this directory, which is made if it is not there (for its owner only). Faults: `memory.unreadable`, `memory.unwritable`, each with the path. */
export function fileMemory(stateDir: string): Memory {
  const turnFile = join(stateDir, "turn.json");
  const seenFile = join(stateDir, "store.json");
  const turnShape = z.object({
    schema: z.literal(1),
    state: z.enum(["open", "launched", "closed"]),
    ...Object.fromEntries(
      ["turnId", "key", "lease", "create", "reason", "queuedAt", "bootId", "storeId"].map((name) => [name, z.string()]),
    ),
    launchedAt: z.optional(z.number()),
    failures: z.number(),
  });
  const seenShape = z.object({ storeId: z.string(), revision: z.string() });
  return {
    loadTurn: async () => load(turnFile, turnShape) as TurnRecord | undefined,
    saveTurn: async (record) => save(stateDir, turnFile, record),
    loadSeen: async () => load(seenFile, seenShape) as SeenRecord | undefined,
    saveSeen: async (seen) => save(stateDir, seenFile, seen),
  };
}

function load(file: string, shape: z.ZodMiniType): unknown {
  let text: string;
  try {
    text = readFileSync(file, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw new Fault("memory.unreadable", `cannot read ${file}, which says whether this machine is in its turn`, {
      cause: error,
    });
  }
  try {
    return shape.parse(JSON.parse(text));
  } catch (error) {
    throw new Fault(
      "memory.unreadable",
      `${file} does not hold what Rota wrote there; look whether a reboot of this machine is under way, and remove the file if none is`,
      { cause: error },
    );
  }
}

/** Synchronous on purpose: nothing else of this process may happen between the decision and its record. */
function save(dir: string, file: string, value: unknown): void {
  const next = `${file}.new`;
  try {
    mkdirSync(dir, { recursive: true, mode: 0o700 });
    synced(next, "w", (fd) => writeAll(fd, Buffer.from(`${JSON.stringify(value)}\n`)));
    renameSync(next, file);
    synced(dir, "r", () => undefined);
  } catch (error) {
    throw new Fault("memory.unwritable", `cannot write ${file}; without it no reboot can be asked for`, {
      cause: error,
      retry: "later",
    });
  }
}

/** A disk that fills up may take a part and say so only by the number of bytes. */
function writeAll(fd: number, bytes: Buffer): void {
  for (let at = 0; at < bytes.length; ) at += writeSync(fd, bytes, at);
}

function synced(path: string, flags: "w" | "r", work: (fd: number) => void): void {
  const fd = openSync(path, flags, 0o600);
  try {
    work(fd);
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}
