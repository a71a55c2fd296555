/** The gateway's /v3/auth/*: etcd's calls for users, roles and permissions. */
import type { Json } from "./gateway-json.ts";
import { type Message, sparse } from "./gateway-json.ts";
import { refuse } from "./status.ts";
import type { PermissionType, Principal, Users } from "./users.ts";

export interface AuthCall {
  readonly message: Message;
  readonly users: Users;
  readonly who: Principal;
  /** The address that the request came from. */
  readonly from: string;
}

type Handler = (call: AuthCall) => Json | Promise<Json>;

const TYPES = ["READ", "WRITE", "READWRITE"] as const satisfies readonly PermissionType[];

/** Only root changes users; everybody else may look at himself. */
function root(who: Principal): void {
  if (!who.root) throw refuse("denied");
}

/** By path below /v3/auth/. `authenticate` is not here: it is the one call that needs nobody. */
export const AUTH_CALLS: Readonly<Record<string, Handler>> = {
  enable({ users, who }) {
    root(who);
    users.enable();
    return {};
  },
  disable({ users, who }) {
    root(who);
    users.disable();
    return {};
  },
  async "user/add"({ users, who, message }) {
    root(who);
    await users.addUser(message.text("name"), message.text("password"));
    return {};
  },
  "user/get"({ users, who, message }) {
    const name = message.text("name");
    if (name !== who.name) root(who);
    return { roles: users.rolesOf(name) };
  },
  "user/list"({ users, who }) {
    root(who);
    return { users: users.userNames() };
  },
  "user/delete"({ users, who, message }) {
    root(who);
    users.deleteUser(message.text("name"));
    return {};
  },
  async "user/changepw"({ users, who, message }) {
    root(who);
    await users.changePassword(message.text("name"), message.text("password"));
    return {};
  },
  "user/grant"({ users, who, message }) {
    root(who);
    users.grantRole(message.text("user"), message.text("role"));
    return {};
  },
  "user/revoke"({ users, who, message }) {
    root(who);
    users.revokeRole(message.text("name"), message.text("role"));
    return {};
  },
  "role/add"({ users, who, message }) {
    root(who);
    users.addRole(message.text("name"));
    return {};
  },
  "role/get"({ users, who, message }) {
    const role = message.text("role");
    if (who.root || !users.rolesOf(who.name).includes(role)) root(who);
    const perm = users
      .permissionsOf(role)
      .map(({ type, key, end }) =>
        sparse({ permType: type === "READ" ? "" : type, key: btoa(key), range_end: btoa(end) }),
      );
    return { perm };
  },
  "role/list"({ users, who }) {
    root(who);
    return { roles: users.roleNames() };
  },
  "role/delete"({ users, who, message }) {
    root(who);
    users.deleteRole(message.text("role"));
    return {};
  },
  "role/grant"({ users, who, message }) {
    root(who);
    const perm = message.message("perm");
    const type = perm.choice("permType", TYPES, "authpb.Permission_Type");
    users.grantPermission(message.text("name"), { type, key: perm.bytes("key"), end: perm.bytes("range_end") });
    return {};
  },
  "role/revoke"({ users, who, message }) {
    root(who);
    users.revokePermission(message.text("role"), message.bytes("key"), message.bytes("range_end"));
    return {};
  },
};
