// Stamps for what the last write wins: physical time, a counter, the node's name.

import { AheadError, checkedName, compare, MalformedError, type Reader, type Writer } from "./wire.ts";

const AHEAD_MS_MAX = 5 * 60 * 1000;
const COUNTER_MAX = 2 ** 32 - 1;

/** When and by whom. */
export interface Stamp {
  readonly ms: number;
  readonly counter: number;
  /** Empty in `NEVER` alone. */
  readonly node: string;
}

/** Before every other stamp. */
export const NEVER: Stamp = { ms: 0, counter: 0, node: "" };

export function compareStamps(a: Stamp, b: Stamp): number {
  return a.ms - b.ms || a.counter - b.counter || compare(a.node, b.node);
}

export function refuseAhead(stamp: Stamp, nowMs: number = Date.now()): void {
  if (stamp.ms > nowMs + AHEAD_MS_MAX) {
    throw new AheadError(`a stamp of ${stamp.node} is ${stamp.ms - nowMs} ms ahead of now`);
  }
}

export function writeStamp(writer: Writer, stamp: Stamp): void {
  writer.varint(stamp.ms);
  writer.varint(stamp.counter);
  writer.varint(stamp.node === "" ? 0 : 1);
  if (stamp.node !== "") writer.name(stamp.node);
}

export function readStamp(reader: Reader): Stamp {
  const [ms, counter, hasNode] = [reader.varint(), reader.varint(), reader.varint()];
  if (hasNode > 1 || counter > COUNTER_MAX || (hasNode === 0 && (ms > 0 || counter > 0))) {
    throw new MalformedError("a stamp without a node that is not the first of all");
  }
  return hasNode === 1 ? { ms, counter, node: reader.name() } : NEVER;
}

/** A replica's clock: it follows this machine's, and never goes back. */
export class HybridClock {
  readonly node: string;
  readonly #wallMs: () => number;
  #last: Stamp = NEVER;

  constructor(node: string, wallMs: () => number = Date.now) {
    this.node = checkedName(node);
    this.#wallMs = wallMs;
  }

  /** A stamp after every one given before, and after `after`. */
  tick(after: Stamp = NEVER): Stamp {
    const { node } = this;
    const later = this.#last.ms - after.ms || this.#last.counter - after.counter;
    const last = later > 0 ? this.#last : after;
    const wall = Math.min(this.#wallMs(), Number.MAX_SAFE_INTEGER);
    if (wall > last.ms) this.#last = { ms: wall, counter: 0, node };
    else if (last.counter < COUNTER_MAX) {
      this.#last = { ms: last.ms, counter: last.counter + 1, node };
    } else this.#last = { ms: last.ms + 1, counter: 0, node };
    return this.#last;
  }
}
