/** A queue between somebody who pushes and one who iterates; waiting costs no timer. */

export class Queue<T> {
  readonly #items: T[] = [];
  #wake: (() => void) | undefined;
  #ended = false;
  #error: unknown;

  /** Adds an item; ignored after the end. */
  push(item: T): void {
    if (this.#ended) return;
    this.#items.push(item);
    this.#wake?.();
  }

  /** No more items; what is queued is still handed out, then the iteration ends, or throws `error` if given. */
  end(error?: unknown): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#error = error;
    this.#wake?.();
  }

  /** Drops what is queued and ends at once. */
  stop(): void {
    this.#items.length = 0;
    this.end();
  }

  get size(): number {
    return this.#items.length;
  }

  /** Items in order, for one consumer. */
  async *drain(): AsyncGenerator<T, void, undefined> {
    for (;;) {
      while (this.#items.length > 0) yield this.#items.shift() as T;
      if (this.#ended) {
        if (this.#error !== undefined) throw this.#error;
        return;
      }
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
      this.#wake = undefined;
    }
  }
}
