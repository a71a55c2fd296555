/** Takes back what a test made on this machine, however the test ends: it reads what to undo from its input, and begins when that closes. */
import { existsSync, readdirSync, readFileSync, rmdirSync, rmSync, statSync } from "node:fs";
import type { Undo } from "./guard.ts";
import { attempt } from "./run.ts";

const LONGEST_MS = 10_000;

/** The start time of a process in ticks since boot; with it, a number is never mistaken for that of a later process. */
function startOf(pid: number): string | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "latin1");
    return stat.slice(stat.lastIndexOf(")") + 2).split(" ")[19];
  } catch {
    return undefined; // not there: ended
  }
}

function kill(pid: number): void {
  try {
    process.kill(pid, "SIGKILL");
  } catch {
    // It ended by itself meanwhile.
  }
}

/** Every process in a network namespace. Nobody but the test puts one there. */
function inhabitants(name: string): number[] {
  const file = `/run/netns/${name}`;
  if (!existsSync(file)) return [];
  const { ino } = statSync(file);
  return readdirSync("/proc")
    .map(Number)
    .filter((pid) => Number.isInteger(pid) && pid > 1)
    .filter((pid) => {
      try {
        return statSync(`/proc/${pid}/ns/net`).ino === ino;
      } catch {
        return false; // ended while we looked
      }
    });
}

/** True once it is taken back; tried again until then. */
async function takeBack(undo: Undo): Promise<boolean> {
  switch (undo.what) {
    case "process":
      if (startOf(undo.pid) !== undo.start) return true;
      kill(undo.pid);
      return false;
    case "namespace": {
      const found = inhabitants(undo.name);
      for (const pid of found) kill(pid);
      if (found.length > 0) return false;
      if (!existsSync(`/run/netns/${undo.name}`)) return true;
      return (await attempt(["ip", "netns", "delete", undo.name])).code === 0;
    }
    case "mount":
      if (!readFileSync("/proc/self/mounts", "utf8").includes(` ${undo.path} `)) return true;
      return (await attempt(["umount", undo.path])).code === 0;
    case "group":
      if (existsSync(undo.path)) removeGroup(undo.path);
      return !existsSync(undo.path);
    case "tree":
      // Never across a mount: what could not be unmounted must not be emptied.
      if (existsSync(undo.path)) await attempt(["rm", "-rf", "--one-file-system", undo.path], 60_000);
      return !existsSync(undo.path);
    case "file":
      rmSync(undo.path, { force: true });
      return true;
  }
}

/** A control group goes when it is empty, its inner ones first. */
function removeGroup(path: string): void {
  for (const entry of readdirSync(path, { withFileTypes: true }))
    if (entry.isDirectory()) removeGroup(`${path}/${entry.name}`);
  rmdirSync(path);
}

async function main(): Promise<number> {
  const undos: Undo[] = [];
  for await (const line of console) if (line.trim() !== "") undos.push(JSON.parse(line));
  let left = 0;
  // The last first: what was made later stands on what was made before.
  for (const undo of undos.reverse()) {
    const end = Date.now() + LONGEST_MS;
    let why = "it is still there";
    let gone = false;
    while (!gone && Date.now() < end) {
      try {
        gone = await takeBack(undo);
      } catch (error) {
        why = String(error);
      }
      if (!gone) await Bun.sleep(50);
    }
    if (gone) continue;
    left++;
    console.error(`could not take back ${JSON.stringify(undo)}: ${why}`);
  }
  return left === 0 ? 0 : 1;
}

if (import.meta.main) process.exit(await main());
