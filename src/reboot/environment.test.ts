/** The RC_* variables, and how the reboot command uses them. */
// biome-ignore-all lint/suspicious/noTemplateCurlyInString: variables in the style of a shell are what is tested here.
import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { expandCommand, rcEnvironment, withProcessEnvironment } from "./environment.ts";
import type { RebootSettings } from "./settings.ts";

const settings = {
  nodeName: "web-1",
  dryRun: false,
  lockKey: "/lock",
  etcdEndpoints: ["http://a:2379", "http://b:2379"],
  killSwitchFile: "/etc/reboot-coordinator/disable",
  policy: { forbidIfOnlyFallbackLeft: false, fallbackNodes: [] },
  windows: { allow: [], deny: [] },
} as unknown as RebootSettings;

describe("RC_*", () => {
  test("what is always there", () => {
    expect(rcEnvironment(settings)).toEqual({
      RC_NODE_NAME: "web-1",
      RC_DRY_RUN: "false",
      RC_LOCK_KEY: "/lock",
      RC_ETCD_ENDPOINTS: "http://a:2379,http://b:2379",
      RC_KILL_SWITCH_FILE: "/etc/reboot-coordinator/disable",
      RC_CLUSTER_FORBID_IF_ONLY_FALLBACK_LEFT: "false",
    });
  });

  test("what is there when it is set", () => {
    const policy = {
      minHealthyFraction: 0.5,
      minHealthyAbsolute: 2,
      forbidIfOnlyFallbackLeft: true,
      fallbackNodes: ["a", "b"],
    };
    const full = { ...settings, policy, windows: { allow: ["Mon 01:00-02:00"], deny: ["x", "y"] } };
    expect(
      rcEnvironment(full, { dryRun: true, metricsEndpoint: "127.0.0.1:9090", skipHealth: true, skipLock: true }),
    ).toMatchObject({
      RC_DRY_RUN: "true",
      RC_CLUSTER_MIN_HEALTHY_FRACTION: "0.5",
      RC_CLUSTER_MIN_HEALTHY_ABSOLUTE: "2",
      RC_CLUSTER_FORBID_IF_ONLY_FALLBACK_LEFT: "true",
      RC_CLUSTER_FALLBACK_NODES: "a,b",
      RC_WINDOWS_ALLOW: "Mon 01:00-02:00",
      RC_WINDOWS_DENY: "x,y",
      RC_METRICS_ENDPOINT: "127.0.0.1:9090",
      RC_SKIP_HEALTH: "true",
      RC_SKIP_LOCK: "true",
    });
  });

  test("on top of the process environment; RC_* that the daemon was started with do not get through", () => {
    expect(
      withProcessEnvironment(
        { RC_NODE_NAME: "web-1" },
        { PATH: "/bin", GONE: undefined, RC_SKIP_LOCK: "true", RC_NODE_NAME: "x" },
      ),
    ).toEqual({
      PATH: "/bin",
      RC_NODE_NAME: "web-1",
    });
  });
});

describe("the reboot command", () => {
  const rc = { RC_NODE_NAME: "web-1", RC_EMPTY: "" };
  const env = { HOME: "/root", RC_NODE_NAME: "shadowed", RC_EMPTY: "shadowed" };
  test.each([
    ["$RC_NODE_NAME", "web-1"],
    ["${RC_NODE_NAME}", "web-1"],
    ["<${RC_NODE_NAME}x>", "<web-1x>"],
    ["$RC_NODE_NAMEx", ""],
    ["$RC_NODE_NAME$HOME", "web-1/root"],
    ["$RC_EMPTY", ""],
    ["$UNKNOWN!", "!"],
    ["$(id)", "$(id)"],
    ["`id`", "`id`"],
    ["a$", "a$"],
    ["$$", "$$"],
    ["$1 ${1} ${}", "$1 ${1} ${}"],
    ["${RC_NODE_NAME", "${RC_NODE_NAME"],
    ["${RC_NODE_NAME:-x}", "${RC_NODE_NAME:-x}"],
    ["$toString$__proto__$constructor", ""],
  ])("%s is %s", (given, expected) => {
    expect(expandCommand(["x", given], rc, env)).toEqual(["x", expected]);
  });

  test("the number of arguments never changes, and what a value holds is not looked at again", () => {
    fc.assert(
      fc.property(fc.array(fc.string()), fc.string(), (args, value) => {
        expect(expandCommand(["$V", ...args], {}, {})).toHaveLength(args.length + 1);
        expect(expandCommand(["$V", "${V}"], { V: value }, {})).toEqual([value, value]);
      }),
    );
  });

  test("a text without a dollar sign stays as it is", () => {
    fc.assert(
      fc.property(fc.string(), (text) => {
        const bare = text.replaceAll("$", "");
        expect(expandCommand([bare], rc, env)).toEqual([bare]);
      }),
    );
  });
});
