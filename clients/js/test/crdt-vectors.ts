// The test vectors that the Python library made: the same bytes, the same merges, the same refusals.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";

import { decode, encode, HybridClock, LwwRegister, MalformedError } from "../src/crdt/index.ts";

interface Vectors {
  now_ms: number;
  values: { value: unknown; bytes: string }[];
  merges: Record<string, string>[];
  refused: { why: string; bytes: string }[];
}

const vectors = JSON.parse(readFileSync(process.argv[2] as string, "utf8")) as Vectors;
const clock = () => new HybridClock("a", () => vectors.now_ms);
const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString("hex");
const bytes = (text: string) => new Uint8Array(Buffer.from(text, "hex"));

function shown(value: unknown): unknown {
  if (value instanceof Uint8Array) return { bytes: hex(value) };
  if (Array.isArray(value)) return value.map(shown);
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, shown(item)]));
}

function given(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(given);
  if (typeof value !== "object" || value === null) return value;
  const entries = Object.entries(value);
  if (entries.length === 1 && entries[0]?.[0] === "bytes") return bytes(entries[0][1] as string);
  return Object.fromEntries(entries.map(([key, item]) => [key, given(item)]));
}

for (const vector of vectors.values) {
  const register = new LwwRegister();
  register.assign(given(vector.value), clock());
  assert.equal(hex(encode(register)), vector.bytes, JSON.stringify(vector.value));
  assert.deepEqual(shown(decode(bytes(vector.bytes)).value), vector.value);
}

for (const vector of vectors.merges) {
  const [a, b, merged] = ["a", "b", "merged"].map((side) => {
    const state = decode(bytes(vector[side] as string));
    const value = vector[`${side}_value`];
    if (value !== undefined) assert.deepEqual(shown(state.value), value, `${vector["name"]}: ${side}`);
    assert.equal(hex(encode(state)), vector[side]);
    return state;
  });
  for (const [one, other] of [[a!, b!], [b!, a!]] as const) {
    const joined = one.copy();
    joined.merge(other, vectors.now_ms);
    joined.merge(one, vectors.now_ms);
    joined.merge(merged!, vectors.now_ms);
    assert.equal(hex(encode(joined)), vector["merged"], vector["name"]);
  }
  assert.equal(hex(encode(a!)), vector["a"], `${vector["name"]}: merging changes what it is called on`);
}

for (const { why, bytes: refused } of vectors.refused) {
  assert.throws(() => decode(bytes(refused)), MalformedError, why);
}

console.log(vectors.values.length, vectors.merges.length, vectors.refused.length);
