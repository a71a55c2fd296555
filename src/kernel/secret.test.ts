/** A secret stays one, however it is printed. */
import { expect, test } from "bun:test";
import { inspect } from "node:util";
import { Secret } from "./secret.ts";

test("prints as *** everywhere, and reveals itself when asked", () => {
  const secret = new Secret("hunter2");
  const everywhere = [
    String(secret),
    `${secret}`,
    JSON.stringify({ secret }),
    inspect(secret),
    inspect({ deep: [secret] }, { depth: 5 }),
    Bun.inspect({ secret }),
    Object.values(secret).join(),
    String(new Error(`cannot log in with ${secret}`)),
  ];
  expect(everywhere.join("\n")).not.toContain("hunter2");
  expect(JSON.stringify({ secret })).toBe('{"secret":"***"}');
  expect(secret.reveal()).toBe("hunter2");
});
