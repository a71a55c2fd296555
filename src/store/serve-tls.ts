/** The certificates of `rota serve`: given by the operator, or made on the first start and kept in the state directory. */
import { existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { hostname, networkInterfaces } from "node:os";
import { join } from "node:path";
import { describeCertificate, fingerprint, issueCertificate, type KeyPair, makeAuthority } from "../kernel/certs.ts";
import type { Clock } from "../kernel/clock.ts";
import { Fault } from "../kernel/errors.ts";
import type { GatewayOptions } from "./gateway.ts";

/** Files that the operator names; a certificate and its key belong together. */
export interface GivenTls {
  readonly certFile?: string | undefined;
  readonly keyFile?: string | undefined;
  readonly clientCaFile?: string | undefined;
}

export interface ServeTls {
  readonly tls: NonNullable<GatewayOptions["tls"]>;
  /** Of the CA that we made: the file to copy to every node, and how it is recognized there. */
  readonly made?: { readonly caFile: string; readonly fingerprint: string };
}

const CA_DAYS = 7300;
const SERVER_DAYS = 1825;
/** A server certificate that ends sooner is made anew at the next start. */
const RENEW_MS = 180 * 86_400_000;

/** The given certificate, or our own for `host`. Faults: `serve.tls` for files that cannot be used. */
export function serveTls(given: GivenTls, stateDir: string, host: string, clock: Clock): ServeTls {
  const { certFile, keyFile, clientCaFile } = given;
  if ((certFile === undefined) !== (keyFile === undefined))
    throw new Fault("serve.tls", "--tls-cert and --tls-key belong together");
  const clientCa = clientCaFile === undefined ? {} : { clientCa: read(clientCaFile) };
  if (certFile !== undefined && keyFile !== undefined)
    return { tls: { cert: read(certFile), key: read(keyFile), ...clientCa } };
  const dir = join(stateDir, "tls");
  mkdirSync(dir, { recursive: true, mode: 0o700 });
  const authority = keepOrMake(dir, "ca", () =>
    makeAuthority({ commonName: `rota CA of ${hostname()}`, days: CA_DAYS }, clock),
  );
  const hosts = hostsOf(host);
  const server = keepOrMake(
    dir,
    "server",
    () => issueCertificate(authority, { commonName: "rota serve", hosts, days: SERVER_DAYS }, clock),
    ({ cert }) => {
      const { hosts: covered, notAfter } = describeCertificate(cert);
      return hosts.every((each) => covered.includes(each)) && notAfter - clock.now() > RENEW_MS;
    },
  );
  const caFile = join(dir, "ca.pem");
  return { tls: { ...server, ...clientCa }, made: { caFile, fingerprint: fingerprint(authority.cert) } };
}

/** The names that nodes may know this machine by: what it listens on, or with a wildcard all of its addresses; its host name; itself. */
function hostsOf(host: string): string[] {
  const wildcard = host === "0.0.0.0" || host === "::";
  const addresses = Object.values(networkInterfaces())
    .flatMap((each) => each ?? [])
    .filter(({ family }) => host === "::" || family === "IPv4")
    .map(({ address }) => address.split("%", 1)[0] ?? "");
  const all = [...(wildcard ? addresses : [host]), hostname(), "localhost", "127.0.0.1"];
  // As X509Certificate words them: an address in another spelling would look like one that is missing.
  return [...new Set(all.filter((each) => each !== "" && !each.startsWith("fe80")))].map(spelled);
}

function spelled(host: string): string {
  if (!host.includes(":")) return host;
  const groups = (text: string) => (text === "" ? [] : text.split(":"));
  const [head = "", tail] = host.split("::");
  const start = groups(head);
  const end = tail === undefined ? [] : groups(tail);
  const zeros = new Array<string>(Math.max(0, 8 - start.length - end.length)).fill("0");
  return [...start, ...zeros, ...end].map((group) => group.toUpperCase().replace(/^0+(?=.)/, "")).join(":");
}

function keepOrMake(
  dir: string,
  name: string,
  make: () => KeyPair,
  good: (pair: KeyPair) => boolean = () => true,
): KeyPair {
  const [certFile, keyFile] = [join(dir, `${name}.pem`), join(dir, `${name}.key`)];
  if (existsSync(certFile) && existsSync(keyFile)) {
    const pair = { cert: read(certFile), key: read(keyFile) };
    if (good(pair)) return pair;
  }
  const pair = make();
  // The key first: a certificate without its key would be taken for whole at the next start.
  write(keyFile, pair.key, 0o600);
  write(certFile, pair.cert, 0o644);
  return pair;
}

function write(path: string, text: string, mode: number): void {
  writeFileSync(`${path}.new`, text, { mode, flush: true });
  renameSync(`${path}.new`, path);
}

function read(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch (cause) {
    throw new Fault("serve.tls", `cannot read ${path}`, { cause });
  }
}
