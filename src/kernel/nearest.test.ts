/** A slip of the hand is recognised, another word is not. */
import { expect, test } from "bun:test";
import { nearest } from "./nearest.ts";

const known = ["lock_key", "lock_ttl_sec", "windows", "dry_run", "json"];

test.each([
  ["lokc_key", "lock_key"],
  ["lock_tll_sec", "lock_ttl_sec"],
  ["DRY_RUN", "dry_run"],
  ["jsno", "json"],
  ["window", "windows"],
  ["metrics", undefined],
  ["x", undefined],
  ["", undefined],
])("%s → %p", (word, expected) => {
  expect(nearest(word, known)).toBe(expected);
});
