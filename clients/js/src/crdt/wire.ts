// Bytes of the encoding of docs/crdt.md: varints, values, and the two ends that write and read them.

export const WHOLE_MAX = Number.MAX_SAFE_INTEGER;
export const DEPTH_MAX = 16;
const NAME_LENGTH_MAX = 64;
const VARINT_BYTES_MAX = 8;

/** What every refusal of this library is. */
export class CrdtError extends Error {
  override name = "CrdtError";
}

/** Bytes that are no encoding of a state, were cut or changed. */
export class MalformedError extends CrdtError {
  override name = "MalformedError";
}

/** A stamp more than five minutes ahead of this replica's clock. */
export class AheadError extends CrdtError {
  override name = "AheadError";
}

/** Two replicas use one name. */
export class ConflictError extends CrdtError {
  override name = "ConflictError";
}

/** Insertions of a replica that had not seen what was collected. */
export class StaleError extends CrdtError {
  override name = "StaleError";
}

export type Value = null | boolean | number | string | Uint8Array | Value[] | { [key: string]: Value };

/** A replica's n-th event, from 1. */
export type Dot = readonly [replica: string, n: number];

/** A dot as a Map's key: no replica's name has a space. */
export function keyOf(dot: Dot): string {
  return `${dot[0]} ${dot[1]}`;
}

/** Ascending by replica, then number. */
export function compareDots(a: Dot, b: Dot): number {
  return compare(a[0], b[0]) || a[1] - b[1];
}

/** Ascending by UTF-16: for names, which are ASCII, and for bytes as text. */
export function compare(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}

/** Bytes as a text with a character each, which sorts as they do. */
export function latin1(bytes: Uint8Array): string {
  let text = "";
  for (const byte of bytes) text += String.fromCharCode(byte);
  return text;
}

const encoder = new TextEncoder();
const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** Texts ascending by their UTF-8 bytes, which is not JavaScript's own order. */
export function sortedTexts(texts: Iterable<string>): string[] {
  const keyed = [...texts].map((text) => [latin1(encoder.encode(text)), text] as const);
  return keyed.sort((a, b) => compare(a[0], b[0])).map(([, text]) => text);
}

/** A replica's name: 1 to 64 characters of printable ASCII, no space. */
export function checkedName(name: string): string {
  if (!/^[!-~]+$/.test(name) || name.length > NAME_LENGTH_MAX) {
    throw new CrdtError(`a replica's name is 1 to ${NAME_LENGTH_MAX} of printable ASCII: ${name}`);
  }
  return name;
}

/** A text without half of a surrogate pair. */
export function checkedText(text: string): string {
  if (/[\uD800-\uDFFF]/u.test(text)) throw new CrdtError("text with half of a surrogate pair");
  return text;
}

/** A copy of a value; throws for what is none. */
export function normal(value: unknown, depth = 0): Value {
  if (value === null || typeof value === "boolean") return value;
  if (typeof value === "string") return checkedText(value);
  if (typeof value === "number") {
    if (!Number.isFinite(value)) throw new CrdtError("a number is finite");
    return value === 0 ? 0 : value;
  }
  if (value instanceof Uint8Array) return value.slice();
  if (typeof value !== "object") throw new CrdtError(`no value of this library: ${typeof value}`);
  if (depth === DEPTH_MAX) throw new CrdtError(`over ${DEPTH_MAX} lists or maps in each other`);
  if (Array.isArray(value)) return value.map((item) => normal(item, depth + 1));
  return Object.fromEntries(
    Object.entries(value).map(([key, item]) => [checkedText(key), normal(item, depth + 1)]),
  );
}

/** The one encoding of a value as text: equal values have equal ones. */
export function valueKey(value: unknown): string {
  const writer = new Writer([]);
  writer.value(normal(value));
  return latin1(writer.done());
}

/** Collects bytes; replicas' names are written as their place in a sorted table. */
export class Writer {
  #bytes = new Uint8Array(256);
  #size = 0;
  readonly #places: Map<string, number>;

  constructor(names: string[]) {
    this.#places = new Map(names.map((name, place) => [name, place]));
  }

  done(): Uint8Array {
    return this.#bytes.slice(0, this.#size);
  }

  byte(byte: number): void {
    this.#makeRoom(1);
    this.#bytes[this.#size++] = byte;
  }

  put(bytes: Uint8Array): void {
    this.#makeRoom(bytes.length);
    this.#bytes.set(bytes, this.#size);
    this.#size += bytes.length;
  }

  varint(number: number): void {
    // Without bit operations, which JavaScript has for 32 bits alone.
    for (; number > 0x7f; number = Math.floor(number / 128)) this.byte((number % 128) | 0x80);
    this.byte(number);
  }

  raw(bytes: Uint8Array): void {
    this.varint(bytes.length);
    this.put(bytes);
  }

  text(text: string): void {
    this.raw(encoder.encode(text));
  }

  name(name: string): void {
    this.varint(this.#places.get(name) as number);
  }

  dot(dot: Dot): void {
    this.name(dot[0]);
    this.varint(dot[1]);
  }

  /** A value that `normal` gave. */
  value(value: Value): void {
    if (value === null) this.byte(0);
    else if (value === false) this.byte(1);
    else if (value === true) this.byte(2);
    else if (typeof value === "number") this.#number(value);
    else if (typeof value === "string") {
      this.byte(6);
      this.text(value);
    } else if (value instanceof Uint8Array) {
      this.byte(7);
      this.raw(value);
    } else if (Array.isArray(value)) {
      this.byte(8);
      this.varint(value.length);
      for (const item of value) this.value(item);
    } else {
      this.byte(9);
      const keys = sortedTexts(Object.keys(value));
      this.varint(keys.length);
      for (const key of keys) {
        this.text(key);
        this.value(value[key] as Value);
      }
    }
  }

  #makeRoom(size: number): void {
    if (this.#size + size <= this.#bytes.length) return;
    const more = new Uint8Array(2 * (this.#size + size));
    more.set(this.#bytes);
    this.#bytes = more;
  }

  #number(value: number): void {
    if (Number.isSafeInteger(value)) {
      this.byte(value >= 0 ? 3 : 4);
      this.varint(value >= 0 ? value : -1 - value);
    } else {
      const bytes = new Uint8Array(9);
      bytes[0] = 5;
      new DataView(bytes.buffer).setFloat64(1, value);
      this.put(bytes);
    }
  }
}

/** Reads what a Writer wrote; anything else is a MalformedError. */
export class Reader {
  at: number;
  depth = 0;
  names: string[] = [];
  readonly #bytes: Uint8Array;

  constructor(bytes: Uint8Array, at: number) {
    this.#bytes = bytes;
    this.at = at;
  }

  byte(): number {
    const byte = this.#bytes[this.at++];
    if (byte === undefined) throw new MalformedError("cut short");
    return byte;
  }

  varint(): number {
    let number = 0;
    for (let place = 0; place < VARINT_BYTES_MAX; place++) {
      const byte = this.byte();
      number += (byte & 0x7f) * 128 ** place;
      if (byte < 0x80) {
        if ((byte === 0 && place > 0) || number > WHOLE_MAX) break;
        return number;
      }
    }
    throw new MalformedError("a varint is longer than it need be, or over 2^53 - 1");
  }

  /** How many of something follow, each of a byte at least. */
  count(): number {
    const count = this.varint();
    if (count > this.#bytes.length - this.at) throw new MalformedError("cut short");
    return count;
  }

  /** That many times what `read` gives. */
  many<T>(read: () => T): T[] {
    const found: T[] = [];
    for (let left = this.count(); left > 0; left--) found.push(read());
    return found;
  }

  raw(): Uint8Array {
    const size = this.count();
    this.at += size;
    return this.#bytes.slice(this.at - size, this.at);
  }

  text(): string {
    try {
      return decoder.decode(this.raw());
    } catch (error) {
      if (error instanceof MalformedError) throw error;
      throw new MalformedError("text that is not UTF-8");
    }
  }

  name(): string {
    const name = this.names[this.varint()];
    if (name === undefined) throw new MalformedError("a replica that the table of names lacks");
    return name;
  }

  dot(): Dot {
    const name = this.name();
    const n = this.varint();
    if (n === 0) throw new MalformedError("a dot counts from 1");
    return [name, n];
  }

  value(depth = 0): Value {
    const tag = this.byte();
    switch (tag) {
      case 0:
        return null;
      case 1:
      case 2:
        return tag === 2;
      case 3:
        return this.varint();
      case 4:
        return -1 - this.varint();
      case 5:
        return this.#double();
      case 6:
        return this.text();
      case 7:
        return this.raw();
    }
    if (tag > 9) throw new MalformedError(`no value has the tag ${tag}`);
    if (depth === DEPTH_MAX) throw new MalformedError("lists or maps too deep in each other");
    if (tag === 8) return this.many(() => this.value(depth + 1));
    return Object.fromEntries(this.many(() => [this.text(), this.value(depth + 1)]));
  }

  #double(): number {
    const bytes = Uint8Array.from({ length: 8 }, () => this.byte());
    const number = new DataView(bytes.buffer).getFloat64(0);
    if (!Number.isFinite(number) || Number.isSafeInteger(number)) {
      throw new MalformedError("a double is finite, and no number that has the tag 3 or 4");
    }
    return number;
  }
}

/** What every type of this library has. */
export interface State {
  readonly kind: number;
  readonly value: unknown;
  /** Take in what another state or delta of the type knows. All or nothing. */
  merge(other: this, nowMs?: number): void;
  copy(): this;
  /** Adds every replica's name that the encoding refers to. */
  names(found: Set<string>): void;
  write(writer: Writer): void;
}

/** Every type by the number that the encoding has for it; `encoding.ts` fills it. */
export const TYPES = new Map<number, { type: new () => State; read: (reader: Reader) => State }>();
