/** What `rota serve` and its user commands do. */
import { hostname } from "node:os";
import { type Clock, realClock } from "../kernel/clock.ts";
import { EXIT, Fault } from "../kernel/errors.ts";
import { jsonLog, type Log, textLog } from "../kernel/log.ts";
import { startServe } from "../store/serve.ts";
import { openUserAdmin, type UserAdmin } from "../store/serve-users.ts";
import type { Context, ContextOf } from "./command.ts";
import type { Sink } from "./output.ts";
import type { serve, serveUserAdd, serveUserList, serveUserPasswd, serveUserRemove } from "./serve.ts";

/** Serves until a signal ends it. */
export async function runServe(ctx: ContextOf<typeof serve>): Promise<number> {
  const { flags, signal, stderr, called } = ctx;
  // The executable is built to compile almost nothing, for daemons that idle (scripts/build.ts); a server of many does not.
  Bun.unsafe.setJITPolicy(1);
  const clock = realClock();
  const log = logTo(stderr, clock, flags["log-format"]);
  const served = startServe(
    {
      listen: flags.listen,
      stateDir: flags["state-dir"],
      certFile: flags["tls-cert"],
      keyFile: flags["tls-key"],
      clientCaFile: flags["tls-client-ca"],
      insecure: flags.insecure,
      called,
    },
    { clock, log },
  );
  const { url, ca } = served;
  log("info", "serving", `the store answers at ${url}`, { url, state_dir: flags["state-dir"] });
  if (ca !== undefined) {
    const text = `copy ${ca.caFile} to every node and name it in etcd_tls.ca_file; its SHA-256 fingerprint is ${ca.fingerprint}`;
    log("info", "serving_ca", text, { ca_file: ca.caFile, fingerprint: ca.fingerprint });
  }
  await aborted(signal);
  log("info", "stopping", `ended by ${ctx.signalName() ?? "a signal"}`);
  await served.stop();
  return EXIT.ok;
}

/** `rota serve user add` */
export async function addUser(ctx: ContextOf<typeof serveUserAdd>): Promise<number> {
  const { name } = ctx.args;
  const password = await newPassword(ctx, name);
  const prefix = ctx.flags.prefix ?? "";
  await administer(ctx, (users) => users.add(name, password, prefix));
  if (ctx.flags.json) ctx.out.json({ added: name, prefix });
  else ctx.out.line(`${name} may read and write ${prefix === "" ? "all keys" : `the keys that begin with ${prefix}`}`);
  return EXIT.ok;
}

/** `rota serve user passwd` */
export async function changePassword(ctx: ContextOf<typeof serveUserPasswd>): Promise<number> {
  const { name } = ctx.args;
  const password = await newPassword(ctx, name);
  await administer(ctx, (users) => users.passwd(name, password));
  if (ctx.flags.json) ctx.out.json({ changed: name });
  else ctx.out.line(`the password of ${name} was changed`);
  return EXIT.ok;
}

/** `rota serve user remove` */
export async function removeUser(ctx: ContextOf<typeof serveUserRemove>): Promise<number> {
  const { name } = ctx.args;
  await administer(ctx, (users) => users.remove(name));
  if (ctx.flags.json) ctx.out.json({ removed: name });
  else ctx.out.line(`${name} was removed`);
  return EXIT.ok;
}

/** `rota serve user list` */
export async function listUsers(ctx: ContextOf<typeof serveUserList>): Promise<number> {
  const users = await administer(ctx, (admin) => admin.list());
  if (ctx.flags.json) ctx.out.json(users);
  else
    ctx.out.table(
      users,
      [
        { title: "USER", cell: ({ name }) => name },
        { title: "MAY READ AND WRITE", cell: ({ rights }) => rights.join(", ") || "nothing" },
      ],
      "no users",
    );
  return EXIT.ok;
}

async function administer<T>(
  ctx: Context<{ readonly "state-dir": string }, unknown>,
  work: (users: UserAdmin) => Promise<T>,
): Promise<T> {
  const clock = realClock();
  const users = await openUserAdmin(ctx.flags["state-dir"], { clock, log: logTo(ctx.stderr, clock, "text") });
  try {
    return await work(users);
  } finally {
    await users.close();
  }
}

/** Asked twice at a terminal; one line of standard input otherwise. Never from the command line, where everybody can read it. */
async function newPassword({ stdin }: Pick<Context, "stdin">, name: string): Promise<string> {
  const password = await stdin.secret(`Password for ${name}: `);
  if (password === "") throw new Fault("usage", "the password must not be empty", { exitCode: EXIT.usage });
  if (stdin.isTTY && (await stdin.secret("The same again: ")) !== password)
    throw new Fault("usage", "the two passwords differ", { exitCode: EXIT.usage });
  return password;
}

function logTo(stderr: Sink, clock: Clock, format: string | undefined): Log {
  const common = { write: (line: string) => stderr.write(line), clock, level: "info" as const };
  const json = format === undefined ? !stderr.isTTY : format === "json";
  return json ? jsonLog({ ...common, base: { node: hostname(), component: "store" } }) : textLog(common);
}

function aborted(signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve();
    else signal.addEventListener("abort", () => resolve(), { once: true });
  });
}
