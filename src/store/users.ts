/** Who may do what in the embedded store: users, roles and key ranges as etcd has them, kept as one JSON document in the database. */
import type { Clock } from "../kernel/clock.ts";
import type { Log } from "../kernel/log.ts";
import type { Bytes } from "./bytes.ts";
import type { Tables } from "./embedded-tables.ts";
import { refuse } from "./status.ts";
import { Tokens } from "./users-tokens.ts";

export type PermissionType = "READ" | "WRITE" | "READWRITE";

/** A role's right on one key or [key, end), as in etcd ("\0" as end: everything from key on). */
export interface Permission {
  readonly type: PermissionType;
  readonly key: Bytes;
  readonly end: Bytes;
}

/** Somebody who sends requests. */
export interface Principal {
  readonly name: string;
  /** May do everything. */
  readonly root: boolean;
  may(access: "read" | "write", key: Bytes, end: Bytes | undefined): boolean;
}

/** Everybody, while authentication is off, and the operator on the machine itself. */
export const ANYBODY: Principal = { name: "", root: true, may: () => true };

interface User {
  hash: string;
  roles: string[];
}

interface Document {
  enabled: boolean;
  readonly users: Map<string, User>;
  readonly roles: Map<string, Permission[]>;
}

const ROOT = "root";
const FACT = "auth";

export interface UsersPorts {
  readonly tables: Tables;
  readonly clock: Clock;
  readonly log: Log;
}

/** bcrypt as in etcd: each guess costs about 60 ms and, unlike argon2, no memory that a flood of log-ins could use up. */
const HASH = { algorithm: "bcrypt", cost: 10 } as const;

export class Users {
  readonly #tables: Tables;
  #document: Document;
  readonly #tokens: Tokens;
  readonly #listeners = new Set<() => void>();

  constructor(ports: UsersPorts) {
    this.#tables = ports.tables;
    this.#document = load(ports.tables.fact(FACT));
    this.#tokens = new Tokens(ports.clock, ports.log);
  }

  get enabled(): boolean {
    return this.#document.enabled;
  }

  /** Calls back after every change of rights; returns what ends that. */
  onChange(listener: () => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Turns authentication on; etcd wants a root user with the root role first, so that somebody can turn it off again. */
  enable(): void {
    const root = this.#document.users.get(ROOT);
    if (root === undefined) throw refuse("rootUserNotExist");
    if (!root.roles.includes(ROOT)) throw refuse("rootRoleNotExist");
    this.#set(true);
  }

  disable(): void {
    this.#set(false);
  }

  /** A token for `name`; `from` is the address it asks from, for the brake on guessing. Throws etcd's refusals. */
  async authenticate(name: string, password: string, from: string): Promise<string> {
    if (!this.#document.enabled) throw refuse("authNotEnabled");
    const hash = () => this.#document.users.get(name)?.hash;
    return await this.#tokens.issue({ name, password, from, hash });
  }

  /** Whose token it is. Throws `invalid auth token`, or `user name is empty` when there is none. */
  principal(token: string | undefined): Principal {
    if (!this.#document.enabled) return ANYBODY;
    if (token === undefined || token === "") throw refuse("noUser");
    const name = this.#tokens.holder(token);
    const user = name === undefined ? undefined : this.#document.users.get(name);
    if (name === undefined || user === undefined) throw refuse("invalidToken");
    const roles = this.#document.roles;
    const root = user.roles.includes(ROOT);
    return {
      name,
      root,
      may: (access, key, end) =>
        root ||
        covers(
          user.roles.flatMap((role) => roles.get(role) ?? []),
          access,
          key,
          end,
        ),
    };
  }

  async addUser(name: string, password: string): Promise<void> {
    if (name === "") throw refuse("userEmpty");
    if (this.#document.users.has(name)) throw refuse("userExists");
    const hash = await Bun.password.hash(password === "" ? crypto.getRandomValues(new Uint8Array(32)) : password, HASH);
    if (this.#document.users.has(name)) throw refuse("userExists");
    this.#document.users.set(name, { hash, roles: [] });
    this.#save();
  }

  async changePassword(name: string, password: string): Promise<void> {
    this.#user(name);
    const hash = await Bun.password.hash(password, HASH);
    this.#user(name).hash = hash;
    this.#tokens.forget(name);
    this.#save();
  }

  deleteUser(name: string): void {
    if (this.#document.enabled && name === ROOT) throw refuse("invalidAuthManagement");
    this.#user(name);
    this.#document.users.delete(name);
    this.#tokens.forget(name);
    this.#save();
  }

  userNames(): string[] {
    return [...this.#document.users.keys()].sort();
  }

  rolesOf(name: string): readonly string[] {
    return this.#user(name).roles;
  }

  grantRole(name: string, role: string): void {
    const user = this.#user(name);
    if (role !== ROOT) this.#role(role);
    else if (!this.#document.roles.has(ROOT)) throw refuse("roleNotFound");
    if (!user.roles.includes(role)) user.roles = [...user.roles, role].sort();
    this.#save();
  }

  revokeRole(name: string, role: string): void {
    const user = this.#user(name);
    if (this.#document.enabled && name === ROOT && role === ROOT) throw refuse("invalidAuthManagement");
    if (!user.roles.includes(role)) throw refuse("roleNotGranted");
    user.roles = user.roles.filter((each) => each !== role);
    this.#save();
  }

  addRole(name: string): void {
    if (name === "") throw refuse("roleEmpty");
    if (this.#document.roles.has(name)) throw refuse("roleExists");
    this.#document.roles.set(name, []);
    this.#save();
  }

  deleteRole(name: string): void {
    if (this.#document.enabled && name === ROOT) throw refuse("invalidAuthManagement");
    this.#role(name);
    this.#document.roles.delete(name);
    for (const user of this.#document.users.values()) user.roles = user.roles.filter((role) => role !== name);
    this.#save();
  }

  roleNames(): string[] {
    return [...this.#document.roles.keys()].sort();
  }

  permissionsOf(role: string): readonly Permission[] {
    return this.#role(role);
  }

  grantPermission(role: string, permission: Permission): void {
    const kept = this.#role(role).filter(({ key, end }) => key !== permission.key || end !== permission.end);
    this.#document.roles.set(role, [...kept, permission]);
    this.#save();
  }

  revokePermission(role: string, key: Bytes, end: Bytes): void {
    const all = this.#role(role);
    const kept = all.filter((each) => each.key !== key || each.end !== end);
    if (kept.length === all.length) throw refuse("permissionNotGranted");
    this.#document.roles.set(role, kept);
    this.#save();
  }

  /** `rota serve user add`: a user with one role of the same name for the keys below `prefix` ("": all keys); turns authentication on. */
  async addLimited(name: string, password: string, prefix: Bytes): Promise<void> {
    if (!this.#document.users.has(name) && this.#document.roles.has(name)) throw refuse("roleExists");
    await this.addUser(name, password);
    const range = prefix === "" ? { key: "\0", end: "\0" } : { key: prefix, end: afterPrefix(prefix) };
    this.#document.roles.set(name, [{ type: "READWRITE", ...range }]);
    this.#user(name).roles = [name];
    this.#set(true);
  }

  /** `rota serve user remove`: the user and the role of the same name. Authentication stays on, also without users. */
  removeLimited(name: string): void {
    this.deleteUser(name);
    if (name !== ROOT && this.#document.roles.has(name)) this.deleteRole(name);
  }

  #user(name: string): User {
    const user = this.#document.users.get(name);
    if (user === undefined) throw refuse("userNotFound");
    return user;
  }

  #role(name: string): Permission[] {
    const role = this.#document.roles.get(name);
    if (role === undefined) throw refuse("roleNotFound");
    return role;
  }

  #set(enabled: boolean): void {
    this.#document.enabled = enabled;
    this.#save();
  }

  #save(): void {
    const { enabled, users, roles } = this.#document;
    try {
      this.#tables.setFact(FACT, JSON.stringify({ enabled, users: [...users], roles: [...roles] }));
    } catch (error) {
      // What is not on disk must not be in force either.
      this.#document = load(this.#tables.fact(FACT));
      throw error;
    }
    for (const listener of this.#listeners) listener();
  }
}

function load(text: string | undefined): Document {
  if (text === undefined) return { enabled: false, users: new Map(), roles: new Map() };
  // Written by #save and by nobody else.
  const saved = JSON.parse(text) as { enabled: boolean; users: [string, User][]; roles: [string, Permission[]][] };
  return { enabled: saved.enabled, users: new Map(saved.users), roles: new Map(saved.roles) };
}

/** The end of all keys that begin with `prefix`: its last byte below 0xff, plus one (etcd's clientv3.GetPrefixRangeEnd). */
export function afterPrefix(prefix: Bytes): Bytes {
  for (let i = prefix.length - 1; i >= 0; i--) {
    const byte = prefix.charCodeAt(i);
    if (byte < 0xff) return prefix.slice(0, i) + String.fromCharCode(byte + 1);
  }
  return "\0";
}

/** Sorts after every key. */
const INFINITY = "\u{10ffff}";

function interval(key: Bytes, end: Bytes | undefined): [Bytes, Bytes] {
  if (end === undefined || end === "") return [key, `${key}\0`];
  return [key, end === "\0" ? INFINITY : end];
}

/** True when the permissions together cover the whole range, without a gap (etcd joins neighbours too). */
function covers(all: readonly Permission[], access: "read" | "write", key: Bytes, end: Bytes | undefined): boolean {
  const fits = all.filter(({ type }) => type === "READWRITE" || type === access.toUpperCase());
  const ranges = fits
    .map((permission) => interval(permission.key, permission.end))
    .sort((a, b) => (a[0] < b[0] ? -1 : 1));
  const [from, to] = interval(key, end);
  // An empty or reversed range reads nothing, but who may not see its beginning need not learn even that.
  let reached = from;
  for (const [low, high] of ranges) {
    if (low > reached) break;
    if (high > reached) reached = high;
  }
  return reached > from && reached >= to;
}
