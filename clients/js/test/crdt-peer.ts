// A peer for the Python library: one request a line, as JSON; one answer a line.

import { createInterface } from "node:readline";

import { GCounter, HybridClock, LwwMap, LwwRegister, OrSet, PnCounter, Rga } from "../src/crdt/index.ts";
import { decode, encode } from "../src/crdt/index.ts";

const TYPES = { GCounter, LwwMap, LwwRegister, OrSet, PnCounter, Rga };
const hex = (bytes: Uint8Array) => Buffer.from(bytes).toString("hex");
const bytes = (text: string) => new Uint8Array(Buffer.from(text, "hex"));

interface Asked {
  state: string;
  verb: string;
  now_ms: number;
  /** Arguments of the verb; `clock` and `state` are made of their text here. */
  arguments: unknown[];
}

for await (const line of createInterface({ input: process.stdin })) {
  const { state, verb, arguments: plain, now_ms } = JSON.parse(line) as Asked;
  const target = state in TYPES ? new TYPES[state as keyof typeof TYPES]() : decode(bytes(state));
  const given = plain.map((one) => {
    const { clock, state } = (one ?? {}) as { clock?: string; state?: string };
    if (clock !== undefined) return new HybridClock(clock, () => now_ms);
    return state === undefined ? one : decode(bytes(state));
  });
  let answer: object;
  try {
    // The verbs are called as anyone would; which of them is the test's to say.
    const verbs = target as unknown as Record<string, (...given: unknown[]) => unknown>;
    const delta = verbs[verb]?.(...given, ...(verb === "merge" ? [now_ms] : []));
    const made = delta === undefined ? "" : hex(encode(delta as OrSet));
    answer = { state: hex(encode(target)), delta: made };
  } catch (error) {
    answer = { error: (error as Error).name };
  }
  console.log(JSON.stringify(answer));
}
