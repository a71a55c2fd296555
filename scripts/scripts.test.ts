/** What the scripts read from other programs, on what those really print. */
import { describe, expect, test } from "bun:test";
import { packedName } from "./build.ts";
import { lockFaults } from "./check.ts";
import { byRoom, readLcov } from "./coverage.ts";
import { readCounts } from "./test.ts";

test("the counts of bun test are its last ones", () => {
  const text = "(pass) 3 pass\n\n 43 pass\n 1 fail\n 93 expect() calls\nRan 44 tests across 3 files. [39.00ms]\n";
  expect(readCounts(text)).toEqual({ passed: 43, failed: 1 });
  expect(readCounts("panic: out of memory")).toEqual({ passed: 0, failed: 0 });
});

describe("the lock file", () => {
  const lock = (entry: object) => JSON.stringify({ packages: { "": { name: "rota" }, "node_modules/x": entry } });

  test("names no host and has a checksum for every package", () => {
    expect(lockFaults(lock({ version: "1.0.0", integrity: "sha512-abc" }))).toEqual([]);
    expect(lockFaults(lock({ resolved: "https://example.org/x.tgz", integrity: "sha512-abc" }))[0]).toContain(
      "tied to a host",
    );
    expect(lockFaults(lock({ version: "1.0.0" }))).toEqual(["node_modules/x has no sha512 checksum"]);
    expect(lockFaults(lock({ version: "1.0.0", integrity: "sha1-abc" }))[0]).toContain("no sha512");
  });
});

test("npm says what it packed in two ways", () => {
  expect(packedName('[{"filename":"oven-bun-linux-aarch64-1.4.5.tgz"}]')).toBe("oven-bun-linux-aarch64-1.4.5.tgz");
  expect(packedName('[{"filename":"@oven/bun-linux-aarch64-1.4.5.tgz"}]')).toBe("oven-bun-linux-aarch64-1.4.5.tgz");
  expect(packedName('{"@oven/bun":{"filename":"oven-bun-1.tgz"}}')).toBe("oven-bun-1.tgz");
  expect(() => packedName("[]")).toThrow("did not say");
});

test("coverage adds up by room", () => {
  const text =
    "SF:src/turn/a.ts\nLF:10\nLH:9\nend_of_record\nSF:src/turn/b.ts\nLF:10\nLH:1\nend_of_record\nSF:src/main.ts\nLF:2\nLH:0\nend_of_record\n";
  expect([...byRoom(readLcov(text))]).toEqual([
    ["turn", { found: 20, hit: 10 }],
    ["main.ts", { found: 2, hit: 0 }],
  ]);
});
