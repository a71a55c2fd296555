/** The embedded store's tables and every SQL statement on them: the present (kv), the past until compaction (history), leases, facts. */
import type { Database } from "bun:sqlite";
import { Fault } from "../kernel/errors.ts";
import type { Bytes } from "./bytes.ts";
import type { EngineEvent, Row } from "./embedded-types.ts";
import type { Int64 } from "./store.ts";

/** Version of the schema below, kept in PRAGMA user_version. */
const SCHEMA = 1;

/** history.id = revision * STRIDE + place in the transaction: one number orders all writes, and revisions still reach 2^33. */
export const STRIDE = 2 ** 20;

const CREATE = `
CREATE TABLE kv(key TEXT PRIMARY KEY, value TEXT NOT NULL, created INTEGER NOT NULL, modified INTEGER NOT NULL,
  version INTEGER NOT NULL, lease TEXT NOT NULL) WITHOUT ROWID;
CREATE INDEX kv_lease ON kv(lease) WHERE lease <> '0';
CREATE TABLE history(id INTEGER PRIMARY KEY, key TEXT NOT NULL, value TEXT NOT NULL, created INTEGER NOT NULL,
  version INTEGER NOT NULL, lease TEXT NOT NULL, deleted INTEGER NOT NULL);
CREATE INDEX history_key ON history(key, id);
CREATE TABLE lease(id TEXT PRIMARY KEY, ttl INTEGER NOT NULL, owner TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE fact(name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
PRAGMA user_version = ${SCHEMA};
`;

interface Past extends Row {
  readonly id: number;
  readonly deleted: number;
}

const ROW = "key, value, created, modified, version, lease";
const PAST = `key, value, created, id / ${STRIDE} AS modified, version, lease, id, deleted`;
const HERE = "key >= ?1 AND key < ?2";
/** A text that sorts after every byte string: its first character is above U+00FF. */
const AFTER_ALL = "\u{10ffff}";

/** Makes the tables when the database is empty; refuses a file written by a newer Rota (`store.newer`). */
function migrate(db: Database): void {
  const { user_version: version } = db.query<{ user_version: number }, []>("PRAGMA user_version").get() ?? {
    user_version: 0,
  };
  if (version === SCHEMA) return;
  if (version > SCHEMA)
    throw new Fault("store.newer", `the store's file has format ${version}, this program knows up to ${SCHEMA}`);
  db.transaction(() => db.run(CREATE)).immediate();
}

/** Statements prepared once; all of it is synchronous. */
export class Tables {
  readonly #statements: { finalize(): void }[] = [];
  readonly #begin;
  readonly #commit;
  readonly #rollback;
  readonly #get;
  readonly #range;
  readonly #keys;
  readonly #count;
  readonly #put;
  readonly #drop;
  readonly #remember;
  readonly #asOf;
  readonly #since;
  readonly #forget;
  readonly #leased;

  readonly db: Database;

  constructor(db: Database) {
    this.db = db;
    migrate(db);
    this.#begin = this.#prepare("BEGIN IMMEDIATE");
    this.#commit = this.#prepare("COMMIT");
    this.#rollback = this.#prepare("ROLLBACK");
    this.#get = this.#prepare<Row, [Bytes]>(`SELECT ${ROW} FROM kv WHERE key = ?1`);
    this.#range = this.#prepare<Row, [Bytes, Bytes, number]>(
      `SELECT ${ROW} FROM kv WHERE ${HERE} ORDER BY key LIMIT ?3`,
    );
    this.#keys = this.#prepare<Row, [Bytes, Bytes, number]>(
      `SELECT key, '' AS value, created, modified, version, lease FROM kv WHERE ${HERE} ORDER BY key LIMIT ?3`,
    );
    this.#count = this.#prepare<{ n: number }, [Bytes, Bytes]>(`SELECT count(*) AS n FROM kv WHERE ${HERE}`);
    this.#put = this.#prepare<unknown, [Bytes, Bytes, number, number, number, Int64]>(
      `INSERT INTO kv(${ROW}) VALUES(?1, ?2, ?3, ?4, ?5, ?6)
       ON CONFLICT(key) DO UPDATE SET value = ?2, modified = ?4, version = ?5, lease = ?6`,
    );
    this.#drop = this.#prepare<unknown, [Bytes]>("DELETE FROM kv WHERE key = ?1");
    this.#remember = this.#prepare<unknown, [number, Bytes, Bytes, number, number, Int64, number]>(
      "INSERT INTO history(id, key, value, created, version, lease, deleted) VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    );
    this.#asOf = this.#prepare<Past, [Bytes, Bytes, number]>(
      `SELECT ${PAST} FROM history h WHERE ${HERE} AND id < ?3 AND deleted = 0 AND NOT EXISTS
       (SELECT 1 FROM history n WHERE n.key = h.key AND n.id > h.id AND n.id < ?3) ORDER BY key`,
    );
    this.#since = this.#prepare<Past, [Bytes, Bytes, number]>(
      `SELECT ${PAST} FROM history WHERE ${HERE} AND id >= ?3 ORDER BY id`,
    );
    this.#forget = this.#prepare<unknown, [number]>(
      `DELETE FROM history WHERE id < ?1 AND (deleted = 1 OR EXISTS
       (SELECT 1 FROM history n WHERE n.key = history.key AND n.id > history.id AND n.id < ?1))`,
    );
    this.#leased = this.#prepare<{ key: Bytes }, [Int64]>(
      "SELECT key FROM kv WHERE lease = ?1 AND lease <> '0' ORDER BY key",
    );
  }

  #prepare<R, P extends (string | number)[]>(sql: string) {
    const statement = this.db.prepare<R, P>(sql);
    this.#statements.push(statement);
    return statement;
  }

  /** Runs `work` as one transaction: all of it or, when it throws, nothing. */
  atomically<T>(work: () => T): T {
    this.#begin.run();
    try {
      const result = work();
      this.#commit.run();
      return result;
    } catch (error) {
      // SQLite rolls back by itself on some errors (disk full, I/O): a second ROLLBACK would hide the first error.
      if (this.db.inTransaction) this.#rollback.run();
      throw error;
    }
  }

  /** The key as it stands now. */
  get(key: Bytes): Row | undefined {
    return this.#get.get(key) ?? undefined;
  }

  /** The rows of an etcd range (see `within`), sorted by key, at most `limit`. */
  range(key: Bytes, end: Bytes | undefined, limit = -1, keysOnly = false): Row[] {
    if (end === undefined || end === "") {
      const row = this.get(key);
      return row === undefined ? [] : [keysOnly ? { ...row, value: "" } : row];
    }
    return (keysOnly ? this.#keys : this.#range).all(key, upper(end), limit);
  }

  /** How many keys the range has. */
  count(key: Bytes, end: Bytes | undefined): number {
    if (end === undefined || end === "") return this.get(key) === undefined ? 0 : 1;
    return this.#count.get(key, upper(end))?.n ?? 0;
  }

  /** The rows of a range as they stood right after `revision`. */
  rangeAsOf(key: Bytes, end: Bytes | undefined, revision: number): Row[] {
    const [from, to] = bounds(key, end);
    return this.#asOf.all(from, to, (revision + 1) * STRIDE);
  }

  /** Every write to the range from `revision` on, in order. */
  since(key: Bytes, end: Bytes | undefined, revision: number, withPrev: boolean): EngineEvent[] {
    const [from, to] = bounds(key, end);
    return this.#since.all(from, to, revision * STRIDE).map((past) => ({
      type: past.deleted === 1 ? ("delete" as const) : ("put" as const),
      row: past,
      prev: withPrev ? this.rangeAsOf(past.key, undefined, past.modified - 1)[0] : undefined,
    }));
  }

  /** Writes a row into the present and the past. `place` counts the writes of one revision from 0. */
  put(row: Row, place: number): void {
    this.#put.run(row.key, row.value, row.created, row.modified, row.version, row.lease);
    const id = row.modified * STRIDE + place;
    this.#remember.run(id, row.key, row.value, row.created, row.version, row.lease, 0);
  }

  /** Takes a key out of the present and notes its end in the past. */
  drop(key: Bytes, revision: number, place: number): void {
    this.#drop.run(key);
    this.#remember.run(revision * STRIDE + place, key, "", 0, 0, "0", 1);
  }

  /** Forgets what no read at `revision` or later needs. */
  compact(revision: number): void {
    this.#forget.run((revision + 1) * STRIDE);
    this.setFact("compacted", String(revision));
  }

  /** The newest revision that history knows; 0 when it is empty. */
  newestRevision(): number {
    const id = this.db.query<{ id: number | null }, []>("SELECT max(id) AS id FROM history").get()?.id ?? 0;
    return Math.floor(id / STRIDE);
  }

  /** Keys attached to a lease, sorted. */
  keysOfLease(lease: Int64): Bytes[] {
    return this.#leased.all(lease).map((row) => row.key);
  }

  /** Every lease with its granted TTL in seconds and the user it was granted to. */
  leases(): { id: Int64; ttl: number; owner: string }[] {
    return this.db
      .query<{ id: Int64; ttl: number; owner: string }, []>("SELECT id, ttl, owner FROM lease ORDER BY id")
      .all();
  }

  addLease(id: Int64, ttl: number, owner: string): void {
    this.db.query("INSERT INTO lease(id, ttl, owner) VALUES(?1, ?2, ?3)").run(id, ttl, owner);
  }

  removeLease(id: Int64): void {
    this.db.query("DELETE FROM lease WHERE id = ?1").run(id);
  }

  fact(name: string): string | undefined {
    return this.db.query<{ value: string }, [string]>("SELECT value FROM fact WHERE name = ?1").get(name)?.value;
  }

  setFact(name: string, value: string): void {
    this.db
      .query("INSERT INTO fact(name, value) VALUES(?1, ?2) ON CONFLICT(name) DO UPDATE SET value = ?2")
      .run(name, value);
  }

  /** Bytes of the database, and how many of them hold something. */
  size(): { total: number; used: number } {
    const read = (name: string): number =>
      Number(Object.values(this.db.query<Record<string, number>, []>(`PRAGMA ${name}`).get() ?? {})[0] ?? 0);
    const page = read("page_size");
    const pages = read("page_count");
    return { total: pages * page, used: (pages - read("freelist_count")) * page };
  }

  /** Frees the statements; the database itself belongs to whoever opened it. */
  close(): void {
    for (const statement of this.#statements) statement.finalize();
    this.#statements.length = 0;
  }
}

function upper(end: Bytes): Bytes {
  return end === "\0" ? AFTER_ALL : end;
}

/** A range as [from, to) also for a single key: no byte string lies between a key and the key with NUL behind it. */
function bounds(key: Bytes, end: Bytes | undefined): [Bytes, Bytes] {
  return end === undefined || end === "" ? [key, `${key}\0`] : [key, upper(end)];
}
