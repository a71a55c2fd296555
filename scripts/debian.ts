/** Programs that are not JavaScript: what each suite needs, and getting it from Debian where it is missing. */
import { capture, Refusal, run } from "./steps.ts";

interface Need {
  /** It is there when this is on PATH. */
  readonly program: string;
  /** What Debian calls it. */
  readonly package: string;
}

const ETCD: readonly Need[] = [
  { program: "etcd", package: "etcd-server" },
  { program: "etcdctl", package: "etcd-client" },
];

/** By suite. */
export const NEEDS = {
  test: [...ETCD, { program: "openssl", package: "openssl" }, { program: "ps", package: "procps" }],
  hosts: [
    ...ETCD,
    { program: "openssl", package: "openssl" },
    { program: "debootstrap", package: "debootstrap" },
    { program: "systemd-nspawn", package: "systemd-container" },
    { program: "ip", package: "iproute2" },
    { program: "nft", package: "nftables" },
    { program: "nsenter", package: "util-linux" },
  ],
  bench: ETCD,
} satisfies Record<string, readonly Need[]>;

/** Where daemons live is not on every user's PATH. */
const PATH = `${process.env.PATH ?? ""}:/usr/local/sbin:/usr/sbin:/sbin`;

/** Installs what is missing, saying so before it does; throws a Refusal when something cannot be had. */
export async function ensure(needs: readonly Need[]): Promise<void> {
  const missing = needs.filter(({ program }) => Bun.which(program, { PATH }) === null);
  if (missing.length === 0) return;
  const packages = [...new Set(missing.map((need) => need.package))];
  const programs = missing.map(({ program }) => program).join(", ");
  if (Bun.which("apt-get") === null)
    throw new Refusal(`Missing programs: ${programs}. Install them (on Debian: ${packages.join(" ")}) and try again.`);
  const asRoot = process.getuid?.() === 0 ? [] : ["sudo"];
  if (asRoot.length > 0 && Bun.which("sudo") === null)
    throw new Refusal(`Missing programs: ${programs}. As root: apt-get install ${packages.join(" ")}`);
  console.log(`Installing the Debian packages ${packages.join(" ")}${asRoot.length > 0 ? " with sudo" : ""}`);
  const hadEtcd = !packages.includes("etcd-server");
  const apt = async (...args: string[]) =>
    run([...asRoot, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq", "-y", ...args]);
  if ((await apt("update")) !== 0) console.error("apt-get update failed; trying with the package lists as they are");
  if ((await apt("install", "--no-install-recommends", ...packages)) !== 0)
    throw new Refusal(`Could not install ${packages.join(" ")}: without ${programs} the suite cannot run.`);
  if (!hadEtcd) await quietEtcd(asRoot);
}

/**
 * Debian starts an etcd on port 2379 as soon as the package is there. Ours use ports of their own, so it would only be one
 * server more that nobody asked for: it is switched off, but only when this very installation brought it.
 */
async function quietEtcd(asRoot: readonly string[]): Promise<void> {
  if (Bun.which("systemctl") === null) return;
  const { code } = await capture(["systemctl", "is-active", "--quiet", "etcd.service"]);
  if (code !== 0) return;
  console.log("Switching off the etcd service that came with the package; the tests start their own");
  await run([...asRoot, "systemctl", "disable", "--now", "--quiet", "etcd.service"]);
}
