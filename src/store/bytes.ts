/** Keys and values as "byte strings": one JavaScript character (0–255) for each byte, so that < and === compare as etcd does. */

/** A byte string. ASCII text is its own byte string; it sorts bytewise in JavaScript and in SQLite alike. */
export type Bytes = string;

// biome-ignore lint/suspicious/noControlCharactersInRegex: NUL is a byte that keys may contain
const ASCII = /^[\x00-\x7f]*$/;

/** The UTF-8 bytes of `text`. */
export function toBytes(text: string): Bytes {
  return ASCII.test(text) ? text : Buffer.from(text, "utf8").toString("latin1");
}

/** The text of UTF-8 `bytes`; what is not valid UTF-8 becomes U+FFFD. */
export function fromBytes(bytes: Bytes): string {
  return ASCII.test(bytes) ? bytes : Buffer.from(bytes, "latin1").toString("utf8");
}

/** Standard base64 of UTF-8 `text`, as etcd's JSON gateway wants keys and values. */
export function textToBase64(text: string): string {
  return btoa(toBytes(text));
}

/** The text of base64 of UTF-8. Throws on text that is not base64. */
export function base64ToText(base64: string): string {
  return fromBytes(atob(base64));
}

/** True when `key` lies in the range that etcd means by (from, end): no end is one key, end "\0" is everything from `from` on. */
export function within(key: Bytes, from: Bytes, end: Bytes | undefined): boolean {
  if (end === undefined || end === "") return key === from;
  return key >= from && (end === "\0" || key < end);
}
