/** Who this machine is: stable, its own, and never the id itself. */
import { describe, expect, test } from "bun:test";
import { Fault } from "./errors.ts";
import { bootId, machineIdentity } from "./machine-id.ts";

const holding = (text: string) => () => text;
const missing = () => {
  throw Object.assign(new Error("ENOENT: no such file or directory"), { code: "ENOENT" });
};
const id = "b08dfa6083e7567a1921a715000001fb";

function faultFrom(work: () => unknown): Fault {
  try {
    work();
  } catch (error) {
    if (error instanceof Fault) return error;
    throw error;
  }
  throw new Error("no fault was thrown");
}

describe("machine identity", () => {
  test("32 hexadecimal characters, the same every time, another for another machine, and not the id", () => {
    const identity = machineIdentity("/f", holding(`${id}\n`));
    expect(identity).toMatch(/^[0-9a-f]{32}$/);
    expect(identity).not.toContain(id);
    expect(machineIdentity("/f", holding(id.toUpperCase()))).toBe(identity);
    expect(machineIdentity("/f", holding(id.replace("b", "c")))).not.toBe(identity);
  });

  test("never changes between versions: turns are held in its name", () => {
    expect(machineIdentity("/f", holding(id))).toBe("b119ae511bf9262b3e2413921d491759");
  });

  test.each([
    ["missing", missing, "cannot read the machine id from /etc/machine-id: ENOENT: no such file or directory"],
    ["empty", holding("\n"), "/etc/machine-id is empty; it must hold the machine id"],
    [
      "uninitialized",
      holding("uninitialized\n"),
      '/etc/machine-id says "uninitialized": this image has not finished its first boot',
    ],
    ["two lines", holding("a\nb\n"), "/etc/machine-id holds more than one line; it must hold the machine id alone"],
  ] as const)("refused when %s", (_name, read, message) => {
    const fault = faultFrom(() => machineIdentity(undefined, read));
    expect(fault).toMatchObject({ kind: "machine.no-id", exitCode: 2 });
    expect([fault.message, (fault.cause as Error | undefined)?.message].filter(Boolean).join(": ")).toBe(message);
  });
});

describe("boot id", () => {
  test("the line in the file", () => {
    expect(bootId("/f", holding("7b3c2f0e-5a0d-4d5c-9a43-0b3b1f7e6c11\n"))).toBe(
      "7b3c2f0e-5a0d-4d5c-9a43-0b3b1f7e6c11",
    );
    expect(bootId()).toMatch(/^[0-9a-f-]{36}$/);
  });

  test("refused when it cannot be had", () => {
    expect(faultFrom(() => bootId("/f", missing))).toMatchObject({ kind: "machine.no-boot-id", exitCode: 2 });
    expect(faultFrom(() => bootId("/f", holding("")))).toMatchObject({ kind: "machine.no-boot-id" });
  });
});
