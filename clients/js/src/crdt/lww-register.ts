// A value that the last write wins: the higher stamp, its node's name where times are equal.

import { compareStamps, type HybridClock, NEVER, readStamp, refuseAhead, type Stamp, writeStamp } from "./clock.ts";
import { ConflictError, normal, type Reader, type State, type Value, valueKey, type Writer } from "./wire.ts";

/** One value with its stamp; null with the stamp NEVER until it is first set. */
export class LwwRegister implements State {
  readonly kind = 1;
  #stamp: Stamp = NEVER;
  #value: Value = null;

  /** What was last set; lists and maps are copies. */
  get value(): Value {
    return normal(this.#value);
  }

  get stamp(): Stamp {
    return this.#stamp;
  }

  /** Set it; returns the delta, which here is the whole state. */
  assign(value: unknown, clock: HybridClock): LwwRegister {
    this.#value = normal(value);
    this.#stamp = clock.tick(this.#stamp);
    return this.copy();
  }

  /** @throws AheadError, ConflictError */
  merge(other: this, nowMs?: number): void {
    refuseAhead(other.#stamp, nowMs);
    const order = compareStamps(other.#stamp, this.#stamp);
    if (order === 0 && valueKey(other.#value) !== valueKey(this.#value)) {
      throw new ConflictError(`two values with one stamp of ${this.#stamp.node}`);
    }
    if (order > 0) {
      this.#value = other.#value;
      this.#stamp = other.#stamp;
    }
  }

  copy(): this {
    const made = new LwwRegister();
    made.#value = this.#value;
    made.#stamp = this.#stamp;
    return made as this;
  }

  names(found: Set<string>): void {
    if (this.#stamp.node !== "") found.add(this.#stamp.node);
  }

  write(writer: Writer): void {
    writeStamp(writer, this.#stamp);
    writer.value(this.#value);
  }

  static read(reader: Reader): LwwRegister {
    const made = new LwwRegister();
    made.#stamp = readStamp(reader);
    made.#value = reader.value();
    return made;
  }
}
