/** X.509 v3 certificates for a store of our own: a CA and what it signs, ECDSA on P-256. Node's crypto signs; this file writes the DER. */
import { createHash, createPrivateKey, createPublicKey, generateKeyPairSync, sign, X509Certificate } from "node:crypto";
import { isIP } from "node:net";
import type { Clock } from "./clock.ts";

/** A certificate and its private key as PEM. */
export interface KeyPair {
  readonly cert: string;
  readonly key: string;
}

export interface CertificateRequest {
  readonly commonName: string;
  /** DNS names and IP addresses that it is for; empty for a client. */
  readonly hosts: readonly string[];
  readonly days: number;
}

const DAY_MS = 86_400_000;
/** Clocks of a fleet differ; a certificate is valid a little before it was made. */
const BEFORE_MS = 3_600_000;

/** A self-signed CA that can sign leaves and nothing below them. */
export function makeAuthority(request: Pick<CertificateRequest, "commonName" | "days">, clock: Clock): KeyPair {
  const { publicKey, privateKey } = generateKeyPairSync("ec", { namedCurve: "prime256v1" });
  const spki = publicKey.export({ type: "spki", format: "der" });
  const key = privateKey.export({ type: "pkcs8", format: "pem" }).toString();
  const id = keyId(spki);
  // cA, pathLenConstraint 0; keyCertSign and cRLSign.
  const extensions = [
    extension("2.5.29.19", sequence(der(0x01, [0xff]), integer(Buffer.from([0]))), true),
    extension("2.5.29.15", der(0x03, [0x01, 0x06]), true),
    extension("2.5.29.14", der(0x04, id)),
    extension("2.5.29.35", sequence(der(0x80, id))),
  ];
  const name = distinguishedName(request.commonName);
  return { cert: certificate({ issuer: name, subject: name, spki, extensions, days: request.days }, key, clock), key };
}

/** A leaf signed by `authority`, good for servers and clients (etcd's own gateway is a client of its server). */
export function issueCertificate(authority: KeyPair, request: CertificateRequest, clock: Clock): KeyPair {
  const { publicKey, privateKey } = generateKeyPairSync("ec", { namedCurve: "prime256v1" });
  const spki = publicKey.export({ type: "spki", format: "der" });
  const issuerSpki = createPublicKey(authority.cert).export({ type: "spki", format: "der" });
  // digitalSignature; serverAuth and clientAuth.
  const extensions = [
    extension("2.5.29.19", sequence(), true),
    extension("2.5.29.15", der(0x03, [0x07, 0x80]), true),
    extension("2.5.29.37", sequence(oid("1.3.6.1.5.5.7.3.1"), oid("1.3.6.1.5.5.7.3.2"))),
    extension("2.5.29.14", der(0x04, keyId(spki))),
    extension("2.5.29.35", sequence(der(0x80, keyId(issuerSpki)))),
    ...(request.hosts.length === 0 ? [] : [extension("2.5.29.17", sequence(...request.hosts.map(generalName)))]),
  ];
  const issuer = distinguishedName(commonNameOf(authority.cert));
  const subject = distinguishedName(request.commonName);
  const cert = certificate({ issuer, subject, spki, extensions, days: request.days }, authority.key, clock);
  return { cert, key: privateKey.export({ type: "pkcs8", format: "pem" }).toString() };
}

/** SHA-256 of the certificate as operators compare it: upper-case pairs with colons, as `openssl x509 -fingerprint -sha256` prints it. */
export function fingerprint(cert: string): string {
  return new X509Certificate(cert).fingerprint256;
}

/** When a certificate ends, ms since 1970, and the hosts that it is for. */
export function describeCertificate(cert: string): { readonly notAfter: number; readonly hosts: readonly string[] } {
  const parsed = new X509Certificate(cert);
  const names = parsed.subjectAltName?.split(", ") ?? [];
  return { notAfter: Date.parse(parsed.validTo), hosts: names.map((name) => name.replace(/^(DNS|IP Address):/, "")) };
}

/** True when the key of `authority` has signed `cert`. */
export function isIssuedBy(cert: string, authority: string): boolean {
  return new X509Certificate(cert).verify(new X509Certificate(authority).publicKey);
}

interface Body {
  readonly issuer: Buffer;
  readonly subject: Buffer;
  readonly spki: Buffer;
  readonly extensions: readonly Buffer[];
  readonly days: number;
}

/** RFC 5280, section 4.1. */
function certificate(body: Body, signingKey: string, clock: Clock): string {
  const from = clock.now() - BEFORE_MS;
  const algorithm = sequence(oid("1.2.840.10045.4.3.2")); // ecdsa-with-SHA256
  // 16 random bytes; the first bit is cleared and the next one set, so that the number is positive and has no leading zero.
  const serial = Buffer.from(clock.uuid().replaceAll("-", ""), "hex");
  serial[0] = ((serial[0] ?? 0) & 0x7f) | 0x40;
  const tbs = sequence(
    der(0xa0, integer(Buffer.from([2]))),
    integer(serial),
    algorithm,
    body.issuer,
    sequence(time(from), time(from + body.days * DAY_MS)),
    body.subject,
    body.spki,
    der(0xa3, sequence(...body.extensions)),
  );
  const signature = sign("sha256", tbs, createPrivateKey(signingKey));
  const whole = sequence(tbs, algorithm, der(0x03, Buffer.concat([Buffer.from([0]), signature])));
  const lines = whole.toString("base64").replace(/.{64}(?=.)/g, "$&\n");
  return `-----BEGIN CERTIFICATE-----\n${lines}\n-----END CERTIFICATE-----\n`;
}

function commonNameOf(cert: string): string {
  return /(?:^|\n)CN=(.*)/.exec(new X509Certificate(cert).subject)?.[1] ?? "";
}

function keyId(spki: Buffer): Buffer {
  return createHash("sha1").update(spki).digest();
}

// ---- DER (X.690) ----

function der(tag: number, content: Uint8Array | readonly number[]): Buffer {
  const body = Buffer.from(content as Uint8Array);
  if (body.length < 0x80) return Buffer.concat([Buffer.from([tag, body.length]), body]);
  const length = Buffer.from(body.length.toString(16).padStart(body.length > 0xff ? 4 : 2, "0"), "hex");
  return Buffer.concat([Buffer.from([tag, 0x80 | length.length]), length, body]);
}

function sequence(...parts: readonly Uint8Array[]): Buffer {
  return der(0x30, Buffer.concat(parts));
}

/** A positive INTEGER from its big-endian bytes, whose first bit must not be set. */
function integer(bytes: Buffer): Buffer {
  return der(0x02, bytes);
}

function oid(dotted: string): Buffer {
  const [first = 0, second = 0, ...rest] = dotted.split(".").map(Number);
  const bytes = rest.flatMap((part) => {
    const septets = [part & 0x7f];
    for (let left = part >>> 7; left > 0; left >>>= 7) septets.unshift((left & 0x7f) | 0x80);
    return septets;
  });
  return der(0x06, [first * 40 + second, ...bytes]);
}

/** UTCTime until 2049, GeneralizedTime from then on, as RFC 5280 wants it. */
function time(ms: number): Buffer {
  const text = new Date(ms).toISOString().replace(/[-:T]|\.\d+/g, "");
  return Number(text.slice(0, 4)) < 2050 ? der(0x17, Buffer.from(text.slice(2))) : der(0x18, Buffer.from(text));
}

function distinguishedName(commonName: string): Buffer {
  return sequence(der(0x31, sequence(oid("2.5.4.3"), der(0x0c, Buffer.from(commonName, "utf8")))));
}

function extension(id: string, value: Buffer, critical = false): Buffer {
  return sequence(oid(id), ...(critical ? [der(0x01, [0xff])] : []), der(0x04, value));
}

/** A subjectAltName: iPAddress for an address, dNSName for anything else. */
function generalName(host: string): Buffer {
  if (isIP(host) === 0) return der(0x82, Buffer.from(host, "ascii"));
  return der(0x87, isIP(host) === 4 ? host.split(".").map(Number) : ipv6Bytes(host));
}

function ipv6Bytes(address: string): number[] {
  const [head = "", tail] = (address.split("%", 1)[0] ?? "").split("::");
  const groups = (text: string) =>
    text === ""
      ? []
      : text
          .split(":")
          .flatMap((group) =>
            group.includes(".")
              ? group.split(".").map(Number)
              : [Number.parseInt(group, 16) >> 8, Number.parseInt(group, 16) & 0xff],
          );
  const start = groups(head);
  const end = tail === undefined ? [] : groups(tail);
  return [...start, ...new Array<number>(16 - start.length - end.length).fill(0), ...end];
}
