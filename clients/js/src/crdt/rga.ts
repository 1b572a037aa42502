// A sequence: a replicated growable array.
//
// Roh, Jeon, Kim, Lee: "Replicated abstract data types" (2011). An insertion names the element it
// stands behind and has a Lamport stamp over all its replica had seen; of several behind one element
// the one with the higher stamp comes first, then the one with the higher replica's name. A removal
// leaves a tombstone. docs/crdt.md says how sequences merge, and when tombstones go.

import { Dots } from "./dots.ts";
import { type Element, readRuns, refuseImpossible, writeRuns } from "./rga-runs.ts";
import { checkedName, compareDots, ConflictError, CrdtError, type Dot, keyOf, normal, type Reader, StaleError, type State, type Value, valueKey, type Writer } from "./wire.ts";

/** A removal: its own dot, and that of the element. */
interface Removal {
  target: Dot;
  dot: Dot;
}

/** Elements in order, tombstones among them; and all dots ever seen. */
export class Rga implements State {
  readonly kind = 5;
  #context = new Dots();
  #floor = 0;
  #highest = 0;
  /** The first of the list of those that are placed. */
  #first: Element | undefined;
  #size = 0;
  #elements = new Map<string, Element>();
  /** Elements whose parent has not come yet, by the parent. */
  #waiting = new Map<string, Element[]>();
  /** Removals whose element is not placed yet. */
  #early = new Map<string, Removal>();

  /** How many elements are alive. */
  get length(): number {
    return this.#size;
  }

  /** The elements that are alive. */
  get value(): Value[] {
    const found: Value[] = [];
    for (const item of this.#living()) found.push(normal(item.value));
    return found;
  }

  /** The elements as one text, for a sequence of characters. */
  toString(): string {
    return this.value.join("");
  }

  /** How many elements are kept though they were removed. */
  get tombstoneCount(): number {
    return this.#elements.size - this.#size;
  }

  /**
   * Insert values, which then begin at `index`; a text's are its characters (code points). Returns
   * the delta.
   */
  insert(index: number, values: Iterable<unknown>, replica: string): Rga {
    this.#checkRange(index, 0);
    checkedName(replica);
    const wanted = [...values].map((value) => normal(value));
    let left = index === 0 ? undefined : this.#at(index - 1);
    const delta = new Rga();
    for (const value of wanted) {
      const stamp = Math.max(this.#highest, this.#floor) + 1;
      const item: Element = {
        dot: this.#context.next(replica),
        stamp,
        parent: left?.dot,
        value,
        deleted: undefined,
        isPlaced: false,
        next: undefined,
      };
      this.#place(item);
      delta.#context.add(item.dot);
      delta.#place(fresh(item));
      left = item;
    }
    return delta;
  }

  /** Insert one value at the end; returns the delta. */
  append(value: unknown, replica: string): Rga {
    return this.insert(this.#size, [value], replica);
  }

  /** Remove `count` elements from `index` on; returns the delta. */
  delete(index: number, replica: string, count = 1): Rga {
    this.#checkRange(index, count);
    checkedName(replica);
    const delta = new Rga();
    const gone: Element[] = [];
    if (count > 0) {
      for (let item: Element | undefined = this.#at(index); gone.length < count; item = item.next) {
        if (item === undefined) break;
        if (item.deleted === undefined) gone.push(item);
      }
    }
    for (const item of gone) {
      const dot = this.#context.next(replica);
      this.#bury(item, dot);
      delta.#context.add(dot);
      delta.#early.set(keyOf(item.dot), { target: item.dot, dot });
    }
    return delta;
  }

  /** @throws StaleError, ConflictError */
  merge(other: this): void {
    this.#refuseConflicts(other);
    const incoming = other.#unseenBy(this.#context);
    const gone = this.#collectedBy(other);
    this.#refuseStale(incoming);
    if (other.#floor > 0 || gone.length > 0) other.#refuseStale(this.#unseenBy(other.#context));
    if (other.#floor <= this.#floor) {
      this.#takeOut(gone);
      this.#add(incoming, other.#removals(), other.#context);
      return;
    }
    // What the other has collected around can only be placed by its order: begin with that.
    const mine = this.#unseenBy(other.#context);
    const removals = this.#removals();
    const seen = this.#context;
    const without = other.#collectedBy(this);
    this.#become(other);
    this.#takeOut(without.map((item) => this.#elements.get(keyOf(item.dot)) as Element));
    this.#add(mine, removals, seen);
  }

  copy(): this {
    const made = new Rga();
    made.#become(this);
    return made as this;
  }

  names(found: Set<string>): void {
    this.#context.names(found);
    for (const items of this.#waiting.values()) {
      for (const { parent } of items) found.add((parent as Dot)[0]);
    }
    for (const { target } of this.#early.values()) found.add(target[0]);
  }

  write(writer: Writer): void {
    writer.varint(this.#floor);
    this.#context.write(writer);
    writeRuns(writer, [...this.#placed()]);
    const waiting = [...this.#waiting.values()].flat();
    writeRuns(writer, waiting.sort((a, b) => compareDots(a.dot, b.dot)));
    writer.varint(this.#early.size);
    const early = [...this.#early.values()].sort((a, b) => compareDots(a.target, b.target));
    for (const { target, dot } of early) {
      writer.dot(target);
      writer.dot(dot);
    }
  }

  static read(reader: Reader): Rga {
    const made = new Rga();
    made.#floor = reader.varint();
    made.#context = Dots.read(reader);
    const placed = readRuns(reader);
    const waiting = readRuns(reader);
    const early = reader.many((): Removal => ({ target: reader.dot(), dot: reader.dot() }));
    refuseImpossible(made.#context, made.#floor, placed, waiting, early);
    made.#fill(placed);
    for (const item of waiting) made.#wait(item);
    for (const one of early) made.#early.set(keyOf(one.target), one);
    for (const item of [...placed, ...waiting]) made.#highest = Math.max(made.#highest, item.stamp);
    return made;
  }

  // ── The list ─────────────────────────────────────────────────────────────────────────────────

  *#placed(): Generator<Element> {
    for (let item = this.#first; item !== undefined; item = item.next) yield item;
  }

  *#living(): Generator<Element> {
    for (const item of this.#placed()) if (item.deleted === undefined) yield item;
  }

  #at(index: number): Element {
    let at = 0;
    for (const item of this.#living()) if (at++ === index) return item;
    throw new RangeError(`${index}`);
  }

  #checkRange(index: number, count: number): void {
    const isRange = Number.isInteger(index) && Number.isInteger(count) && index >= 0 && count >= 0;
    if (!isRange || index + count > this.#size) throw new RangeError(`${index}, ${count}`);
  }

  /** Put in an element, and what has waited for it; or let it wait for its parent. */
  #place(item: Element): void {
    const ready = [item];
    for (let one = ready.pop(); one !== undefined; one = ready.pop()) {
      this.#highest = Math.max(this.#highest, one.stamp);
      const left = one.parent === undefined ? undefined : this.#elements.get(keyOf(one.parent));
      if (one.parent !== undefined && left?.isPlaced !== true) {
        this.#wait(one);
        continue;
      }
      const key = keyOf(one.dot);
      this.#elements.set(key, one);
      this.#link(one, left);
      const removal = this.#early.get(key);
      this.#early.delete(key);
      if (removal !== undefined) this.#bury(one, removal.dot);
      ready.push(...(this.#waiting.get(key) ?? []));
      this.#waiting.delete(key);
    }
  }

  /** Behind its parent and what is later inserted there. */
  #link(item: Element, left: Element | undefined): void {
    let before = left;
    let after = left === undefined ? this.#first : left.next;
    while (after !== undefined && isAbove(after, item)) {
      before = after;
      after = after.next;
    }
    item.next = after;
    item.isPlaced = true;
    if (before === undefined) this.#first = item;
    else before.next = item;
    if (item.deleted === undefined) this.#size++;
  }

  #wait(item: Element): void {
    const parent = keyOf(item.parent as Dot);
    this.#elements.set(keyOf(item.dot), item);
    this.#waiting.set(parent, [...(this.#waiting.get(parent) ?? []), item]);
  }

  /** Of two removals of one element the lower dot is kept. */
  #bury(item: Element, removal: Dot): void {
    if (item.deleted === undefined) this.#size--;
    if (item.deleted === undefined || compareDots(removal, item.deleted) < 0) item.deleted = removal;
  }

  /** Make the list of elements that are in their order already. */
  #fill(items: Element[]): void {
    this.#first = items[0];
    this.#size = 0;
    for (const [at, item] of items.entries()) {
      item.next = items[at + 1];
      item.isPlaced = true;
      if (item.deleted === undefined) this.#size++;
      this.#elements.set(keyOf(item.dot), item);
    }
  }

  #become(other: Rga): void {
    const placed = [...other.#placed()].map(fresh);
    const waiting = [...other.#waiting.values()].flat().map(fresh);
    this.#context = other.#context.copy();
    this.#floor = other.#floor;
    this.#highest = other.#highest;
    this.#elements = new Map();
    this.#waiting = new Map();
    this.#early = new Map(other.#early);
    this.#fill(placed);
    for (const item of waiting) this.#wait(item);
  }

  // ── Merging ──────────────────────────────────────────────────────────────────────────────────

  #unseenBy(context: Dots): Element[] {
    return [...this.#elements.values()].filter((item) => !context.has(item.dot));
  }

  /** What this one has, and the other has seen and has not. */
  #collectedBy(other: Rga): Element[] {
    return [...this.#elements].flatMap(([key, item]) =>
      !other.#elements.has(key) && other.#context.has(item.dot) ? [item] : [],
    );
  }

  #removals(): Removal[] {
    const found = [...this.#early.values()];
    for (const item of this.#elements.values()) {
      if (item.deleted !== undefined) found.push({ target: item.dot, dot: item.deleted });
    }
    return found;
  }

  #refuseConflicts(other: Rga): void {
    for (const [key, theirs] of other.#elements) {
      const mine = this.#elements.get(key);
      if (mine === undefined) continue;
      let isOne = mine.stamp === theirs.stamp && areOne(mine.parent, theirs.parent);
      // A tombstone's value is in no encoding.
      if (isOne && mine.deleted === undefined && theirs.deleted === undefined) {
        isOne = mine.value === theirs.value || valueKey(mine.value) === valueKey(theirs.value);
      }
      if (!isOne) throw new ConflictError(`one dot of ${mine.dot[0]} is two insertions`);
    }
  }

  #refuseStale(unseen: Element[]): void {
    for (const { dot, stamp, parent } of unseen) {
      const isBehindCollected =
        parent !== undefined && !this.#elements.has(keyOf(parent)) && this.#context.has(parent);
      if (stamp <= this.#floor || isBehindCollected) {
        throw new StaleError(`${dot[0]} had not seen what was collected meanwhile`);
      }
    }
  }

  #takeOut(gone: Element[]): void {
    if (gone.length === 0) return;
    for (const item of gone) {
      const key = keyOf(item.dot);
      this.#elements.delete(key);
      this.#early.delete(key);
      if (item.isPlaced || item.parent === undefined) continue;
      const parent = keyOf(item.parent);
      const left = (this.#waiting.get(parent) ?? []).filter((one) => one !== item);
      if (left.length > 0) this.#waiting.set(parent, left);
      else this.#waiting.delete(parent);
    }
    const without = new Set(gone);
    this.#fill([...this.#placed()].filter((item) => !without.has(item)));
  }

  #add(items: Element[], removals: Removal[], seen: Dots): void {
    for (const item of [...items].sort((a, b) => a.stamp - b.stamp)) this.#place(fresh(item));
    for (const removal of removals) {
      const key = keyOf(removal.target);
      const mine = this.#elements.get(key);
      if (mine?.isPlaced === true) {
        this.#bury(mine, removal.dot);
      } else if (
        mine !== undefined ||
        (!this.#context.has(removal.target) && !seen.has(removal.target))
      ) {
        const early = this.#early.get(key);
        if (early === undefined || compareDots(removal.dot, early.dot) < 0) {
          this.#early.set(key, removal);
        }
      }
    }
    this.#context.update(seen);
    for (const [key, { target }] of this.#early) {
      if (!this.#elements.has(key) && this.#context.has(target)) this.#early.delete(key);
    }
  }
}

function isAbove(one: Element, other: Element): boolean {
  return one.stamp > other.stamp || (one.stamp === other.stamp && one.dot[0] > other.dot[0]);
}

function areOne(a: Dot | undefined, b: Dot | undefined): boolean {
  if (a === undefined || b === undefined) return a === b;
  return compareDots(a, b) === 0;
}

/** A copy that is in no list yet. */
function fresh(item: Element): Element {
  return { ...item, isPlaced: false, next: undefined };
}
