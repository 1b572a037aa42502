// A set in which an addition wins over a concurrent removal, without tombstones.
//
// Each addition has a dot. An element is in the set while one of its dots is alive; a removal takes
// the dots it has seen, and the context remembers them. Bieniusa, Zawirski, Preguiça, Shapiro,
// Baquero, Balegas, Duarte: "An optimized conflict-free replicated set" (2012).

import { Dots } from "./dots.ts";
import { compare, compareDots, ConflictError, type Dot, keyOf, MalformedError, normal, type Reader, type State, type Value, valueKey, type Writer } from "./wire.ts";

interface Element {
  value: Value;
  dots: Dot[];
}

/** Elements, each with the dots of the additions that are alive; and all dots ever seen. */
export class OrSet implements State {
  readonly kind = 4;
  #context = new Dots();
  /** By their encodings, by which 1 and true are two. */
  readonly #elements = new Map<string, Element>();
  /** Each live dot, and the encoding of what it added. */
  readonly #alive = new Map<string, { dot: Dot; key: string }>();

  has(element: unknown): boolean {
    return this.#elements.has(valueKey(element));
  }

  get size(): number {
    return this.#elements.size;
  }

  /** The elements, in the order of their encodings. */
  get value(): Value[] {
    return this.#sorted().map(([, element]) => normal(element.value));
  }

  /** Put an element in; returns the delta: the new dot, and the dots that it stands for. */
  add(element: unknown, replica: string): OrSet {
    const key = valueKey(element);
    const dot = this.#context.next(replica);
    const delta = this.#clear(key);
    delta.#context.add(dot);
    for (const one of [this, delta]) one.#put(key, normal(element), dot);
    return delta;
  }

  /** Take an element out, if it is in; returns the delta: the dots that are gone. */
  remove(element: unknown): OrSet {
    return this.#clear(valueKey(element));
  }

  /** Keep what both have, and what one has and the other has not seen. */
  merge(other: this): void {
    for (const [name, { dot, key }] of other.#alive) {
      if ((this.#alive.get(name)?.key ?? key) !== key) {
        throw new ConflictError(`one dot of ${dot[0]} adds two elements`);
      }
    }
    for (const [name, { dot }] of [...this.#alive]) {
      if (!other.#alive.has(name) && other.#context.has(dot)) this.#drop(name);
    }
    for (const [name, { dot, key }] of other.#alive) {
      if (this.#alive.has(name) || this.#context.has(dot)) continue;
      this.#put(key, (other.#elements.get(key) as Element).value, dot);
    }
    this.#context.update(other.#context);
  }

  copy(): this {
    const made = new OrSet();
    made.#context = this.#context.copy();
    for (const { dot, key } of this.#alive.values()) {
      made.#put(key, (this.#elements.get(key) as Element).value, dot);
    }
    return made as this;
  }

  names(found: Set<string>): void {
    this.#context.names(found);
  }

  write(writer: Writer): void {
    this.#context.write(writer);
    writer.varint(this.#elements.size);
    for (const [, { value, dots }] of this.#sorted()) {
      writer.value(value);
      writer.varint(dots.length);
      for (const dot of [...dots].sort(compareDots)) writer.dot(dot);
    }
  }

  static read(reader: Reader): OrSet {
    const made = new OrSet();
    made.#context = Dots.read(reader);
    reader.many(() => {
      const value = reader.value();
      const key = valueKey(value);
      const dots = reader.many(() => reader.dot());
      if (dots.length === 0 || made.#elements.has(key)) {
        throw new MalformedError("an element without dots, or twice");
      }
      for (const dot of dots) {
        if (made.#alive.has(keyOf(dot)) || !made.#context.has(dot)) {
          throw new MalformedError("a dot is used twice, or not in the context");
        }
        made.#put(key, value, dot);
      }
    });
    return made;
  }

  #put(key: string, value: Value, dot: Dot): void {
    const element = this.#elements.get(key);
    if (element === undefined) this.#elements.set(key, { value, dots: [dot] });
    else element.dots.push(dot);
    this.#alive.set(keyOf(dot), { dot, key });
  }

  #drop(name: string): void {
    const { dot, key } = this.#alive.get(name) as { dot: Dot; key: string };
    this.#alive.delete(name);
    const element = this.#elements.get(key) as Element;
    element.dots = element.dots.filter((one) => one[0] !== dot[0] || one[1] !== dot[1]);
    if (element.dots.length === 0) this.#elements.delete(key);
  }

  /** Take all dots of an element away; returns a delta that says so. */
  #clear(key: string): OrSet {
    const delta = new OrSet();
    for (const dot of this.#elements.get(key)?.dots ?? []) {
      this.#alive.delete(keyOf(dot));
      delta.#context.add(dot);
    }
    this.#elements.delete(key);
    return delta;
  }

  #sorted(): [string, Element][] {
    return [...this.#elements].sort((a, b) => compare(a[0], b[0]));
  }
}
