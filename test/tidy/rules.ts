/** The rules that keep the rooms apart and the files readable. Each says why, because a rule without a reason is soon broken. */
import { functionsIn, topLevel } from "./blocks.ts";
import { loadedBy, matches, type SourceFile } from "./source.ts";

export interface Finding {
  readonly line: number;
  readonly what: string;
}

export interface Rule {
  readonly name: string;
  readonly why: string;
  check(file: SourceFile, tree: readonly SourceFile[]): Iterable<Finding>;
}

/** Which room may import which; a room may always import itself. */
const ROOMS: Readonly<Record<string, readonly string[]>> = {
  main: ["commands", "kernel", "wire"],
  wire: ["reboot", "update", "cluster", "turn", "store", "platform", "kernel"],
  commands: ["wire", "reboot", "update", "cluster", "turn", "store", "platform", "kernel"],
  reboot: ["turn", "store", "platform", "kernel"],
  update: ["turn", "store", "platform", "kernel"],
  cluster: ["turn", "store", "platform", "kernel"],
  turn: ["store", "platform", "kernel"],
  store: ["kernel"],
  platform: ["kernel"],
  kernel: [],
};

/** A kernel file imports only files above it in this list. */
export const KERNEL_ORDER = [
  "errors",
  "nearest",
  "version",
  "secret",
  "clock",
  "machine-id",
  "windows",
  "yaml",
  "config",
  "log",
  "exec",
  "ssh",
  "certs",
  "metrics",
  "health",
  "notify",
  "http",
];

/** Files that decide and do nothing else. */
export const PURE = [
  "src/reboot/machine.ts",
  "src/update/plan.ts",
  "src/cluster/protocol.ts",
  "src/cluster/address.ts",
  "src/cluster/plan.ts",
  "src/kernel/windows.ts",
];

/** What a pure file may import and run. */
const PURE_VALUES = [...PURE, "src/kernel/errors.ts"];

/** One file for each thing of the outside. `in` are path patterns; everything else in src/ goes without. */
const OUTSIDE: readonly { readonly code: RegExp; readonly in: readonly RegExp[]; readonly why: string }[] = [
  {
    code: /\bBun\.(spawn|spawnSync|\$)\b/,
    in: [/^src\/kernel\/exec\.ts$/],
    why: "programs are started in one place, which gives each a label, a deadline and the end of its whole process group",
  },
  {
    code: /\bDate\.now\b|\bnew Date\(\s*\)|\bDate\(\s*\)|\bMath\.random\b|\bperformance\.now\b|\b(setTimeout|setInterval|setImmediate)\(|\bBun\.(sleep|nanoseconds|randomUUIDv7)\b|\bcrypto\.randomUUID\b|\bprocess\.(hrtime|uptime)\b|\bAbortSignal\.timeout\b/,
    in: [/^src\/kernel\/clock\.ts$/],
    why: "time and chance are arguments: what reads them by itself cannot be simulated (take a Clock)",
  },
  {
    code: /\b(getRandomValues|randomBytes|randomInt|randomFill)\b/,
    in: [/^src\/kernel\/(clock|secret|certs)\.ts$/, /^src\/store\/(users[\w-]*|embedded-file)\.ts$/],
    why: "chance is an argument (take a Clock); only what must not be guessed, or must not compress, is drawn where it is used",
  },
  {
    code: /\bfetch\(|\bnew WebSocket\(/,
    in: [
      /^src\/store\/etcd[\w-]*\.ts$/,
      /^src\/kernel\/(notify|health)\.ts$/,
      /^src\/platform\//,
      /^src\/reboot\/detectors\//,
    ],
    why: "every call to another machine has one home that gives it a deadline and tells its failures apart",
  },
  {
    code: /\bBun\.(serve|listen)\b/,
    in: [/^src\/store\/gateway[\w-]*\.ts$/, /^src\/kernel\/http\.ts$/, /^src\/cluster\/controller\.ts$/],
    why: "every port that we open has one home that limits who may come in, how much, and for how long",
  },
  {
    code: /\bprocess\.umask\b/,
    in: [/^src\/store\/gateway\.ts$/],
    why: "a file is made with the rights that it is to have; only a socket cannot be told them, and is made under a umask for that one moment",
  },
  {
    code: /\bprocess\.(?!(platform|arch|getuid|getgid|pid|umask)\b)|\bBun\.(env|argv|main)\b|\bimport\.meta\.env\b/,
    in: [/^src\/(main|wire)\.ts$/, /^src\/commands\/terminal\.ts$/, /^src\/kernel\/exec\.ts$/],
    why: "what belongs to the process comes in from main and wire, so that a test can run anything in its own process",
  },
];

const OUTSIDE_MODULES: readonly { readonly module: RegExp; readonly in: readonly RegExp[]; readonly why: string }[] = [
  { module: /^(node:)?child_process$/, in: [], why: "programs are started by kernel/exec.ts" },
  {
    module: /^bun:sqlite$/,
    in: [/^src\/store\/embedded[\w-]*\.ts$/, /^src\/update\/journal\.ts$/, /^src\/cluster\/[\w-]*state[\w-]*\.ts$/],
    why: "a database file has one owner, which knows when it is safe on disk",
  },
  { module: /^(node:)?(timers(\/promises)?|worker_threads)$/, in: [], why: "waiting is done by kernel/clock.ts" },
];

const isTest = ({ path }: SourceFile) => path.startsWith("test/") || path.endsWith(".test.ts");
const isProduct = (file: SourceFile) => file.path.startsWith("src/") && !isTest(file);
const room = (path: string) => /^src\/(?:([\w-]+)\/|([\w-]+)\.ts$)/.exec(path)?.slice(1).find(Boolean);
const stem = (path: string) => (path.split("/").pop() ?? "").replace(/(\.test)?\.ts$/, "");

/** All findings of a pattern in the code of product files. */
function ban(name: string, pattern: RegExp, why: string, where: (file: SourceFile) => boolean): Rule {
  return {
    name,
    why,
    *check(file) {
      if (where(file)) for (const { line, text } of matches(file, pattern)) yield { line, what: text.trim() };
    },
  };
}

const rooms: Rule = {
  name: "rooms",
  why: "arrows go one way (main → commands → area → turn → store → kernel) and areas never meet: what joins two is composed in commands/",
  *check(file) {
    const from = room(file.path);
    if (!file.path.startsWith("src/") || from === undefined || stem(file.path) === "tidy") return;
    for (const { target, line } of file.imports) {
      if (target === undefined || (isTest(file) && target.startsWith("test/"))) continue;
      const to = room(target);
      if (to === from || (to !== undefined && ROOMS[from]?.includes(to))) continue;
      yield { line, what: `${from} imports ${to ?? target}` };
    }
  },
};

const kernelOrder: Rule = {
  name: "kernel order",
  why: "a kernel file imports only files above it in KERNEL_ORDER, so there is no cycle and every file can be read after the ones before it",
  *check(file) {
    if (!/^src\/kernel\//.test(file.path) || isTest(file)) return;
    const own = KERNEL_ORDER.indexOf(stem(file.path));
    if (own < 0) yield { line: 1, what: "not in KERNEL_ORDER" };
    for (const { target, line } of file.imports) {
      if (target === undefined || room(target) !== "kernel") continue;
      if (KERNEL_ORDER.indexOf(stem(target)) >= own)
        yield { line, what: `imports ${stem(target)}, which stands below it` };
    }
  },
};

const pure: Rule = {
  name: "pure",
  why: "a pure file decides from what it is given and does nothing else: so it can be tried on any state, replayed, and shown as a dry run",
  *check(file) {
    if (!PURE.includes(file.path)) return;
    const banned =
      /\bawait\b|\basync\b|\bPromise\b|\bBun\b|\bprocess\b|\bDate\.now\b|\bnew Date\(\s*\)|\bMath\.random\b|\bperformance\b|\bcrypto\b|\bset(Timeout|Interval|Immediate)\b|\bfetch\b|\bconsole\b/;
    for (const { text, line } of matches(file, banned)) yield { line, what: text };
    for (const { specifier, target, typeOnly, line } of file.imports) {
      if (/^(node|bun):/.test(specifier) || specifier === "bun") yield { line, what: specifier };
      else if (!typeOnly && target !== undefined && !PURE_VALUES.includes(target))
        yield { line, what: `runs code of ${target}` };
    }
  },
};

const outside: Rule = {
  name: "one file per outside thing",
  why: "each thing of the outside has one home",
  *check(file) {
    if (!isProduct(file)) return;
    for (const { code, in: homes, why } of OUTSIDE) {
      if (homes.some((home) => home.test(file.path))) continue;
      for (const { text, line } of matches(file, code)) yield { line, what: `${text.trim()}: ${why}` };
    }
    for (const { specifier, line, typeOnly } of file.imports)
      for (const { module, in: homes, why } of OUTSIDE_MODULES)
        if (module.test(specifier) && !typeOnly && !homes.some((home) => home.test(file.path)))
          yield { line, what: `${specifier}: ${why}` };
  },
};

const moduleState: Rule = {
  name: "no state and no work in a module",
  why: "a module variable is shared by everything in the process, tests included; work at import is paid by every command",
  *check(file) {
    if (!isProduct(file) || file.path === "src/main.ts") return;
    for (const { text, line } of topLevel(file)) {
      if (/^(export\s+)?(declare\s+)?(let|var)\b/.test(text) && !/\bdeclare\b/.test(text))
        yield { line, what: `${text.slice(0, 40)} …` };
      if (/^(await\b|for\b|if\b|while\b|try\b|void\b|[\w.]+\()/.test(text))
        yield { line, what: `${text.slice(0, 40)} … at import` };
    }
  },
};

const barrels: Rule = {
  name: "no barrels",
  why: "a file that passes on others loads all of them for whoever wants one, and hides where a thing lives",
  *check(file) {
    if (!isProduct(file)) return;
    if (stem(file.path) === "index" && file.path !== "src/commands/index.ts") yield { line: 1, what: "index.ts" };
    for (const { reexport, specifier, line } of file.imports)
      if (reexport) yield { line, what: `export … from "${specifier}"` };
  },
};

const specifiers: Rule = {
  name: "import specifiers end in .ts",
  why: "what is imported is a file, and its name is its name: no resolver guesses",
  *check(file) {
    for (const { specifier, target, line } of file.imports)
      if (target !== undefined && !/\.(ts|json|wasm)$/.test(specifier)) yield { line, what: specifier };
  },
};

const cycles: Rule = {
  name: "no import cycles",
  why: "in a cycle nobody can say which file is read first, by people or by the runtime",
  *check(file, tree) {
    if (!isProduct(file)) return;
    for (const { specifier, target, typeOnly, dynamic, line } of file.imports)
      if (target !== undefined && !typeOnly && !dynamic && loadedBy(target, tree).has(file.path))
        yield { line, what: `${specifier} leads back here` };
  },
};

const drawers: Rule = {
  name: "no drawers",
  why: "a name that says nothing collects everything; name a file after what it knows",
  *check(file) {
    for (const part of file.path.replace(/(\.test)?\.ts$/, "").split("/"))
      if (/^(utils?|lib|helpers?|common|misc|shared|types)$/.test(part)) yield { line: 1, what: part };
  },
};

const sizes: Rule = {
  name: "sizes",
  why: "a file of 400 lines (a test of 800) and a function of 70 are what a reader can hold; find the part that has a name of its own",
  *check(file) {
    const lines = file.text.split("\n").length - 1;
    const most = isTest(file) ? 800 : 400;
    if (lines >= most) yield { line: most, what: `${lines} lines in the file` };
    if (isTest(file)) return;
    for (const { line, lines: length } of functionsIn(file))
      if (length >= 70) yield { line, what: `a function of ${length} lines` };
  },
};

const comments: Rule = {
  name: "comments",
  why: "the first lines of a file say what it is for, and what a function promises stands above it",
  *check(file) {
    if (!/^(#!.*\n)?\/[/*]/.test(file.text)) yield { line: 1, what: "does not begin with a comment" };
    if (!isProduct(file)) return;
    const lines = file.text.split("\n");
    for (const { line } of matches(file, /^export (async )?function\b/m)) {
      const [above = "", text = ""] = lines.slice(line - 2, line);
      // What a command promises stands in its summary, which is also its help.
      const isCommandBody = file.path.startsWith("src/commands/") && /\(ctx\b|ContextOf</.test(text);
      if (!isCommandBody && !/(\*\/|\/\/.*)$/.test(above))
        yield { line, what: "an exported function without a comment" };
    }
  },
};

const leftovers: Rule = {
  name: "no leftovers",
  why: "what is left to do is an issue; a note in the code is where it is forgotten",
  *check(file) {
    const words = new RegExp(`\\b(${["TO" + "DO", "FIX" + "ME", "X".repeat(3), "HA" + "CK"].join("|")})\\b`);
    for (const [i, text] of file.text.split("\n").entries())
      if (words.test(text)) yield { line: i + 1, what: text.trim() };
  },
};

/** Every rule, in the order in which its findings are told. */
export const RULES: readonly Rule[] = [
  rooms,
  kernelOrder,
  pure,
  outside,
  moduleState,
  barrels,
  specifiers,
  cycles,
  drawers,
  sizes,
  comments,
  leftovers,
  ban("no default exports", /\bexport default\b/, "a thing has one name, the same everywhere", () => true),
  ban(
    "no mock.module",
    /\bmock\.module\b/,
    "it changes the module for every test of the process: pass a fake as an argument",
    () => true,
  ),
  ban(
    "no skipped tests",
    /\b(test|it|describe)(\.\w+)*\.(skip|todo|only|skipIf|todoIf|if|failing)\b/,
    "a test that does not run proves nothing: mend it, or delete it and say why",
    () => true,
  ),
];

/** All findings in a tree, one line each: where, which rule, what, and why it is one. */
export function tidy(tree: readonly SourceFile[], rules: readonly Rule[] = RULES): string[] {
  return tree.flatMap((file) =>
    rules.flatMap((rule) =>
      [...rule.check(file, tree)].map(
        ({ line, what }) => `${file.path}:${line}: ${rule.name}: ${what}\n    why: ${rule.why}`,
      ),
    ),
  );
}
