/** A Debian that hosts are started from: made once by debootstrap, kept for the next run, shared by all hosts and written by none. */
import { existsSync, mkdirSync, readFileSync } from "node:fs";
import { attempt, CLEAN_ENV, run } from "./run.ts";

const CACHE = "/var/cache/rota-test-hosts";
const DEBOOTSTRAP_MS = 600_000;

/** What a host needs to boot, and to be asked how it is. */
const BASE = ["systemd", "systemd-sysv", "dbus", "iproute2", "procps"];

/** The root with these packages besides the base. Made when it is not there; another test that makes the same one is waited for. */
export async function debianRoot(more: readonly string[] = []): Promise<string> {
  const { release, mirror } = await archive();
  const packages = [...new Set([...BASE, ...more])].sort().join(",");
  const key = new Bun.CryptoHasher("sha256").update(`1 ${release} ${process.arch} ${packages}`).digest("hex");
  const root = `${CACHE}/${release}-${key.slice(0, 12)}`;
  mkdirSync(CACHE, { recursive: true });
  if (existsSync(root)) return root;
  console.log(`making a Debian (${release}) for the hosts in ${root}; this takes about a minute and is kept`);
  // Under the lock, which ends with the last process that holds it; under another name, so that what is there is whole; with
  // mounts of its own, so that an interrupted one leaves none behind for the next one to delete through.
  const script = `
    set -eu
    [ ! -e "$1" ] || exit 0
    rm -rf --one-file-system "$1.new"
    debootstrap --variant=minbase --include="$2" "$3" "$1.new" "$4"
    rm -rf "$1.new"/var/cache/apt/archives/*.deb "$1.new"/var/lib/apt/lists/*
    : > "$1.new/etc/machine-id"
    mv "$1.new" "$1"`;
  const argv = ["flock", `${root}.lock`, "unshare", "--mount", "sh", "-c", script, "sh"];
  const ended = await attempt([...argv, root, packages, release, mirror], DEBOOTSTRAP_MS, {
    ...CLEAN_ENV,
    ...proxies(),
  });
  if (ended.code !== 0)
    throw new Error(`debootstrap could not make a Debian: ${(ended.stdout + ended.stderr).trim().slice(-2000)}`);
  return root;
}

/** The way out of this machine, where it has to be said. */
function proxies(): Record<string, string> {
  const names = ["http_proxy", "https_proxy", "no_proxy"];
  return Object.fromEntries(names.flatMap((name) => (Bun.env[name] ? [[name, Bun.env[name]]] : [])));
}

/** This machine's own release and the archive that its apt takes it from. */
async function archive(): Promise<{ readonly release: string; readonly mirror: string }> {
  const release = /^VERSION_CODENAME="?([\w-]+)/m.exec(readFileSync("/etc/os-release", "utf8"))?.[1];
  if (release === undefined || Bun.which("apt-get", CLEAN_ENV) === null)
    throw new Error("real hosts are made by debootstrap from this machine's own apt sources, and this is not a Debian");
  const format = "$(RELEASE) $(COMPONENT) $(REPO_URI)";
  const targets = await run(["apt-get", "indextargets", "--format", format, "Created-By: Packages"]);
  const found = targets.split("\n").find((line) => line.startsWith(`${release} main `));
  const mirror = found?.split(" ")[2];
  if (mirror === undefined) throw new Error(`the apt sources of this machine name no archive for ${release} main`);
  return { release, mirror };
}
