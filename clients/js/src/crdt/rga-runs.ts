// A sequence's elements as bytes: runs of what was typed in one go. docs/crdt.md draws them.

import type { Dots } from "./dots.ts";
import { type Dot, keyOf, MalformedError, type Reader, type Value, WHOLE_MAX, type Writer } from "./wire.ts";

const REMOVED = 0;
const VALUES = 1;
const CHARACTERS = 2;
const REMOVED_RUN_MAX = 1_000_000;

/** An insertion, and what became of it. */
export interface Element {
  readonly dot: Dot;
  readonly stamp: number;
  /** What it was inserted behind; nothing for the beginning. */
  readonly parent: Dot | undefined;
  readonly value: Value;
  /** Its removal. */
  deleted: Dot | undefined;
  isPlaced: boolean;
  next: Element | undefined;
}

/** Elements in this order, as few runs. */
export function writeRuns(writer: Writer, items: Element[]): void {
  const runs: Element[][] = [];
  for (const item of items) {
    const run = runs.at(-1);
    if (run !== undefined && follows(item, run.at(-1) as Element, run.length)) run.push(item);
    else runs.push([item]);
  }
  writer.varint(runs.length);
  for (const run of runs) writeRun(writer, run);
}

function writeRun(writer: Writer, run: Element[]): void {
  const first = run[0] as Element;
  const form = first.deleted !== undefined ? REMOVED : run.every(isCharacter) ? CHARACTERS : VALUES;
  writer.varint(form);
  writer.dot(first.dot);
  writer.varint(first.stamp);
  writer.varint(first.parent === undefined ? 0 : 1);
  if (first.parent !== undefined) writer.dot(first.parent);
  writer.varint(run.length);
  if (first.deleted !== undefined) writer.dot(first.deleted);
  else if (form === CHARACTERS) writer.text(run.map((item) => item.value).join(""));
  else for (const item of run) writer.value(item.value);
}

/** Elements in their order. */
export function readRuns(reader: Reader): Element[] {
  const items: Element[] = [];
  reader.many(() => {
    const form = reader.varint();
    const [name, n] = reader.dot();
    const stamp = reader.varint();
    const hasParent = reader.varint();
    if (form > CHARACTERS || hasParent > 1 || stamp === 0) {
      throw new MalformedError("no run of a sequence begins like this");
    }
    let parent = hasParent === 1 ? reader.dot() : undefined;
    const length = form === REMOVED ? reader.varint() : reader.count();
    let removal: Dot | undefined;
    let values: Value[] = [];
    if (form === CHARACTERS) {
      values = [...reader.text()];
    } else if (form === VALUES) {
      for (let left = length; left > 0; left--) values.push(reader.value());
    } else {
      removal = reader.dot();
      // A run of the removed takes no byte for each: its length is held by what it numbers.
      if (length > REMOVED_RUN_MAX) throw new MalformedError("too long a run of removed elements");
      values = new Array<Value>(length).fill(null);
    }
    if (length === 0 || values.length !== length) {
      throw new MalformedError("a run has another length than it says");
    }
    if (Math.max(n, stamp, removal?.[1] ?? 0) + length > WHOLE_MAX) {
      throw new MalformedError("a number over 2^53 - 1");
    }
    for (const [step, value] of values.entries()) {
      const dot: Dot = [name, n + step];
      const deleted: Dot | undefined = removal && [removal[0], removal[1] + step];
      items.push({ dot, stamp: stamp + step, parent, value, deleted, isPlaced: false, next: undefined });
      parent = dot;
    }
  });
  return items;
}

/** Refuse elements that no replica can have come to. */
export function refuseImpossible(
  context: Dots,
  floor: number,
  placed: Element[],
  waiting: Element[],
  early: { target: Dot; dot: Dot }[],
): void {
  const refuseWhere = (isWrong: boolean, why: string) => {
    if (isWrong) throw new MalformedError(why);
  };
  const every = new Set([...placed, ...waiting].map((item) => keyOf(item.dot)));
  refuseWhere(every.size < placed.length + waiting.length, "a dot is two insertions");
  for (const { dot } of [...placed, ...waiting]) {
    refuseWhere(!context.has(dot), "an insertion is not in the context");
  }
  const stamps = new Map<string, number>();
  for (const { dot, stamp, parent, deleted } of placed) {
    refuseWhere(deleted !== undefined && !context.has(deleted), "a removal is not in the context");
    if (parent !== undefined) {
      const parentStamp = stamps.get(keyOf(parent));
      if (parentStamp === undefined) {
        const isCollected = !every.has(keyOf(parent)) && context.has(parent) && floor > 0;
        refuseWhere(!isCollected, "an element stands before its parent, or without it");
      } else {
        refuseWhere(parentStamp >= stamp, "an element's stamp is not over its parent's");
      }
    }
    stamps.set(keyOf(dot), stamp);
  }
  for (const { parent, deleted } of waiting) {
    const isWaiting = deleted === undefined && parent !== undefined && !stamps.has(keyOf(parent));
    refuseWhere(!isWaiting, "an element waits for nothing");
    const isGone = parent !== undefined && context.has(parent) && !every.has(keyOf(parent));
    refuseWhere(isGone, "an element waits for what was collected");
  }
  for (const { target, dot } of early) {
    refuseWhere(!context.has(dot) || stamps.has(keyOf(target)), "a removal has its element");
    const isGone = context.has(target) && !every.has(keyOf(target));
    refuseWhere(isGone, "a removal waits for what was collected");
  }
}

function follows(item: Element, last: Element, length: number): boolean {
  const { dot, parent } = item;
  if (parent === undefined || parent[0] !== last.dot[0] || parent[1] !== last.dot[1]) return false;
  if (dot[0] !== last.dot[0] || dot[1] !== last.dot[1] + 1) return false;
  if (item.stamp !== last.stamp + 1) return false;
  if (item.deleted === undefined || last.deleted === undefined) return item.deleted === last.deleted;
  const [name, n] = last.deleted;
  return item.deleted[0] === name && item.deleted[1] === n + 1 && length < REMOVED_RUN_MAX;
}

function isCharacter({ value }: Element): boolean {
  return typeof value === "string" && [...value].length === 1;
}
