// Counts by replica: a counter that grows, one that also shrinks, and a vector clock.

import { checkedName, compare, CrdtError, MalformedError, type Reader, type State, WHOLE_MAX, type Writer } from "./wire.ts";

/** The highest count of each replica. */
class Counts {
  readonly by = new Map<string, number>();

  of(replica: string): number {
    return this.by.get(replica) ?? 0;
  }

  /** Count on; returns the new count. */
  add(replica: string, by: number): number {
    const count = this.of(checkedName(replica)) + by;
    if (!Number.isSafeInteger(by) || by < 1 || count > WHOLE_MAX) {
      throw new CrdtError("a count grows by 1 at least, up to 2^53 - 1");
    }
    this.by.set(replica, count);
    return count;
  }

  merge(other: Counts): void {
    for (const [name, count] of other.by) this.by.set(name, Math.max(count, this.of(name)));
  }

  get sum(): number {
    return [...this.by.values()].reduce((sum, count) => sum + count, 0);
  }

  names(found: Set<string>): void {
    for (const name of this.by.keys()) found.add(name);
  }

  write(writer: Writer): void {
    writer.varint(this.by.size);
    for (const name of [...this.by.keys()].sort(compare)) {
      writer.name(name);
      writer.varint(this.of(name));
    }
  }

  read(reader: Reader): void {
    reader.many(() => {
      const name = reader.name();
      const count = reader.varint();
      if (count === 0) throw new MalformedError("a count of 0 is left out");
      this.by.set(name, count);
    });
  }
}

/** A counter that only grows. */
export class GCounter implements State {
  readonly kind = 2;
  readonly #counts = new Counts();

  /** The sum of all counts. */
  get value(): number {
    return this.#counts.sum;
  }

  /** Count; returns the delta: this replica's new count. */
  increment(replica: string, by = 1): GCounter {
    const delta = new GCounter();
    delta.#counts.by.set(replica, this.#counts.add(replica, by));
    return delta;
  }

  merge(other: this): void {
    this.#counts.merge(other.#counts);
  }

  copy(): this {
    const made = new GCounter();
    made.#counts.merge(this.#counts);
    return made as this;
  }

  names(found: Set<string>): void {
    this.#counts.names(found);
  }

  write(writer: Writer): void {
    this.#counts.write(writer);
  }

  static read(reader: Reader): GCounter {
    const made = new GCounter();
    made.#counts.read(reader);
    return made;
  }
}

/** A counter that grows and shrinks: two that only grow, and their difference. */
export class PnCounter implements State {
  readonly kind = 3;
  #added = new GCounter();
  #taken = new GCounter();

  get value(): number {
    return this.#added.value - this.#taken.value;
  }

  /** Add; returns the delta. */
  increment(replica: string, by = 1): PnCounter {
    const delta = new PnCounter();
    delta.#added = this.#added.increment(replica, by);
    return delta;
  }

  /** Take away; returns the delta. */
  decrement(replica: string, by = 1): PnCounter {
    const delta = new PnCounter();
    delta.#taken = this.#taken.increment(replica, by);
    return delta;
  }

  merge(other: this): void {
    this.#added.merge(other.#added);
    this.#taken.merge(other.#taken);
  }

  copy(): this {
    const made = new PnCounter();
    made.#added = this.#added.copy();
    made.#taken = this.#taken.copy();
    return made as this;
  }

  names(found: Set<string>): void {
    this.#added.names(found);
    this.#taken.names(found);
  }

  write(writer: Writer): void {
    this.#added.write(writer);
    this.#taken.write(writer);
  }

  static read(reader: Reader): PnCounter {
    const made = new PnCounter();
    made.#added = GCounter.read(reader);
    made.#taken = GCounter.read(reader);
    return made;
  }
}

/** What one has seen of each replica. */
export class VectorClock implements State {
  readonly kind = 7;
  readonly #counts = new Counts();

  get value(): Record<string, number> {
    return Object.fromEntries(this.#counts.by);
  }

  of(replica: string): number {
    return this.#counts.of(replica);
  }

  /** One more event of a replica; returns the delta. */
  increment(replica: string): VectorClock {
    const delta = new VectorClock();
    delta.#counts.by.set(replica, this.#counts.add(replica, 1));
    return delta;
  }

  /** `before` where the other has seen all of this one and more. */
  compare(other: VectorClock): "equal" | "before" | "after" | "concurrent" {
    const isAhead = [...this.#counts.by].some(([name, count]) => count > other.of(name));
    const isBehind = [...other.#counts.by].some(([name, count]) => count > this.of(name));
    if (isAhead && isBehind) return "concurrent";
    return isAhead ? "after" : isBehind ? "before" : "equal";
  }

  /** A clock without some replicas. Prune both alike before you compare them. */
  prune(inactive: Iterable<string>): VectorClock {
    const made = this.copy();
    for (const name of inactive) made.#counts.by.delete(name);
    return made;
  }

  merge(other: this): void {
    this.#counts.merge(other.#counts);
  }

  copy(): this {
    const made = new VectorClock();
    made.#counts.merge(this.#counts);
    return made as this;
  }

  names(found: Set<string>): void {
    this.#counts.names(found);
  }

  write(writer: Writer): void {
    this.#counts.write(writer);
  }

  static read(reader: Reader): VectorClock {
    const made = new VectorClock();
    made.#counts.read(reader);
    return made;
  }
}
