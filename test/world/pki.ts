/** Certificates for tests, made by openssl: a CA, a server (also usable as client, as etcd's own gateway needs it), and a client. */
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";

export interface Leaf {
  readonly certFile: string;
  readonly keyFile: string;
  readonly cert: string;
  readonly key: string;
}

export interface Pki {
  readonly caFile: string;
  readonly ca: string;
  readonly server: Leaf;
  readonly client: Leaf;
}

async function openssl(cwd: string, ...args: string[]): Promise<void> {
  const run = Bun.spawn(["openssl", ...args], { cwd, stdout: "ignore", stderr: "pipe" });
  if ((await run.exited) !== 0) throw new Error(`openssl ${args[0]}: ${await new Response(run.stderr).text()}`);
}

/** Makes all of it in `dir`; the server is `localhost`, 127.0.0.1 and these addresses. */
export async function makePki(dir: string, addresses: readonly string[] = []): Promise<Pki> {
  mkdirSync(dir, { recursive: true });
  const ec = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"];
  await openssl(dir, "req", "-x509", ...ec, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=test CA");
  const names = ["DNS:localhost", ...["127.0.0.1", ...addresses].map((address) => `IP:${address}`)].join(",");
  const leaf = async (name: string): Promise<Leaf> => {
    writeFileSync(join(dir, `${name}.ext`), `subjectAltName=${names}\nextendedKeyUsage=serverAuth,clientAuth\n`);
    await openssl(
      dir,
      "req",
      ...ec.slice(0, -2),
      "-keyout",
      `${name}.key`,
      "-out",
      `${name}.csr`,
      "-subj",
      `/CN=${name}`,
    );
    await openssl(
      dir,
      ...["x509", "-req", "-in", `${name}.csr`, "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"],
      ...["-days", "2", "-out", `${name}.pem`, "-extfile", `${name}.ext`],
    );
    const certFile = join(dir, `${name}.pem`);
    const keyFile = join(dir, `${name}.key`);
    return { certFile, keyFile, cert: readFileSync(certFile, "utf8"), key: readFileSync(keyFile, "utf8") };
  };
  const caFile = join(dir, "ca.pem");
  return { caFile, ca: readFileSync(caFile, "utf8"), server: await leaf("server"), client: await leaf("client") };
}
