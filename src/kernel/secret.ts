/** A value that must not be seen: it prints as *** wherever it is printed, and only `reveal()` gives it. */

const MASK = "***";

export class Secret {
  readonly #value: string;

  constructor(value: string) {
    this.#value = value;
  }

  /** The value itself, for the one place that needs it. */
  reveal(): string {
    return this.#value;
  }

  toString(): string {
    return MASK;
  }

  toJSON(): string {
    return MASK;
  }

  /** For Bun.inspect, console.log and node:util. */
  [Symbol.for("nodejs.util.inspect.custom")](): string {
    return MASK;
  }
}
