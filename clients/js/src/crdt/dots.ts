// Which events a state has seen: ranges of numbers for each replica.

import { checkedName, compare, CrdtError, type Dot, MalformedError, type Reader, WHOLE_MAX, type Writer } from "./wire.ts";

type Range = [first: number, last: number];

/** A set of dots. */
export class Dots {
  readonly #ranges = new Map<string, Range[]>();

  has([name, n]: Dot): boolean {
    const ranges = this.#ranges.get(name) ?? [];
    let low = 0;
    let high = ranges.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if ((ranges[middle] as Range)[0] <= n) low = middle + 1;
      else high = middle;
    }
    const range = ranges[low - 1];
    return range !== undefined && n <= range[1];
  }

  /** The replica's next dot, which now is in the set. */
  next(replica: string): Dot {
    const last = this.#ranges.get(checkedName(replica))?.at(-1)?.[1] ?? 0;
    if (last === WHOLE_MAX) throw new CrdtError("a replica has at most 2^53 - 1 dots");
    const dot: Dot = [replica, last + 1];
    this.add(dot);
    return dot;
  }

  add([name, n]: Dot): void {
    const ranges = this.#ranges.get(name);
    const last = ranges?.at(-1);
    if (last !== undefined && last[1] + 1 === n) last[1] = n;
    else if (!this.has([name, n])) this.#ranges.set(name, joined(ranges ?? [], [[n, n]]));
  }

  /** Put every dot of another in. */
  update(other: Dots): void {
    for (const [name, ranges] of other.#ranges) {
      this.#ranges.set(name, joined(this.#ranges.get(name) ?? [], ranges));
    }
  }

  *[Symbol.iterator](): Generator<Dot> {
    for (const [name, ranges] of this.#ranges) {
      for (const [first, last] of ranges) {
        for (let n = first; n <= last; n++) yield [name, n];
      }
    }
  }

  copy(): Dots {
    const made = new Dots();
    made.update(this);
    return made;
  }

  names(found: Set<string>): void {
    for (const name of this.#ranges.keys()) found.add(name);
  }

  write(writer: Writer): void {
    writer.varint(this.#ranges.size);
    for (const [name, ranges] of [...this.#ranges].sort((a, b) => compare(a[0], b[0]))) {
      writer.name(name);
      writer.varint(ranges.length);
      let end = 0;
      for (const [first, last] of ranges) {
        writer.varint(first - end - 1);
        writer.varint(last - first);
        end = last;
      }
    }
  }

  static read(reader: Reader): Dots {
    const made = new Dots();
    reader.many(() => {
      const name = reader.name();
      let end = 0;
      const ranges = reader.many((): Range => {
        const first = end + 1 + reader.varint();
        end = first + reader.varint();
        return [first, end];
      });
      if (ranges.length === 0 || end > WHOLE_MAX) {
        throw new MalformedError("a context without dots, or with one over 2^53 - 1");
      }
      made.#ranges.set(name, ranges);
    });
    return made;
  }
}

function joined(some: Range[], more: Range[]): Range[] {
  const found: Range[] = [];
  for (const [first, last] of [...some, ...more].sort((a, b) => a[0] - b[0])) {
    const before = found.at(-1);
    if (before === undefined || first > before[1] + 1) found.push([first, last]);
    else before[1] = Math.max(before[1], last);
  }
  return found;
}
