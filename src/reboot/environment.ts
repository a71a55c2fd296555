/** What programs of the coordinator are told about it: the RC_* variables, and their use in the reboot command. */
import type { RebootSettings } from "./settings.ts";

export interface EnvironmentExtras {
  /** Overrides the setting: `--dry-run`, and always true for commands that only look. */
  readonly dryRun?: boolean;
  /** host:port that metrics are served on. */
  readonly metricsEndpoint?: string;
  readonly skipHealth?: boolean;
  readonly skipLock?: boolean;
}

type Environment = Readonly<Record<string, string>>;

/** The RC_* variables that stand for the configuration (research §2.2); a run of the health script adds its own. */
export function rcEnvironment(settings: RebootSettings, extras: EnvironmentExtras = {}): Environment {
  const { policy, windows } = settings;
  const env: Record<string, string> = {
    RC_NODE_NAME: settings.nodeName,
    RC_DRY_RUN: String(extras.dryRun ?? settings.dryRun),
    RC_LOCK_KEY: settings.lockKey,
    RC_ETCD_ENDPOINTS: settings.etcdEndpoints.join(","),
    RC_KILL_SWITCH_FILE: settings.killSwitchFile,
    RC_CLUSTER_FORBID_IF_ONLY_FALLBACK_LEFT: String(policy.forbidIfOnlyFallbackLeft),
  };
  if (policy.minHealthyFraction !== undefined)
    env["RC_CLUSTER_MIN_HEALTHY_FRACTION"] = String(policy.minHealthyFraction);
  if (policy.minHealthyAbsolute !== undefined)
    env["RC_CLUSTER_MIN_HEALTHY_ABSOLUTE"] = String(policy.minHealthyAbsolute);
  if (policy.fallbackNodes.length > 0) env["RC_CLUSTER_FALLBACK_NODES"] = policy.fallbackNodes.join(",");
  if (windows.allow.length > 0) env["RC_WINDOWS_ALLOW"] = windows.allow.join(",");
  if (windows.deny.length > 0) env["RC_WINDOWS_DENY"] = windows.deny.join(",");
  if (extras.metricsEndpoint !== undefined) env["RC_METRICS_ENDPOINT"] = extras.metricsEndpoint;
  if (extras.skipHealth) env["RC_SKIP_HEALTH"] = "true";
  if (extras.skipLock) env["RC_SKIP_LOCK"] = "true";
  return env;
}

/** The process environment without the RC_* of somebody else, and `rc` on top. */
export function withProcessEnvironment(
  rc: Environment,
  processEnv: Readonly<Record<string, string | undefined>>,
): Environment {
  const inherited = Object.entries(processEnv).filter(
    (entry): entry is [string, string] => entry[1] !== undefined && !entry[0].startsWith("RC_"),
  );
  return { ...Object.fromEntries(inherited), ...rc };
}

/**
 * Every element of `argv` with `$NAME` and `${NAME}` replaced by the value in `rc`, else in `processEnv`, else by nothing. What is no name
 * (`$(`, `$1`, a lone `$`) stays as it is. What a value holds is not expanded again.
 */
export function expandCommand(
  argv: readonly [string, ...string[]],
  rc: Environment,
  processEnv: Readonly<Record<string, string | undefined>>,
): [string, ...string[]] {
  const lookUp = (name: string) =>
    (Object.hasOwn(rc, name) ? rc[name] : Object.hasOwn(processEnv, name) ? processEnv[name] : undefined) ?? "";
  const expand = (element: string) =>
    element.replace(/\$(?:\{([A-Za-z_][A-Za-z0-9_]*)\}|([A-Za-z_][A-Za-z0-9_]*))/g, (_all, braced, bare) =>
      lookUp(braced ?? bare),
    );
  const [program, ...args] = argv;
  return [expand(program), ...args.map(expand)];
}
