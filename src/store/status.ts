/** A definite no from a store, in etcd's own words and gRPC codes; the embedded engine raises what a real etcd would answer. */
import { Fault } from "../kernel/errors.ts";

/** gRPC status codes that etcd uses (google.golang.org/grpc/codes). */
export const CODE = {
  invalid: 3,
  deadline: 4,
  notFound: 5,
  denied: 7,
  exhausted: 8,
  precondition: 9,
  aborted: 10,
  outOfRange: 11,
  unimplemented: 12,
  internal: 13,
  unavailable: 14,
  unauthenticated: 16,
} as const;

/** etcd's errors (api/v3rpc/rpctypes/error.go of 3.4): sentence and code. */
export const ETCD = {
  emptyKey: ["etcdserver: key is not provided", CODE.invalid],
  keyNotFound: ["etcdserver: key not found", CODE.invalid],
  valueProvided: ["etcdserver: value is provided", CODE.invalid],
  leaseProvided: ["etcdserver: lease is provided", CODE.invalid],
  tooManyOps: ["etcdserver: too many operations in txn request", CODE.invalid],
  duplicateKey: ["etcdserver: duplicate key given in txn request", CODE.invalid],
  compacted: ["etcdserver: mvcc: required revision has been compacted", CODE.outOfRange],
  futureRevision: ["etcdserver: mvcc: required revision is a future revision", CODE.outOfRange],
  noSpace: ["etcdserver: mvcc: database space exceeded", CODE.exhausted],
  leaseNotFound: ["etcdserver: requested lease not found", CODE.notFound],
  leaseExists: ["etcdserver: lease already exists", CODE.precondition],
  leaseTtlTooLarge: ["etcdserver: too large lease TTL", CODE.outOfRange],
  tooLarge: ["etcdserver: request is too large", CODE.invalid],
  tooManyRequests: ["etcdserver: too many requests", CODE.exhausted],
  rootUserNotExist: ["etcdserver: root user does not exist", CODE.precondition],
  rootRoleNotExist: ["etcdserver: root user does not have root role", CODE.precondition],
  userExists: ["etcdserver: user name already exists", CODE.precondition],
  userEmpty: ["etcdserver: user name is empty", CODE.invalid],
  userNotFound: ["etcdserver: user name not found", CODE.precondition],
  roleExists: ["etcdserver: role name already exists", CODE.precondition],
  roleNotFound: ["etcdserver: role name not found", CODE.precondition],
  roleEmpty: ["etcdserver: role name is empty", CODE.invalid],
  authFailed: ["etcdserver: authentication failed, invalid user ID or password", CODE.invalid],
  denied: ["etcdserver: permission denied", CODE.denied],
  roleNotGranted: ["etcdserver: role is not granted to the user", CODE.precondition],
  permissionNotGranted: ["etcdserver: permission is not granted to the role", CODE.precondition],
  authNotEnabled: ["etcdserver: authentication is not enabled", CODE.precondition],
  invalidToken: ["etcdserver: invalid auth token", CODE.unauthenticated],
  invalidAuthManagement: ["etcdserver: invalid auth management", CODE.invalid],
  /** rpctypes.ErrUserEmpty: what etcd says to a request without any token while auth is on. */
  noUser: ["etcdserver: user name is empty", CODE.invalid],
} as const satisfies Record<string, readonly [string, number]>;

/** An answer that says no: nothing was changed. `code` is the gRPC code, the message etcd's own sentence. */
export class Refusal extends Fault {
  readonly code: number;

  constructor(message: string, code: number) {
    super(kindOf(message), message, { retry: "never" });
    this.name = "Refusal";
    this.code = code;
  }
}

/** etcd has one code for several refusals; its sentences are what tells these apart. */
function kindOf(message: string): string {
  if (message === ETCD.leaseNotFound[0]) return "store.no-lease";
  return message === ETCD.noSpace[0] ? "store.refused.full" : "store.refused";
}

/** The refusal that etcd gives for `reason`. */
export function refuse(reason: keyof typeof ETCD): Refusal {
  const [message, code] = ETCD[reason];
  return new Refusal(message, code);
}

/** HTTP status of a gRPC code as grpc-gateway v1 maps it, which is what etcd 3.4 answers with. */
export function httpStatus(code: number): number {
  switch (code) {
    case 1:
      return 408;
    case CODE.invalid:
    case CODE.outOfRange:
      return 400;
    case CODE.deadline:
      return 408;
    case CODE.notFound:
      return 404;
    case 6:
    case CODE.aborted:
      return 409;
    case CODE.denied:
      return 403;
    case CODE.unauthenticated:
      return 401;
    case CODE.exhausted:
      return 429;
    case CODE.precondition:
      return 412;
    case CODE.unimplemented:
      return 501;
    case CODE.unavailable:
      return 503;
    default:
      return 500;
  }
}
