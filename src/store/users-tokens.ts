/** Log-ins to the embedded store: passwords checked few at a time, guessing slowed down, tokens that run out when unused. */
import type { Clock } from "../kernel/clock.ts";
import type { Log } from "../kernel/log.ts";
import { refuse } from "./status.ts";

/** A token that was not used for this long is gone (etcd's --auth-token-ttl). */
const TOKEN_MS = 300_000;
/** Tokens kept at most; the longest unused goes first. */
const MOST_TOKENS = 10_000;
/** Passwords checked at the same time, and requests that may wait for it. */
const MOST_CHECKS = 2;
const MOST_WAITING = 256;
/** Wrong passwords from one address before it has to wait, doubling from the first to the longest wait, ms. */
const FREE_TRIES = 5;
const FIRST_WAIT_MS = 1000;
const LONGEST_WAIT_MS = 60_000;
/** What is logged of a name that anybody may have made up. */
const LONGEST_LOGGED = 64;
/** Addresses remembered at most. */
const MOST_ADDRESSES = 10_000;

export interface Login {
  readonly name: string;
  readonly password: string;
  /** The address that the request came from. */
  readonly from: string;
  /** The user's hash now; undefined when there is no such user. */
  hash(): string | undefined;
}

export class Tokens {
  readonly #clock: Clock;
  readonly #log: Log;
  /** In the order of their last use. */
  readonly #tokens = new Map<string, { name: string; until: number }>();
  readonly #failures = new Map<string, { count: number; until: number }>();
  readonly #waiting: (() => void)[] = [];
  #checking = 0;
  #nobody: Promise<string> | undefined;

  constructor(clock: Clock, log: Log) {
    this.#clock = clock;
    this.#log = log;
  }

  /** A new token, or etcd's "authentication failed"; "too many requests" when too many are guessing. */
  async issue(login: Login): Promise<string> {
    this.#brake(login.from);
    await this.#enter();
    try {
      // Looked at again: others from the same address may have failed while this one waited.
      this.#brake(login.from);
      // Who does not exist costs as much time as who does, so that names cannot be found by the clock.
      this.#nobody ??= Bun.password.hash(this.#clock.uuid(), { algorithm: "bcrypt", cost: 10 });
      const hash = login.hash();
      const right = await Bun.password.verify(
        login.password === "" ? " " : login.password,
        hash ?? (await this.#nobody),
      );
      // The password may have been changed meanwhile.
      if (!right || hash === undefined || login.password === "" || hash !== login.hash()) throw this.#failed(login);
    } finally {
      this.#leave();
    }
    this.#failures.delete(login.from);
    const token = `${this.#clock.uuid()}${this.#clock.uuid()}`.replaceAll("-", "");
    this.#keep(token, login.name);
    return token;
  }

  /** Whose token it is; using it keeps it alive. */
  holder(token: string): string | undefined {
    const known = this.#tokens.get(token);
    if (known === undefined) return undefined;
    this.#tokens.delete(token);
    if (known.until <= this.#clock.monotonic()) return undefined;
    this.#keep(token, known.name);
    return known.name;
  }

  /** Ends all tokens of a user. */
  forget(name: string): void {
    for (const [token, known] of this.#tokens) if (known.name === name) this.#tokens.delete(token);
  }

  #keep(token: string, name: string): void {
    this.#tokens.set(token, { name, until: this.#clock.monotonic() + TOKEN_MS });
    trim(this.#tokens, MOST_TOKENS);
  }

  #brake(from: string): void {
    const failures = this.#failures.get(from);
    if (failures !== undefined && failures.until > this.#clock.monotonic()) throw refuse("tooManyRequests");
  }

  #failed(login: Login): Error {
    const count = (this.#failures.get(login.from)?.count ?? 0) + 1;
    const over = count - FREE_TRIES;
    const wait = over < 0 ? 0 : Math.min(LONGEST_WAIT_MS, FIRST_WAIT_MS * 2 ** Math.min(over, 10));
    this.#failures.delete(login.from);
    this.#failures.set(login.from, { count, until: this.#clock.monotonic() + wait });
    trim(this.#failures, MOST_ADDRESSES);
    this.#log("warn", "store_login_failed", "a user name or password was wrong", {
      user: login.name.slice(0, LONGEST_LOGGED),
      from: login.from,
      count,
    });
    return refuse("authFailed");
  }

  async #enter(): Promise<void> {
    if (this.#checking < MOST_CHECKS) {
      this.#checking++;
      return;
    }
    if (this.#waiting.length >= MOST_WAITING) throw refuse("tooManyRequests");
    await new Promise<void>((resolve) => this.#waiting.push(resolve));
  }

  /** The place goes straight to the next in line. */
  #leave(): void {
    const next = this.#waiting.shift();
    if (next === undefined) this.#checking--;
    else next();
  }
}

function trim(map: Map<string, unknown>, most: number): void {
  for (const key of map.keys()) {
    if (map.size <= most) return;
    map.delete(key);
  }
}
