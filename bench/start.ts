/** How long a program takes from being started to having ended: `bun bench/start.ts [RUNS] [-- PROGRAM ARGS…]`. */
const root = new URL("..", import.meta.url).pathname;
const split = process.argv.indexOf("--");
const runs = Number(process.argv[2] ?? "60") || 60;
const given = split < 0 ? [] : [process.argv.slice(split + 1)];
const programs = given.length > 0 ? given : [["/bin/true"], [`${root}dist/rota-linux-${process.arch}`, "version"]];

console.log(`${"program".padEnd(44)}${"median".padStart(10)}${"best".padStart(10)}${"p90".padStart(10)}`);
for (const argv of programs) {
  const times: number[] = [];
  for (let i = 0; i < runs + 5; i++) {
    const start = performance.now();
    const { exitCode } = Bun.spawnSync(argv, { stdout: "ignore", stderr: "ignore" });
    // The first few fill the page cache.
    if (i >= 5) times.push(performance.now() - start);
    if (exitCode !== 0) throw new Error(`${argv.join(" ")} ended with ${exitCode}`);
  }
  times.sort((a, b) => a - b);
  const at = (share: number) => `${(times[Math.floor((times.length - 1) * share)] ?? 0).toFixed(2)} ms`.padStart(10);
  const shown = argv.join(" ").replace(root, "");
  console.log(`${shown.padEnd(44)}${at(0.5)}${at(0)}${at(0.9)}`);
}
