/** The commands of the store: `rota serve` and who may use it. What they do is imported when they run. */
import { type AnyCommand, command } from "./command.ts";

const stateDir = {
  type: "string",
  value: "DIR",
  default: "/var/lib/rota",
  completes: "directory",
  summary: "where the store lies",
} as const;
const json = { type: "boolean", summary: "print JSON" } as const;
const name = { name: { summary: "the user's name" } } as const;
const file = (summary: string) => ({ type: "string", value: "FILE", completes: "file", summary }) as const;

/** `rota serve`. */
export const serve = command({
  path: "serve",
  summary: "Be the store of a fleet that has no etcd",
  description:
    "Speaks as an etcd does, so nodes name it in etcd_endpoints; changing to a real etcd later means changing that line and nothing else.\n\n" +
    "On an address that other machines can reach it wants TLS (made on the first start unless it is given) and at least one user. " +
    "Copy the CA file that it names to every node (etcd_tls.ca_file).",
  flags: {
    listen: { type: "string", value: "HOST:PORT", default: "127.0.0.1:2379", summary: "address to listen on" },
    "state-dir": stateDir,
    "tls-cert": file("certificate to show, instead of one that is made here"),
    "tls-key": file("its private key"),
    "tls-client-ca": file("let in only clients with a certificate of this CA"),
    insecure: {
      type: "boolean",
      summary: "do without TLS and users where there are none, although others can reach it",
    },
    "log-format": {
      type: "string",
      value: "FORMAT",
      choices: ["json", "text"],
      summary: "json, or text for people (default: text on a terminal)",
    },
  },
  exits: { 2: "no user yet, or files that cannot be used" },
  examples: [
    { args: "", says: "for tries on one machine" },
    { args: "--listen 10.0.0.5:2379", says: "for a fleet, after `rota serve user add`" },
  ],
  async run(ctx): Promise<number> {
    return (await import("./serve-run.ts")).runServe(ctx);
  },
});

/** `rota serve user add`. */
export const serveUserAdd = command({
  path: "serve user add",
  summary: "Add a user; the password is asked for, or read from standard input",
  description: "Works while `rota serve` runs, and before. The first user turns authentication on.",
  flags: {
    prefix: { type: "string", value: "PREFIX", summary: "may touch only keys that begin with it (default: all keys)" },
    "state-dir": stateDir,
    json,
  },
  args: name,
  examples: [{ args: "web --prefix /prod/web/ < password.txt", says: "a user for one namespace" }],
  async run(ctx): Promise<number> {
    return (await import("./serve-run.ts")).addUser(ctx);
  },
});

/** `rota serve user passwd`. */
export const serveUserPasswd = command({
  path: "serve user passwd",
  summary: "Change a user's password; whoever was logged in with the old one is out",
  flags: { "state-dir": stateDir, json },
  args: name,
  async run(ctx): Promise<number> {
    return (await import("./serve-run.ts")).changePassword(ctx);
  },
});

/** `rota serve user list`. */
export const serveUserList = command({
  path: "serve user list",
  summary: "Show the users and what they may touch",
  flags: { "state-dir": stateDir, json },
  async run(ctx): Promise<number> {
    return (await import("./serve-run.ts")).listUsers(ctx);
  },
});

/** `rota serve user remove`. */
export const serveUserRemove = command({
  path: "serve user remove",
  summary: "Remove a user; whoever is logged in as this user is out at once",
  flags: { "state-dir": stateDir, json },
  args: name,
  async run(ctx): Promise<number> {
    return (await import("./serve-run.ts")).removeUser(ctx);
  },
});

/** In the order of the help. */
export const serveCommands: readonly AnyCommand[] = [
  serve,
  serveUserAdd,
  serveUserPasswd,
  serveUserList,
  serveUserRemove,
];
