/** How a configuration says which store, and the sentence for each way of saying it wrongly. */
import { describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { ConfigFault, loadConfig } from "../kernel/config.ts";
import { etcdOptions, storeRules, storeShape } from "./settings.ts";

const FILES: Record<string, string> = { "/pw": "hunter2\n", "/blank": "\n", "/text": "not a PEM\n" };
const fixture = (name: string) => readFileSync(join(import.meta.dir, "../../test/fixtures/tls", name), "utf8");
const read = (path: string) => {
  if (path.endsWith(".pem")) return fixture(path.slice(1));
  const text = FILES[path];
  if (text === undefined) throw new Error(`ENOENT: no such file or directory, open '${path}'`);
  return text;
};
const load = (text: string) => loadConfig([{ name: "f", text }], storeShape, { rules: storeRules(read) }).values;
const complaints = (text: string) => {
  try {
    load(text);
  } catch (error) {
    if (error instanceof ConfigFault) return error.message;
    throw error;
  }
  return "";
};
const tls = (inner: string) => `etcd_endpoints: [a:2379]\netcd_tls: {${inner}}\n`;
const auth = (inner: string) => `etcd_endpoints: [a:2379]\netcd_auth: {${inner}}\n`;

describe("accepted", () => {
  test.each([
    ["{}"],
    ["etcd_endpoints: [http://a:2379, https://b, 'c:2379', 'http://[::1]:2379/', 10.0.0.1:2379]"],
    [tls("enabled: true")],
    [tls("enabled: true, ca_file: /a-cert.pem")],
    [tls("enabled: true, ca_file: /a-cert.pem, cert_file: /b-cert.pem, key_file: /b-key.pem")],
    [tls("enabled: false, ca_file: /not/there")],
    [auth("username: u, password: p")],
    [auth("username: u, password_file: /pw")],
  ])("%s", (text) => {
    expect(complaints(text)).toBe("");
  });
});

describe("refused", () => {
  test.each([
    ["etcd_endpoints: ['']", "f:1:18: etcd_endpoints[0]: must not be empty"],
    ["etcd_endpoints: [a b]", "f:1:18: etcd_endpoints[0]: must be http://host:port, https://host:port or host:port"],
    [
      "etcd_endpoints: ['http://']",
      "f:1:18: etcd_endpoints[0]: must be http://host:port, https://host:port or host:port",
    ],
    ["etcd_endpoints: ['a:x']", "f:1:18: etcd_endpoints[0]: must be http://host:port, https://host:port or host:port"],
    [
      "etcd_endpoints: [unix:///run/etcd]",
      "f:1:18: etcd_endpoints[0]: must be http://host:port, https://host:port or host:port",
    ],
    ["etcd_endpoints: ['http://a:2379/v3']", "f:1:18: etcd_endpoints[0]: must end after the port"],
    [
      "etcd_endpoints: ['http://u:hunter2@a']",
      "f:1:18: etcd_endpoints[0]: must not hold a name or password; use etcd_auth",
    ],
    ["etcd_endpoints: [a, a]", "f:1:21: etcd_endpoints[1]: is written twice"],
    [
      "etcd_endpoints: ['http://a']\netcd_tls: {enabled: true}",
      "f:1:18: etcd_endpoints[0]: begins with http://, but etcd_tls is enabled; write https://",
    ],
    [
      "etcd_tls: {enabled: true}",
      "f:1:11: etcd_tls: has no use without etcd_endpoints: the store embedded in this machine needs none",
    ],
    [
      "etcd_auth: {username: u, password: p}",
      "f:1:12: etcd_auth: has no use without etcd_endpoints: the store embedded in this machine needs none",
    ],
    [
      tls("ca_file: /a-cert.pem"),
      'f:2:11: etcd_tls: names files but not "enabled"; say enabled: true (or false, and they are not used)',
    ],
    [tls("enabled: true, cert_file: /a-cert.pem"), "f:2:11: etcd_tls.key_file: is required with cert_file"],
    [tls("enabled: true, key_file: /a-key.pem"), "f:2:11: etcd_tls.cert_file: is required with key_file"],
    [
      tls("enabled: true, cert_file: /a-cert.pem, key_file: /b-key.pem"),
      "f:2:61: etcd_tls.key_file: /b-key.pem is not the key of the certificate in /a-cert.pem",
    ],
    [
      tls("enabled: true, ca_file: /not/there"),
      "f:2:36: etcd_tls.ca_file: cannot read /not/there: ENOENT: no such file or directory, open '/not/there'",
    ],
    [tls("enabled: true, ca_file: /text"), "f:2:36: etcd_tls.ca_file: /text does not hold a certificate in PEM form"],
    [
      tls("enabled: true, ca_file: relative.pem"),
      "f:2:36: etcd_tls.ca_file: must be an absolute path (one that begins with /)",
    ],
    [tls("enabled: true, ca_fiel: /x"), 'f:2:27: etcd_tls.ca_fiel: there is no such key; did you mean "ca_file"?'],
    [auth("username: u"), "f:2:12: etcd_auth.password_file: is required, or password_env, or password"],
    [auth("password: hunter2"), "f:2:12: etcd_auth.username: is required"],
    [
      auth("username: u, password: hunter2, password_file: /pw"),
      "f:2:12: etcd_auth: has more than one of password_file, password_env and password; keep one",
    ],
    [
      auth("username: u, password_file: /not/there"),
      "f:2:41: etcd_auth.password_file: cannot read /not/there: ENOENT: no such file or directory, open '/not/there'",
    ],
    [auth("username: u, password_file: /blank"), "f:2:41: etcd_auth.password_file: /blank is empty"],
    ["state_dir: here", "f:1:12: state_dir: must be an absolute path (one that begins with /)"],
  ])("%s", (text, expected) => {
    expect(complaints(text)).toBe(expected);
    expect(complaints(text)).not.toContain("hunter2");
  });
});

test("what the client is opened with; passwords and certificates are read anew at each use", async () => {
  expect(etcdOptions(load("etcd_endpoints: [a:2379]"), read)).toEqual({ endpoints: ["a:2379"] });
  const secure = etcdOptions(
    load(
      `${tls("enabled: true, ca_file: /a-cert.pem, cert_file: /b-cert.pem, key_file: /b-key.pem")}etcd_auth: {username: u, password_file: /pw}\n`,
    ),
    read,
  );
  expect(secure.tls?.()).toEqual({
    ca: fixture("a-cert.pem"),
    cert: fixture("b-cert.pem"),
    key: fixture("b-key.pem"),
    insecureSkipVerify: false,
  });
  expect(secure.auth?.username).toBe("u");
  expect(await secure.auth?.password()).toBe("hunter2");
  FILES["/pw"] = "renewed\n";
  expect(await secure.auth?.password()).toBe("renewed");
  expect(await etcdOptions(load(auth("username: u, password: p")), read).auth?.password()).toBe("p");
});
