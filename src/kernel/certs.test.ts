/** Certificates are judged by those who will use them: OpenSSL, Node's parser, and a TLS handshake. */
import { expect, test } from "bun:test";
import { X509Certificate } from "node:crypto";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describeCertificate, fingerprint, issueCertificate, makeAuthority } from "./certs.ts";
import { realClock } from "./clock.ts";

const clock = realClock();
const authority = makeAuthority({ commonName: "rota CA", days: 7300 }, clock);
const hosts = ["localhost", "store.example", "127.0.0.1", "10.1.2.3", "::1", "fe80::1:2", "2001:db8::ffff:10.0.0.1"];
const leaf = issueCertificate(authority, { commonName: "rota serve", hosts, days: 1825 }, clock);

test("openssl trusts the leaf through the CA, for each of its names and for nothing else", async () => {
  const dir = mkdtempSync(join(tmpdir(), "rota-certs-"));
  const verify = async (...args: string[]) => {
    const run = Bun.spawn(["openssl", "verify", "-x509_strict", "-CAfile", "ca.pem", ...args, "leaf.pem"], {
      cwd: dir,
      stderr: "pipe",
    });
    return [await run.exited, await new Response(run.stdout).text(), await new Response(run.stderr).text()].join(" ");
  };
  try {
    writeFileSync(join(dir, "ca.pem"), authority.cert);
    writeFileSync(join(dir, "leaf.pem"), leaf.cert);
    expect(await verify("-purpose", "sslserver")).toStartWith("0 leaf.pem: OK");
    expect(await verify("-purpose", "sslclient")).toStartWith("0 leaf.pem: OK");
    expect(await verify("-verify_ip", "10.1.2.3")).toStartWith("0 ");
    expect(await verify("-verify_ip", "2001:db8::ffff:a00:1")).toStartWith("0 ");
    expect(await verify("-verify_hostname", "store.example")).toStartWith("0 ");
    expect(await verify("-verify_ip", "10.1.2.4")).toStartWith("2 ");
    expect(await verify("-verify_hostname", "other.example")).toStartWith("2 ");
  } finally {
    rmSync(dir, { recursive: true });
  }
});

test("the CA is a CA, the leaf is none, and serial numbers differ", () => {
  const [ca, server] = [new X509Certificate(authority.cert), new X509Certificate(leaf.cert)];
  expect([ca.ca, server.ca]).toEqual([true, false]);
  expect(server.checkIssued(ca)).toBe(true);
  expect(server.verify(ca.publicKey)).toBe(true);
  expect(server.serialNumber).not.toBe(ca.serialNumber);
  expect(fingerprint(authority.cert)).toMatch(/^([0-9A-F]{2}:){31}[0-9A-F]{2}$/);
});

test("what a certificate is for, and until when, can be read back", () => {
  const { hosts: names, notAfter } = describeCertificate(leaf.cert);
  expect(names).toContain("store.example");
  expect(names).toContain("127.0.0.1");
  expect(Math.round((notAfter - Date.now()) / 86_400_000)).toBe(1825);
});

test("a certificate that ends after 2049 is understood too", () => {
  const far = makeAuthority({ commonName: "far", days: 36_500 }, clock);
  expect(describeCertificate(far.cert).notAfter).toBeGreaterThan(Date.parse("2100-01-01"));
});

test("Bun serves it and Bun's fetch accepts it through the CA alone, and nothing without", async () => {
  const server = Bun.serve({
    port: 0,
    hostname: "127.0.0.1",
    tls: { cert: leaf.cert, key: leaf.key },
    fetch: () => new Response("in"),
  });
  try {
    const ask = (tls: object) => fetch(`https://127.0.0.1:${server.port}/`, { tls }).then((r) => r.text());
    expect(await ask({ ca: authority.cert })).toBe("in");
    expect(ask({})).rejects.toThrow();
    const stranger = makeAuthority({ commonName: "rota CA", days: 1 }, clock);
    expect(ask({ ca: stranger.cert })).rejects.toThrow();
  } finally {
    await server.stop(true);
  }
});
