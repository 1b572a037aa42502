// The replicated types as one uses them: several changes on one object, and over the relay.

import assert from "node:assert/strict";
import { test } from "node:test";

import {
  decode,
  encode,
  GCounter,
  HybridClock,
  LwwMap,
  LwwRegister,
  OrSet,
  PnCounter,
  Rga,
  type State,
  VectorClock,
} from "../src/crdt/index.ts";
import { RelayDocument, Synced } from "../src/index.ts";
import { api, fresh } from "./server.ts";

/** Deltas of each replica, given to all in orders of their own, twice: all come to the same bytes. */
function converge<S extends State>(make: () => S, edit: (state: S, replica: string) => S[]): S {
  const deltas = ["a", "b", "c"].flatMap((replica) => edit(make(), replica));
  const orders = [deltas, [...deltas].reverse(), [...deltas.slice(2), ...deltas, ...deltas]];
  const ends = orders.map((order) => {
    const state = make();
    for (const delta of order) state.merge(decode(encode(delta)) as S);
    return state;
  });
  for (const end of ends) assert.deepEqual(encode(end), encode(ends[0]!));
  return ends[0]!;
}

test("counters", () => {
  const sum = converge(() => new GCounter(), (one, name) => [one.increment(name, 2), one.increment(name)]);
  assert.equal(sum.value, 9);
  const both = converge(() => new PnCounter(), (one, name) => [one.increment(name, 5), one.decrement(name, 2)]);
  assert.equal(both.value, 9);
  assert.throws(() => sum.increment("a", 0.5));
});

test("a set: an addition wins over a removal that has not seen it", () => {
  const mine = new OrSet();
  mine.add("milk", "a");
  const theirs = decode(encode(mine)) as OrSet;
  mine.remove("milk");
  theirs.add("milk", "b");
  mine.merge(theirs);
  assert.deepEqual([mine.has("milk"), mine.size, mine.value], [true, 1, ["milk"]]);
  theirs.merge(mine);
  theirs.remove("milk");
  mine.merge(theirs);
  assert.deepEqual(mine.value, []);
});

test("a sequence: what each typed stays together", () => {
  const text = converge(() => new Rga(), (one, name) => {
    const typed = [...name.repeat(4)].map((letter, at) => one.insert(at, letter, name));
    return [...typed, one.delete(1, name)];
  });
  assert.equal(`${text}`, "cccbbbaaa");
  assert.deepEqual([text.length, text.tombstoneCount], [9, 3]);
  assert.throws(() => text.insert(10, "x", "a"), RangeError);
  assert.throws(() => text.delete(9, "a"), RangeError);
});

test("a sequence of 20 000 insertions at chosen places is what a list would be", () => {
  const text = new Rga();
  const list: string[] = [];
  for (let count = 0; count < 2000; count++) {
    const at = (count * 7919) % (list.length + 1);
    text.insert(at, "0123456789", "a");
    list.splice(at, 0, ..."0123456789");
    if (count % 5 === 0) {
      text.delete(at, "a", 3);
      list.splice(at, 3);
    }
  }
  assert.equal(`${text}`, list.join(""));
  assert.equal(`${decode(encode(text)).value}`, `${list}`);
});

test("a register and a map: the last write wins, and shared lives merge", () => {
  let now = 1_700_000_000_000;
  const clocks = ["a", "b"].map((name) => new HybridClock(name, () => now));
  const [one, two] = [new LwwMap(), new LwwMap()];
  one.delta("tags", one.ensure("tags", OrSet, clocks[0]!).add("x", "a"));
  two.ensure("tags", OrSet, clocks[1]!).add("y", "b");
  const title = new LwwRegister();
  title.assign("first", clocks[0]!);
  one.assign("title", title, clocks[0]!);
  now += 1;
  title.assign("second", clocks[1]!);
  two.assign("title", title, clocks[1]!);
  one.merge(two, now);
  two.merge(one, now);
  assert.deepEqual(one.value, { tags: ["x", "y"], title: "second" });
  assert.deepEqual(encode(one), encode(two));
  one.remove("title", clocks[0]!);
  two.merge(one, now);
  assert.deepEqual(two.keys(), ["tags"]);
  assert.throws(() => two.ensure("tags", Rga, clocks[0]!));
});

test("vector clocks compare", () => {
  const [a, b] = [new VectorClock(), new VectorClock()];
  a.increment("a");
  assert.equal(b.compare(a), "before");
  b.increment("b");
  assert.equal(a.compare(b), "concurrent");
  a.merge(b);
  assert.equal(a.compare(b), "after");
  assert.equal(a.prune(["a"]).compare(b), "equal");
});

test("a key of a map may have any name, JavaScript's own among them", () => {
  const map = new LwwMap();
  map.ensure("__proto__", OrSet, new HybridClock("a")).add({ constructor: 1, __proto__x: [] }, "a");
  const again = decode(encode(map)) as LwwMap;
  assert.deepEqual(again.keys(), ["__proto__"]);
  assert.deepEqual((again.get("__proto__") as OrSet).value, [{ constructor: 1, __proto__x: [] }]);
});

test("over the relay: deltas as updates, the state as snapshot", async () => {
  const name = fresh("list");
  const open = async (list: Rga) =>
    await Synced.open({
      document: new RelayDocument(api(), name),
      replica: { merge: (blob) => list.merge(decode(blob) as Rga), encode: () => encode(list) },
    });
  const lists = [new Rga(), new Rga()];
  const [one, two] = [await open(lists[0]!), await open(lists[1]!)];
  await one.push(encode(lists[0]!.insert(0, "ab", "one")));
  await two.push(encode(lists[1]!.insert(0, "xy", "two")));
  while (lists.some((list) => list.length < 4)) await new Promise((done) => setTimeout(done, 10));
  assert.equal(`${lists[0]}`, `${lists[1]}`);
  await one.compact();
  await Promise.all([one.close(), two.close()]);
  const late = new Rga();
  const three = await open(late);
  await three.settled();
  await three.close();
  assert.equal(`${late}`, `${lists[0]}`);
});
