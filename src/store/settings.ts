/** The store's part of a configuration: which store, how to reach it, who we are there. */
import { createPrivateKey, X509Certificate } from "node:crypto";
import * as z from "zod/mini";
import { absolutePath, type Rule, secret, text, type ValuesOf } from "../kernel/config.ts";
import { EXIT, Fault, sentence } from "../kernel/errors.ts";
import type { Path } from "../kernel/yaml.ts";
import type { EtcdOptions, EtcdTls } from "./etcd-client.ts";

type Read = (path: string) => string;
type Complain = (path: Path, message: string) => void;

/** The keys that say which store a node uses. No etcd_endpoints: the store embedded in this machine, in state_dir. */
export const storeShape = {
  etcd_endpoints: z._default(z.array(text()), []),
  etcd_namespace: z._default(z.string(), ""),
  etcd_tls: z.optional(
    z.object({
      enabled: z.optional(z.boolean()),
      ca_file: z.optional(absolutePath()),
      cert_file: z.optional(absolutePath()),
      key_file: z.optional(absolutePath()),
      insecure_skip_verify: z._default(z.boolean(), false),
    }),
  ),
  etcd_auth: z.optional(
    z.object({
      username: text(),
      password: z.optional(secret()),
      password_file: z.optional(absolutePath()),
      password_env: z.optional(text()),
    }),
  ),
  state_dir: z._default(absolutePath(), "/var/lib/rota"),
};

/** The store's keys as they were read. */
export type StoreValues = ValuesOf<typeof storeShape>;

/** The rules between these keys, and over the files that they name. `read` throws as node:fs does. */
export function storeRules(read: Read): Rule<StoreValues>[] {
  return [
    { needs: ["etcd_endpoints"], check: endpointsRule },
    { needs: ["etcd_tls"], check: ({ etcd_tls: tls }, complain) => tlsRule(tls ?? {}, read, complain) },
    { needs: ["etcd_auth"], check: ({ etcd_auth: auth }, complain) => auth && authRule(auth, read, complain) },
    { needs: ["etcd_endpoints", "etcd_tls", "etcd_auth"], check: togetherRule },
  ];
}

function endpointsRule({ etcd_endpoints: endpoints }: Pick<StoreValues, "etcd_endpoints">, complain: Complain): void {
  for (const [index, endpoint] of endpoints.entries()) {
    const path = ["etcd_endpoints", index];
    const url = URL.parse(/^[a-z]+:\/\//.test(endpoint) ? endpoint : `http://${endpoint}`);
    if (!url || !/^https?:$/.test(url.protocol) || url.hostname === "" || /\s/.test(endpoint))
      complain(path, "must be http://host:port, https://host:port or host:port");
    else if (url.username !== "" || url.password !== "")
      complain(path, "must not hold a name or password; use etcd_auth");
    else if (url.pathname !== "/" || url.search !== "" || url.hash !== "") complain(path, "must end after the port");
    else if (endpoints.indexOf(endpoint) < index) complain(path, "is written twice");
  }
}

type TlsValues = Partial<NonNullable<StoreValues["etcd_tls"]>>;

function tlsRule(tls: TlsValues, read: Read, complain: Complain): void {
  const { ca_file: ca, cert_file: cert, key_file: key } = tls;
  if (tls.enabled === undefined && (ca ?? cert ?? key) !== undefined)
    complain(["etcd_tls"], 'names files but not "enabled"; say enabled: true (or false, and they are not used)');
  if (!tls.enabled) return;
  if (cert !== undefined && key === undefined) complain(["etcd_tls", "key_file"], "is required with cert_file");
  if (key !== undefined && cert === undefined) complain(["etcd_tls", "cert_file"], "is required with key_file");
  const parse = <T>(name: string, file: string | undefined, what: string, make: (pem: string) => T): T | undefined => {
    if (file === undefined) return undefined;
    let pem: string;
    try {
      pem = read(file);
    } catch (error) {
      complain(["etcd_tls", name], `cannot read ${file}: ${sentence(error)}`);
      return undefined;
    }
    try {
      return make(pem);
    } catch {
      complain(["etcd_tls", name], `${file} does not hold ${what} in PEM form`);
      return undefined;
    }
  };
  parse("ca_file", ca, "a certificate", (pem) => new X509Certificate(pem));
  const certificate = parse("cert_file", cert, "a certificate", (pem) => new X509Certificate(pem));
  const privateKey = parse("key_file", key, "a private key without a passphrase", (pem) => createPrivateKey(pem));
  if (certificate && privateKey && !certificate.checkPrivateKey(privateKey))
    complain(["etcd_tls", "key_file"], `${key} is not the key of the certificate in ${cert}`);
}

function authRule(auth: NonNullable<StoreValues["etcd_auth"]>, read: Read, complain: Complain): void {
  const { password, password_file: file, password_env: variable } = auth;
  const given = [password, file, variable].filter((each) => each !== undefined).length;
  if (given === 0) complain(["etcd_auth", "password_file"], "is required, or password_env, or password");
  if (given > 1) complain(["etcd_auth"], "has more than one of password_file, password_env and password; keep one");
  if (file === undefined) return;
  try {
    if (read(file).trim() === "") complain(["etcd_auth", "password_file"], `${file} is empty`);
  } catch (error) {
    complain(["etcd_auth", "password_file"], `cannot read ${file}: ${sentence(error)}`);
  }
}

function togetherRule(
  values: Pick<StoreValues, "etcd_endpoints" | "etcd_tls" | "etcd_auth">,
  complain: Complain,
): void {
  const { etcd_endpoints: endpoints, etcd_tls: tls, etcd_auth: auth } = values;
  const alone = "has no use without etcd_endpoints: the store embedded in this machine needs none";
  if (endpoints.length === 0 && tls?.enabled) complain(["etcd_tls"], alone);
  if (endpoints.length === 0 && auth) complain(["etcd_auth"], alone);
  for (const [index, endpoint] of endpoints.entries())
    if (tls?.enabled && endpoint.startsWith("http://"))
      complain(["etcd_endpoints", index], "begins with http://, but etcd_tls is enabled; write https://");
}

/**
 * What the client for a real etcd is to be opened with, for values in which `storeRules` find nothing. Files are read again at each use, so
 * that renewed ones count. `env` is the process' environment, for `password_env`.
 */
export function etcdOptions(
  values: StoreValues,
  read: Read,
  env: Readonly<Record<string, string | undefined>> = {},
): EtcdOptions {
  const { etcd_endpoints: endpoints, etcd_tls: tls, etcd_auth: auth } = values;
  const pem = (name: "ca" | "cert" | "key", file: string | undefined) =>
    file === undefined ? {} : { [name]: read(file) };
  const loadTls = (): EtcdTls => ({
    ...pem("ca", tls?.ca_file),
    ...pem("cert", tls?.cert_file),
    ...pem("key", tls?.key_file),
    insecureSkipVerify: tls?.insecure_skip_verify ?? false,
  });
  return {
    endpoints,
    ...(tls?.enabled && { tls: loadTls }),
    ...(auth && { auth: { username: auth.username, password: () => passwordOf(auth, read, env) } }),
  };
}

function passwordOf(
  auth: NonNullable<StoreValues["etcd_auth"]>,
  read: Read,
  env: Readonly<Record<string, string | undefined>>,
): string {
  if (auth.password !== undefined) return auth.password.reveal();
  // The line end that an editor leaves is not part of the password.
  if (auth.password_file !== undefined) return read(auth.password_file).replace(/\r?\n$/, "");
  const name = auth.password_env ?? "";
  const password = env[name];
  if (password !== undefined && password !== "") return password;
  throw new Fault("config.invalid", `the environment variable ${name} (etcd_auth.password_env) is not set`, {
    exitCode: EXIT.config,
  });
}
