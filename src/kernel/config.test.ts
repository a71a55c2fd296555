/** Files joined, defaults filled in, rules asked, and every fault told at once. */
import { describe, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import * as z from "zod/mini";
import {
  absolutePath,
  ConfigFault,
  type ConfigFiles,
  type ConfigOptions,
  configSources,
  inWords,
  loadConfig,
  realFiles,
  secret,
  text,
  type ValuesOf,
  whole,
} from "./config.ts";
import { Fault } from "./errors.ts";
import { Secret } from "./secret.ts";

const shape = {
  name: text(),
  script: z.optional(absolutePath()),
  low: z._default(whole(1), 5),
  high: z._default(whole(1, 100), 60),
  list: z._default(z.array(text()), ["standard"]),
  kind: z.optional(z.enum(["a", "b"])),
  items: z.optional(
    z.array(z.object({ type: text(), size: z.optional(whole(1)) })).check(z.minLength(1, "must name at least one")),
  ),
  auth: z.optional(z.object({ user: text(), password: z.optional(secret()) })),
};
type Values = ValuesOf<typeof shape>;

const options: ConfigOptions<Values> = {
  emptyIsDefault: ["low", "list"],
  rules: [
    {
      needs: ["low", "high"],
      check: ({ low, high }, complain) => {
        if (low > high) complain(["high"], `must be at least low (${low})`);
      },
    },
    {
      needs: ["items"],
      check: ({ items }, complain) => {
        for (const [index, item] of (items ?? []).entries())
          if (item.type === "odd") complain(["items", index, "size"], "is required for odd ones");
      },
    },
  ],
};
const load = (...texts: [string, ...string[]]) => {
  const [first, ...rest] = texts.map((text, index) => ({ name: `${index}.yaml`, text }));
  return loadConfig([first as { name: string; text: string }, ...rest], shape, options);
};

function complaints(...texts: [string, ...string[]]): string[] {
  try {
    load(...texts);
  } catch (error) {
    if (error instanceof ConfigFault) return error.message.split("\n");
    throw error;
  }
  return [];
}

describe("values", () => {
  test("defaults are filled in; null stands for the default", () => {
    const expected = { name: "n", low: 5, high: 60, list: ["standard"] };
    expect(load("name: n").values).toEqual(expected as Values);
    expect(load("name: n\nlow:\nhigh: ~\nlist: null\nauth:\n").values).toEqual(expected as Values);
    expect(load("name: n").warnings).toEqual([]);
  });

  test("where the original took an empty value for the default, so do we, and say it", () => {
    const { values, warnings } = load("name: n\nlow: 0\nlist: []\n");
    expect(values).toMatchObject({ low: 5, list: ["standard"] });
    expect(warnings.map(inWords)).toEqual([
      "0.yaml:2:6: low: is empty (0), which stands for the default, 5; leave the key out to say that",
      '0.yaml:3:7: list: is empty ([]), which stands for the default, ["standard"]; leave the key out to say that',
    ]);
    expect(complaints("name: n\nhigh: 0\n")).toEqual(["0.yaml:2:7: high: must be from 1 to 100"]);
  });

  test("a secret arrives as one", () => {
    const { values } = load("name: n\nauth: {user: u, password: hunter2}\n");
    expect(values.auth?.password).toBeInstanceOf(Secret);
    expect(values.auth?.password?.reveal()).toBe("hunter2");
    expect(JSON.stringify(values)).not.toContain("hunter2");
  });
});

describe("faults", () => {
  test("all at once, in the order of the file, each with file, line, column and key", () => {
    const yaml =
      'nmae: n\nscript: relative.sh\nlow: 70\nhigh: "60"\nlist: [""]\nkind: c\nitems:\n  - size: 0\n  - type: odd\nauth:\n  password: [x]\n';
    expect(complaints(yaml)).toEqual([
      '0.yaml:1:1: nmae: there is no such key; did you mean "name"?',
      "0.yaml:1:1: name: is required",
      "0.yaml:2:9: script: must be an absolute path (one that begins with /)",
      '0.yaml:4:7: high: must be a whole number without quotes, not "60"',
      "0.yaml:5:8: list[0]: must not be empty",
      "0.yaml:6:7: kind: must be one of a, b",
      "0.yaml:8:5: items[0].type: is required",
      "0.yaml:8:11: items[0].size: must be 1 or more",
      "0.yaml:11:3: auth.user: is required",
      "0.yaml:11:13: auth.password: must be a text, not a list",
    ]);
  });

  test("a rule is asked when the keys that it needs are without fault", () => {
    expect(complaints("name: n\nlow: 70\n")).toEqual(["0.yaml:1:1: high: must be at least low (70)"]);
    expect(complaints("name: n\nlow: 70\nhigh: x\n")).toEqual(["0.yaml:3:7: high: must be a whole number, not x"]);
    expect(complaints("name: n\nitems: [{type: odd}]\n")).toEqual([
      "0.yaml:2:9: items[0].size: is required for odd ones",
    ]);
    expect(complaints("name: n\nitems: []\n")).toEqual(["0.yaml:2:8: items: must name at least one"]);
  });

  test("an empty file says so and nothing else", () => {
    expect(complaints("# nothing\n")).toEqual([
      "0.yaml:1:1: the file is empty; it must at least name the required keys",
    ]);
  });

  test("a file that is not YAML is not also accused of what it lacks", () => {
    const found = complaints("name: 'n\n");
    expect(found).toHaveLength(1);
    expect(found[0]).toStartWith("0.yaml:2:1: something is missing here");
  });

  test("the fault has a stable kind and the exit code for a configuration", () => {
    try {
      load("");
      throw new Error("was accepted");
    } catch (error) {
      expect(error).toMatchObject({ kind: "config.invalid", exitCode: 2, retry: "never" });
      expect((error as ConfigFault).complaints).toHaveLength(1);
    }
  });
});

describe("several files", () => {
  test("a later one wins for single values and lists; groups of keys are joined", () => {
    const { values } = load(
      "name: a\nlow: 2\nlist: [x, y]\nauth: {user: u}\n",
      "name: b\nlist: [z]\n",
      "# nothing\n",
      "auth: {password: p}\nlow:\n",
    );
    expect(values).toMatchObject({ name: "b", list: ["z"], low: 5, auth: { user: "u" } });
    expect(values.auth?.password?.reveal()).toBe("p");
  });

  test("each fault names the file that it stands in, and a value that lost is checked too", () => {
    expect(complaints("name: a\nlow: x\nauth: {user: u}\n", "low: 3\nauth: {pasword: p}\n", "high: 1\n")).toEqual([
      "0.yaml:2:6: low: must be a whole number, not x",
      '1.yaml:2:8: auth.pasword: there is no such key; did you mean "password"?',
      "2.yaml:1:7: high: must be at least low (3)",
    ]);
  });

  test("they are the file and the *.yaml of config.d beside it, by name", () => {
    const dir = mkdtempSync(join(tmpdir(), "rota-config-"));
    try {
      const main = join(dir, "config.yaml");
      writeFileSync(main, "name: a\n");
      expect(configSources(main, realFiles)).toEqual([{ name: main, text: "name: a\n" }]);
      mkdirSync(join(dir, "config.d"));
      for (const name of ["20-b.yaml", "10-a.yaml", "README", ".hidden.yaml", "30-c.yaml~"])
        writeFileSync(join(dir, "config.d", name), `# ${name}\n`);
      expect(configSources(main, realFiles).map((source) => source.name)).toEqual([
        main,
        join(dir, "config.d/10-a.yaml"),
        join(dir, "config.d/20-b.yaml"),
      ]);
      writeFileSync(join(dir, "config.d/40-gate.yml"), "low: 1\n");
      expect(() => configSources(main, realFiles)).toThrow(
        `${join(dir, "config.d/40-gate.yml")}:1:1: only files whose names end in .yaml are read here`,
      );
    } finally {
      rmSync(dir, { recursive: true, force: true });
    }
  });

  test("what cannot be read is a fault of its own", () => {
    const files: ConfigFiles = {
      read: () => {
        throw Object.assign(new Error("EACCES: permission denied"), { code: "EACCES" });
      },
      list: () => [],
    };
    const attempt = (on: ConfigFiles) => {
      try {
        configSources("/etc/x.yaml", on);
      } catch (error) {
        return error as Fault;
      }
      throw new Error("was read");
    };
    expect(attempt(files)).toMatchObject({
      kind: "config.unreadable",
      exitCode: 2,
      message: "cannot read the configuration /etc/x.yaml",
    });
    expect(attempt({ read: () => "", list: files.read as never })).toMatchObject({ kind: "config.unreadable" });
  });
});

test("any text at all is values or a Fault", () => {
  const key = fc.constantFrom("name", "low", "high", "list", "items", "auth", "nmae", "- type");
  const value = fc.constantFrom(
    "",
    " x",
    " 5",
    " [a]",
    " {user: u}",
    " [{type: odd}]",
    ' "',
    " *a",
    " &a 1",
    " !x y",
    "\n  - type: a",
    "\n  user: u",
    "\n  x",
  );
  const lines = fc
    .array(fc.tuple(key, value), { maxLength: 8 })
    .map((pairs) => pairs.map(([k, v]) => `${k}:${v}`).join("\n"));
  fc.assert(
    fc.property(fc.oneof(lines, fc.string({ unit: "binary" })), fc.oneof(lines, fc.string()), (first, second) => {
      try {
        load(first, second);
      } catch (error) {
        expect(error).toBeInstanceOf(Fault);
      }
    }),
    { numRuns: 2000 },
  );
});
