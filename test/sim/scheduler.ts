/** Simulated time and seeded chance: a queue of events, each followed by all the microtasks that it sets off. */
import { drainMicrotasks } from "bun:jsc";

/** A seeded generator (mulberry32) with the few shapes that the simulator needs. Same seed, same numbers, on every machine. */
export class Chance {
  #state: number;

  constructor(seed: number) {
    this.#state = seed >>> 0;
  }

  /** Uniform in [0, 1). */
  next(): number {
    this.#state = (this.#state + 0x6d2b79f5) | 0;
    let t = Math.imul(this.#state ^ (this.#state >>> 15), 1 | this.#state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  }

  /** True with probability p. */
  hit(p: number): boolean {
    return p > 0 && this.next() < p;
  }

  /** Uniform in [low, high). */
  between(low: number, high: number): number {
    return low + this.next() * (high - low);
  }

  /** A whole number in [low, high]. */
  whole(low: number, high: number): number {
    return Math.floor(this.between(low, high + 1));
  }

  pick<T>(choices: readonly T[]): T {
    return choices[Math.floor(this.next() * choices.length)] as T;
  }
}

export interface Task {
  readonly at: number;
  readonly order: number;
  run: (() => void) | undefined;
}

/** Events by time, then by the order in which they were planned. Time is ms since the beginning of the round. */
export class Scheduler {
  now = 0;
  steps = 0;
  #order = 0;
  readonly #heap: Task[] = [];

  /** Plans `run` in `ms`; clearing the task's `run` takes it back. */
  in(ms: number, run: () => void): Task {
    return this.at(this.now + Math.max(0, ms), run);
  }

  /** Plans `run` for a moment that is not past. */
  at(moment: number, run: () => void): Task {
    const task: Task = { at: moment, order: this.#order++, run };
    this.#push(task);
    return task;
  }

  /** Runs the next event and everything that follows from it at once. False when nothing is planned. */
  step(): boolean {
    for (;;) {
      const task = this.#pop();
      if (task === undefined) return false;
      if (task.run === undefined) continue;
      this.now = task.at;
      this.steps++;
      task.run();
      drainMicrotasks();
      return true;
    }
  }

  #before(a: Task, b: Task): boolean {
    return a.at < b.at || (a.at === b.at && a.order < b.order);
  }

  #push(task: Task): void {
    const heap = this.#heap;
    let at = heap.length;
    heap.push(task);
    while (at > 0) {
      const parent = (at - 1) >> 1;
      const above = heap[parent] as Task;
      if (!this.#before(task, above)) break;
      heap[at] = above;
      at = parent;
    }
    heap[at] = task;
  }

  #pop(): Task | undefined {
    const heap = this.#heap;
    const top = heap[0];
    const last = heap.pop();
    if (top === undefined || last === undefined || heap.length === 0) return top;
    let at = 0;
    for (;;) {
      let child = 2 * at + 1;
      if (child >= heap.length) break;
      if (child + 1 < heap.length && this.#before(heap[child + 1] as Task, heap[child] as Task)) child++;
      if (!this.#before(heap[child] as Task, last)) break;
      heap[at] = heap[child] as Task;
      at = child;
    }
    heap[at] = last;
    return top;
  }
}
