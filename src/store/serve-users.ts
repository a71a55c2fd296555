/** `rota serve user …`: the same calls through the running server's socket, or on the file itself when no server runs. */
import { existsSync } from "node:fs";
import type { Clock } from "../kernel/clock.ts";
import { Fault, isFault, sentence } from "../kernel/errors.ts";
import type { Log } from "../kernel/log.ts";
import { fromBytes, textToBase64, toBytes } from "./bytes.ts";
import { openStoreFile } from "./embedded-file.ts";
import { EtcdClient } from "./etcd-client.ts";
import type { Json, Message } from "./gateway-json.ts";
import { storeSocket } from "./open.ts";
import { type Permission, Users } from "./users.ts";

export interface UserLine {
  readonly name: string;
  /** What it may read and write: a prefix as text, or a range as etcd would show it. */
  readonly rights: readonly string[];
}

/** All throw etcd's refusals as `store.refused` ("user name already exists", …). */
export interface UserAdmin {
  /** A user for the keys that begin with `prefix` ("": all); turns authentication on. */
  add(name: string, password: string, prefix: string): Promise<void>;
  passwd(name: string, password: string): Promise<void>;
  remove(name: string): Promise<void>;
  list(): Promise<readonly UserLine[]>;
  close(): Promise<void>;
}

/** Straight on the users of an engine in this process. */
export function userAdmin(users: Users): Omit<UserAdmin, "close"> {
  return {
    add: (name, password, prefix) => users.addLimited(name, password, toBytes(prefix)),
    passwd: (name, password) => users.changePassword(name, password),
    remove: async (name) => users.removeLimited(name),
    list: async () =>
      users.userNames().map((name) => ({
        name,
        rights: users.rolesOf(name).flatMap((role) => (role === "root" ? ["everything"] : rightsOf(users, role))),
      })),
  };
}

function rightsOf(users: Users, role: string): string[] {
  return users.permissionsOf(role).map(inWords);
}

function inWords({ type, key, end }: Permission): string {
  const how = type === "READWRITE" ? "" : ` (${type.toLowerCase()} only)`;
  if (key === "\0" && end === "\0") return `all keys${how}`;
  const last = key.slice(0, -1) + String.fromCharCode(key.charCodeAt(key.length - 1) + 1);
  return end === last ? `${fromBytes(key)}*${how}` : `[${fromBytes(key)}, ${fromBytes(end)})${how}`;
}

/** The calls that the server's socket knows beyond etcd's. */
export function userCalls(users: Users): Readonly<Record<string, (message: Message) => Promise<Json>>> {
  const admin = userAdmin(users);
  const name = (message: Message) => fromBytes(message.bytes("name"));
  const password = (message: Message) => fromBytes(message.bytes("password"));
  return {
    "rota/users/add": async (message) => {
      await admin.add(name(message), password(message), fromBytes(message.bytes("prefix")));
      return {};
    },
    "rota/users/passwd": async (message) => {
      await admin.passwd(name(message), password(message));
      return {};
    },
    "rota/users/remove": async (message) => {
      await admin.remove(name(message));
      return {};
    },
    "rota/users/list": async () => ({ users: await admin.list() }),
  };
}

/** For a command. Faults: `serve.unreachable` when somebody has the store but is no `rota serve`, `store.*` as for opening it. */
export async function openUserAdmin(
  stateDir: string,
  ports: { readonly clock: Clock; readonly log: Log },
): Promise<UserAdmin> {
  const socket = storeSocket(stateDir);
  if (existsSync(socket)) {
    const remote = overSocket(socket, ports);
    try {
      await remote.list();
      return remote;
    } catch (error) {
      await remote.close();
      if (!isFault(error, "store.away") || sentence(error).includes("HTTP status"))
        throw new Fault("serve.unreachable", `the process that has ${stateDir} does not keep users`, { cause: error });
    }
  }
  const file = openStoreFile({ stateDir, ...ports, program: "rota serve user" });
  const users = new Users({ tables: file.engine.tables, ...ports });
  return {
    ...userAdmin(users),
    async close() {
      file.close();
    },
  };
}

function overSocket(socket: string, ports: { readonly clock: Clock; readonly log: Log }): UserAdmin {
  const client = new EtcdClient({ endpoints: [`unix://${socket}`], timeoutMs: 10_000 }, ports);
  const ask = <T>(what: string, body: Json, read: (answer: Json) => T) =>
    client.ask({ label: `users.${what}` }, what === "list" ? "read" : "write", `/rota/users/${what}`, body, read);
  const done = () => undefined;
  const name = (text: string) => ({ name: textToBase64(text) });
  return {
    add: (user, password, prefix) =>
      ask("add", { ...name(user), password: textToBase64(password), prefix: textToBase64(prefix) }, done),
    passwd: (user, password) => ask("passwd", { ...name(user), password: textToBase64(password) }, done),
    remove: (user) => ask("remove", name(user), done),
    list: () => ask("list", {}, ({ users }) => users as readonly UserLine[]),
    close: async () => client.close(),
  };
}
