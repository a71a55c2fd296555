/** The certificates of `rota serve`: given by the operator, or made on the first start and kept in the state directory. */
import { createPrivateKey, X509Certificate } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { hostname, networkInterfaces } from "node:os";
import { join } from "node:path";
import {
  describeCertificate,
  fingerprint,
  isIssuedBy,
  issueCertificate,
  type KeyPair,
  makeAuthority,
} from "../kernel/certs.ts";
import type { Clock } from "../kernel/clock.ts";
import { EXIT, Fault } from "../kernel/errors.ts";
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

/** The given certificate, or our own for `host`. Faults: `serve.tls` (exit code 2) for files that cannot be used. */
export function serveTls(given: GivenTls, stateDir: string, host: string, clock: Clock): ServeTls {
  const { certFile, keyFile, clientCaFile } = given;
  if ((certFile === undefined) !== (keyFile === undefined)) throw refused("--tls-cert and --tls-key belong together");
  const clientCa = clientCaFile === undefined ? {} : { clientCa: certificate(clientCaFile).text };
  if (certFile !== undefined && keyFile !== undefined) return { tls: { ...givenPair(certFile, keyFile), ...clientCa } };
  const dir = join(stateDir, "tls");
  mkdirSync(dir, { recursive: true, mode: 0o700 });
  const caFile = join(dir, "ca.pem");
  const caKeyFile = join(dir, "ca.key");
  if (!existsSync(caFile))
    keep(caFile, caKeyFile, makeAuthority({ commonName: `rota CA of ${hostname()}`, days: CA_DAYS }, clock));
  const ca = read(caFile);
  const server = serverPair(dir, ca, hostsOf(host), clock, () => {
    if (existsSync(caKeyFile)) return read(caKeyFile);
    // Every node trusts this CA: another one in its place, made without a word, would cut them all off.
    throw refused(
      `the server needs a new certificate, and ${caKeyFile} is missing; put it back, or remove ${caFile} too and give the nodes the one that is made then`,
    );
  });
  return { tls: { ...server, ...clientCa }, made: { caFile, fingerprint: fingerprint(ca) } };
}

/** The kept certificate as long as it will do, else one that the CA signs now. */
function serverPair(dir: string, ca: string, hosts: readonly string[], clock: Clock, caKey: () => string): KeyPair {
  const [certFile, keyFile] = [join(dir, "server.pem"), join(dir, "server.key")];
  if (existsSync(certFile) && existsSync(keyFile)) {
    const pair = { cert: read(certFile), key: read(keyFile) };
    const { hosts: covered, notAfter } = describeCertificate(pair.cert);
    const lasts = notAfter - clock.now() > RENEW_MS;
    // A power cut between the two files leaves a new key beside the old certificate.
    const whole =
      isIssuedBy(pair.cert, ca) && new X509Certificate(pair.cert).checkPrivateKey(createPrivateKey(pair.key));
    if (lasts && whole && hosts.every((each) => covered.includes(each))) return pair;
  }
  const request = { commonName: "rota serve", hosts, days: SERVER_DAYS };
  return keep(certFile, keyFile, issueCertificate({ cert: ca, key: caKey() }, request, clock));
}

/** The key first: a certificate without its key would be taken for whole at the next start. */
function keep(certFile: string, keyFile: string, pair: KeyPair): KeyPair {
  write(keyFile, pair.key, 0o600);
  write(certFile, pair.cert, 0o644);
  return pair;
}

function refused(message: string, cause?: unknown): Fault {
  return new Fault("serve.tls", message, { exitCode: EXIT.config, ...(cause !== undefined && { cause }) });
}

/** Looked at here, because a server that cannot use them would only say that it cannot listen. */
function givenPair(certFile: string, keyFile: string): KeyPair {
  const { text: cert, parsed } = certificate(certFile);
  const key = read(keyFile);
  let fits: boolean;
  try {
    fits = parsed.checkPrivateKey(createPrivateKey(key));
  } catch (cause) {
    throw refused(`${keyFile} does not hold a private key without a passphrase in PEM form`, cause);
  }
  if (!fits) throw refused(`${keyFile} is not the key of the certificate in ${certFile}`);
  return { cert, key };
}

function certificate(file: string): { readonly text: string; readonly parsed: X509Certificate } {
  const text = read(file);
  try {
    return { text, parsed: new X509Certificate(text) };
  } catch (cause) {
    throw refused(`${file} does not hold a certificate in PEM form`, cause);
  }
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

function write(path: string, text: string, mode: number): void {
  writeFileSync(`${path}.new`, text, { mode, flush: true });
  renameSync(`${path}.new`, path);
}

function read(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch (cause) {
    throw refused(`cannot read ${path}`, cause);
  }
}
