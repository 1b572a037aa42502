// The parts that need no server.

import assert from "node:assert/strict";
import { mkdtemp, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";

import { Backoff, LocalStorage, MemoryStorage, Problem, type Storage } from "../src/index.ts";
import { fromBase64, toBase64 } from "../src/bytes.ts";
import { rangesUpTo } from "../src/entry.ts";
import { events } from "../src/events.ts";
import { FileStorage } from "../src/file-storage.ts";
import { frame, frames } from "../src/frames.ts";

const bytes = (text: string) => new TextEncoder().encode(text);

class FakeLocalStorage {
  readonly #values = new Map<string, string>();
  get length(): number {
    return this.#values.size;
  }
  key(at: number): string | null {
    return [...this.#values.keys()][at] ?? null;
  }
  getItem(name: string): string | null {
    return this.#values.get(name) ?? null;
  }
  setItem(name: string, value: string): void {
    this.#values.set(name, value);
  }
  removeItem(name: string): void {
    this.#values.delete(name);
  }
}

const STORAGES: Record<string, () => Promise<Storage>> = {
  memory: async () => new MemoryStorage(),
  local: async () => {
    const store = new FakeLocalStorage() as unknown as globalThis.Storage;
    store.setItem("another/x", "");
    return new LocalStorage("mine", store);
  },
  file: async () => new FileStorage(await mkdtemp(join(tmpdir(), "storage-"))),
};

for (const [kind, make] of Object.entries(STORAGES)) {
  test(`${kind} storage keeps values under their names, in order`, async () => {
    const storage = await make();
    assert.equal(await storage.get("a"), undefined);
    await storage.put("update/2", bytes("two"));
    await storage.put("update/1", Uint8Array.of(0, 255, 128));
    await storage.put("a", bytes("first"));
    await storage.put("a", bytes("second"));
    assert.deepEqual(await storage.names(), ["a", "update/1", "update/2"]);
    assert.deepEqual(new Uint8Array((await storage.get("update/1"))!), Uint8Array.of(0, 255, 128));
    assert.deepEqual(new Uint8Array((await storage.get("a"))!), bytes("second"));
    await storage.delete("a");
    await storage.delete("a");
    assert.deepEqual(await storage.names(), ["update/1", "update/2"]);
  });
}

test("a file that was being written when the process died is no value", async () => {
  const folder = await mkdtemp(join(tmpdir(), "storage-"));
  const storage = new FileStorage(folder);
  await storage.put("a", bytes("whole"));
  await writeFile(join(folder, "a.new"), "ha");
  assert.deepEqual(await storage.names(), ["a"]);
  assert.deepEqual(new Uint8Array((await storage.get("a"))!), bytes("whole"));
});

test("base64 of any length comes back", () => {
  for (const length of [0, 1, 2, 3, 8191, 8192, 8193, 100_000]) {
    const blob = Uint8Array.from({ length }, (_, at) => (at * 7) % 256);
    assert.deepEqual(fromBase64(toBase64(blob)), blob);
  }
});

test("frames come back, and a cut anywhere is seen", () => {
  const both = Buffer.concat([frame(1, 7, "phone", bytes("blob")), frame(2, 2 ** 40, "", bytes(""))]);
  const read = [...frames(both)];
  assert.deepEqual(
    read.map((one) => [one.kind, one.number, one.replica, Buffer.from(one.blob).toString()]),
    [[1, 7, "phone", "blob"], [2, 2 ** 40, "", ""]],
  );
  const boundary = frame(1, 7, "phone", bytes("blob")).length;
  for (let at = 1; at < both.length; at++) {
    if (at !== boundary) assert.throws(() => [...frames(both.subarray(0, at))], RangeError);
  }
});

test("a snapshot's numbers leave out what could not be read", () => {
  assert.equal(rangesUpTo(0, []), "");
  assert.equal(rangesUpTo(1, []), "1");
  assert.equal(rangesUpTo(41, []), "1-41");
  assert.equal(rangesUpTo(5, [3, 3]), "1-2,4-5");
  assert.equal(rangesUpTo(5, [5, 1]), "2-4");
  assert.equal(rangesUpTo(1, [1]), "");
  assert.equal(rangesUpTo(4, [2, 9]), "1,3-4");
});

test("events are the same however the network cuts them", async () => {
  const stream = 'id: c1\ndata: {"a":"ü"}\n\n: up to date\n\nevent: deleted\ndata: {"epoch":2}\n\n';
  const whole = bytes(stream);
  for (const size of [1, 2, 7, whole.length]) {
    const body = new ReadableStream({
      start(controller) {
        for (let at = 0; at < whole.length; at += size) {
          controller.enqueue(whole.slice(at, at + size));
        }
        controller.close();
      },
    });
    const read = [];
    for await (const one of events(new Response(body), 1000)) read.push(one);
    assert.deepEqual(
      read.map((one) => [one.id, one.event, one.data, one.comment]),
      [
        ["c1", "message", '{"a":"ü"}', undefined],
        [undefined, "message", "", "up to date"],
        [undefined, "deleted", '{"epoch":2}', undefined],
      ],
    );
  }
});

test("a stream that falls silent is a connection that died", async () => {
  const silent = new Response(new ReadableStream({}));
  await assert.rejects(async () => {
    for await (const _ of events(silent, 20));
  }, { name: "Disconnected" });
});

test("pauses grow to a bound, by chance, and honour Retry-After", async (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const backoff = new Backoff({ firstMs: 100, longestMs: 400, random: () => 1 });
  const paused = async (error: unknown, ms: number) => {
    let isOver = false;
    const pause = backoff.pause(error).then(() => (isOver = true));
    t.mock.timers.tick(ms - 1);
    await Promise.resolve();
    assert.equal(isOver, false);
    t.mock.timers.tick(1);
    await pause;
  };
  for (const ms of [100, 200, 400, 400]) await paused(undefined, ms);
  backoff.reset();
  await paused(new Problem(429, "rate_limited", "", {}, 5000), 5100);
  const woken = backoff.pause(undefined);
  backoff.wake();
  await woken;
});
