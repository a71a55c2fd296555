/** The commands that only look: validate-config, simulate, status. */
import { ConfigFault, inWords } from "../kernel/config.ts";
import { EXIT, isFault, sentence } from "../kernel/errors.ts";
import type { Finding } from "../reboot/detectors/detector.ts";
import { healthGate, lookAround } from "../reboot/gates.ts";
import type { Outcome } from "../reboot/machine.ts";
import { refusal } from "../reboot/machine.ts";
import {
  type LoadedSettings,
  loadSettings,
  printSettings,
  type RebootSettings,
  shownSettings,
} from "../reboot/settings.ts";
import { snapshot } from "../turn/fence.ts";
import { placeInWords } from "../turn/line.ts";
import type { Gate } from "../turn/policy.ts";
import { policyOf, wireNode, wireProbes } from "../wire.ts";
import type { ContextOf } from "./command.ts";
import type * as commands from "./reboot.ts";
import { exitCodeOf } from "./reboot-exits.ts";

export async function validate({ flags, out }: ContextOf<typeof commands.validateConfig>): Promise<number> {
  const { json, print } = flags;
  let loaded: LoadedSettings;
  try {
    loaded = loadSettings({ path: flags.config });
  } catch (error) {
    if (!json || !(error instanceof ConfigFault)) throw error;
    out.json({ valid: false, faults: error.complaints });
    return error.exitCode;
  }
  const { warnings, settings } = loaded;
  const alone = settings.etcdEndpoints.length === 0;
  if (json) {
    out.json({ valid: true, alone, warnings, ...(print && { settings: shownSettings(loaded) }) });
    return EXIT.ok;
  }
  for (const warning of warnings) out.note(`warning: ${inWords(warning)}`);
  if (print) out.line(printSettings(loaded).trimEnd());
  else out.line(`${flags.config}: valid${alone ? "; no etcd_endpoints: this machine coordinates itself alone" : ""}`);
  return EXIT.ok;
}

export async function simulate({ flags, out, env, signal }: ContextOf<typeof commands.simulate>): Promise<number> {
  const { settings } = loadSettings({ path: flags.config });
  const probes = wireProbes(settings, { mode: "dry", log: () => undefined, processEnv: env });
  const detection = await probes.detect(signal);
  const findings = probes.last.evaluation?.findings ?? [];
  if (flags.json) out.json({ required: detection.required, reason: detection.reason, detectors: findings });
  else {
    showFindings(out, findings);
    out.line(`\nreboot required: ${detection.required ? `yes, ${detection.reason}` : "no"}`);
  }
  return detection.errors.length > 0 ? EXIT.detector : EXIT.ok;
}

function showFindings(out: ContextOf<typeof commands.simulate>["out"], findings: readonly Finding[]): void {
  out.table(findings, [
    { title: "DETECTOR", cell: (f) => f.name },
    {
      title: "REBOOT",
      cell: (f) => (f.error !== undefined ? out.style.red("error") : f.requires ? out.style.yellow("yes") : "no"),
    },
    { title: "EXIT", cell: (f) => f.exitCode ?? "", align: "right" },
    { title: "TOOK", cell: (f) => `${f.durationMs} ms`, align: "right" },
    { title: "WHY", cell: (f) => f.error ?? f.reason ?? "" },
  ]);
}

/** Everything that `status` prints, in the words of its JSON. */
interface Status {
  readonly node: string;
  readonly outcome: Outcome;
  readonly why: string;
  readonly reboot_required: boolean;
  readonly reason: string;
  readonly gates: readonly Gate[];
  readonly line: { readonly holder: string | null; readonly ahead: number; readonly phase: string | null } | null;
}

export async function status(ctx: ContextOf<typeof commands.status>): Promise<number> {
  const { flags, out, env, signal } = ctx;
  const { settings } = loadSettings({ path: flags.config });
  const found = await judge(settings, ctx, signal, env);
  if (flags.json) out.json(found);
  else show(out, found);
  return exitCodeOf(found.outcome);
}

async function judge(
  settings: RebootSettings,
  { flags }: ContextOf<typeof commands.status>,
  signal: AbortSignal,
  env: Readonly<Record<string, string | undefined>>,
): Promise<Status> {
  const skips = { skipHealth: flags["skip-health"], skipLock: flags["skip-lock"] };
  const options = { mode: "dry" as const, log: () => undefined, processEnv: env, ...skips };
  const probes = wireProbes(settings, options);
  const line = skips.skipLock ? undefined : await lookAtStore(settings, options, signal);
  const local = await lookAround(probes, 0, async () => undefined, signal);
  // In its turn the script is asked the question that ends the turn.
  const proof = line?.own && healthGate(await probes.health("post-reboot", { held: true, attempts: 0 }, signal));
  const look = proof ? { ...local, gates: [...local.gates.filter(({ name }) => name !== "health"), proof] } : local;
  const gates = [...look.gates, ...(line?.gates ?? [])];
  const base = {
    node: settings.nodeName,
    reboot_required: look.required,
    reason: look.reason,
    gates,
    line: line?.place ?? null,
  };
  if (line?.own !== undefined) {
    const sick = proof && !proof.open ? `; ${proof.why}` : "";
    return { ...base, outcome: line.own.outcome, why: `${line.own.why}${sick}` };
  }
  const shut = refusal(look.gates);
  if (shut !== undefined) return { ...base, ...shut };
  const away = line?.gates.find(({ name, open }) => name === "store" && !open);
  if (away !== undefined) return { ...base, outcome: "store_away", why: away.why };
  if (!look.required) {
    const failed = look.detectorError;
    return {
      ...base,
      outcome: failed === undefined ? "no_action" : "detector_error",
      why: failed ?? "no detector wants a reboot",
    };
  }
  return { ...base, ...(refusal(gates) ?? { outcome: "ready", why: "every gate is open" }) };
}

interface StoreLook {
  readonly gates: readonly Gate[];
  readonly place: Status["line"];
  /** This machine is in its turn. */
  readonly own?: { readonly outcome: "rebooting" | "recovering"; readonly why: string } | undefined;
}

type LookOptions = Omit<Parameters<typeof wireNode>[1], "daemon">;

/** A store that does not answer is a closed gate, not the end of the command: that is when people ask. */
async function lookAtStore(settings: RebootSettings, options: LookOptions, signal: AbortSignal): Promise<StoreLook> {
  try {
    return await readStore(settings, options, signal);
  } catch (error) {
    if (!isFault(error, "store")) throw error;
    return { gates: [{ name: "store", open: false, why: sentence(error), failed: true }], place: null };
  }
}

async function readStore(settings: RebootSettings, options: LookOptions, signal: AbortSignal): Promise<StoreLook> {
  const node = await wireNode(settings, { ...options, daemon: false });
  try {
    const snap = await snapshot(node, "", policyOf(settings), signal);
    const mine = snap.line.findIndex((c) => c.value?.machine === node.self.machine);
    const me = snap.line[mine];
    const ahead = mine < 0 ? snap.line.length : mine;
    const holder = snap.line[0]?.value?.node ?? (snap.line.length > 0 ? "a foreign lock" : null);
    const place = { holder: ahead === 0 ? null : holder, ahead, phase: me?.value?.phase ?? null };
    const inTurn = me?.permanent
      ? me.value?.boot_id === node.self.bootId
        ? { outcome: "rebooting" as const, why: `in its turn: ${me.value.reason}` }
        : { outcome: "recovering" as const, why: "back from its reboot, not verified yet" }
      : undefined;
    const slots = Math.min(node.self.slots, ...snap.line.slice(0, ahead).map((c) => c.value?.slots ?? 1));
    const free: Gate = {
      name: "line",
      open: ahead < slots,
      why: ahead < slots ? "" : `${placeInWords(ahead)}, behind ${holder}`,
    };
    return { gates: [...snap.gates, free], place, own: inTurn };
  } finally {
    await node.store.close();
  }
}

function show(out: ContextOf<typeof commands.status>["out"], found: Status): void {
  const { style } = out;
  out.line(`${style.bold(found.node)}: ${found.outcome}${found.why === "" ? "" : ` - ${found.why}`}`);
  out.line(`reboot required: ${found.reboot_required ? `yes, ${found.reason}` : "no"}`);
  out.line();
  out.table(found.gates, [
    { title: "GATE", cell: (g) => g.name },
    { title: "STATE", cell: (g) => (g.open ? style.green("open") : style.red("closed")) },
    { title: "WHY", cell: (g) => g.why },
  ]);
}
