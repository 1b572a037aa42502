// A document that works offline, against the real server.

import assert from "node:assert/strict";
import { mkdtemp } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";

import {
  aesGcm,
  newKey,
  RelayDocument,
  type Status,
  type Storage,
  MemoryStorage,
  Synced,
  type SyncedOptions,
} from "../src/index.ts";
import { FileStorage } from "../src/file-storage.ts";
import { api, bytes, fresh, text } from "./server.ts";
import { Words } from "./words.ts";

const nowhere = { url: "http://127.0.0.1:9" };

async function opened(
  name: string,
  options: Partial<SyncedOptions> = {},
): Promise<[Synced, Words]> {
  const replica = new Words();
  const document = new RelayDocument(api(), name);
  return [await Synced.open({ document, replica, saveDelayMs: 0, ...options }), replica];
}

async function until(isTrue: () => boolean | Promise<boolean>): Promise<void> {
  for (let tries = 0; tries < 500; tries++) {
    if (await isTrue()) return;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  throw new Error("it never came to be");
}

function offline(name: string): RelayDocument {
  return new RelayDocument(api(nowhere), name);
}

test("three replicas on three transports come to the same", async () => {
  const name = fresh("doc");
  const all = await Promise.all(
    (["websocket", "sse", "long-poll"] as const).map((via) => opened(name, { via })),
  );
  for (const [at, [synced, words]] of all.entries()) {
    for (let count = 0; count < 40; count++) await synced.push(words.add(`${at}-${count}`));
  }
  await until(() => all.every(([, words]) => words.words.size === 120));
  for (const [synced] of all) await synced.settled();
  assert.equal((await new RelayDocument(api(), name).all()).entries.length, 120);
  for (const [synced] of all) await synced.close();
});

test("what was pushed without a network is sent by the next process", async () => {
  const name = fresh("doc");
  const storage = new FileStorage(await mkdtemp(join(tmpdir(), "synced-")));
  const [first, words] = await opened(name, { document: offline(name), storage });
  await first.push(words.add("a"));
  await first.push(words.add("b"));
  assert.deepEqual([first.status, first.unsent], ["offline", 2]);
  await first.close();

  const [second, again] = await opened(name, { storage });
  assert.deepEqual(again.sorted(), ["a", "b"]);
  await second.settled();
  await second.close();
  assert.equal((await new RelayDocument(api(), name).all()).entries.length, 2);
  assert.deepEqual(await storage.names(), ["place"]);
});

test("a replica that comes back reads on from its cursor", async () => {
  const name = fresh("doc");
  const storage = new MemoryStorage();
  const [first, words] = await opened(name, { storage });
  for (const word of ["a", "b", "c"]) await first.push(words.add(word));
  await first.settled();
  await until(async () => (await stored(storage)).seq === 3);
  await first.close();
  await new RelayDocument(api(), name).append(bytes('["d"]'));

  let merged = 0;
  const counting = new (class extends Words {
    override merge(blob: Uint8Array): void {
      merged++;
      super.merge(blob);
    }
  })();
  const [second] = await opened(name, { storage, replica: counting });
  await until(() => counting.words.size === 4);
  assert.equal(merged, 2); // its own state, and the one entry that was new
  await second.close();
});

async function stored(storage: Storage): Promise<{ seq: number; skipped: number[] }> {
  const value = await storage.get("place");
  if (value === undefined) return { seq: 0, skipped: [] };
  const length = new DataView(value.buffer, value.byteOffset).getUint32(0);
  return JSON.parse(text(value.subarray(4, 4 + length)));
}

test("a snapshot names what was merged, and never what could not be read", async () => {
  const name = fresh("doc");
  const document = new RelayDocument(api(), name);
  for (const word of ["a", "b"]) await document.append(bytes(`["${word}"]`));
  await document.append(bytes("not a set of words"));
  const errors: unknown[] = [];
  const [synced] = await opened(name, { onError: (error) => errors.push(error) });
  await synced.settled();
  assert.equal(errors.length, 1);
  const seq = await synced.compact();
  const { entries } = await document.all();
  assert.deepEqual(
    entries.map((one) => [one.seq, text(one.blob)]),
    [[3, "not a set of words"], [seq, '["a","b"]']],
  );
  await synced.close();
});

test("of two that compact at once one is told that the other was faster", async () => {
  const name = fresh("doc");
  const [one, words] = await opened(name);
  const [two, others] = await opened(name);
  for (const word of ["a", "b", "c"]) await one.push(words.add(word));
  await until(() => others.words.size === 3);
  await until(async () => (await new RelayDocument(api(), name).all()).entries.length === 3);
  others.words.add("only here");
  const made = await Promise.all([one.compact(), two.compact()]);
  assert.equal(made.filter((seq) => seq !== undefined).length, 1);
  await one.close();
  await two.close();
});

test("the server's advice to compact is followed", async () => {
  const name = fresh("doc");
  await api().request("PUT", "/v1/settings/sync", { body: { entry_count_max: 10 } });
  try {
    const [synced, words] = await opened(name, { compact: true, compactDelayMs: 20 });
    for (let count = 0; count < 30; count++) await synced.push(words.add(`${count}`));
    await synced.settled();
    await synced.close();
    const [other, others] = await opened(name);
    await other.settled();
    assert.equal(others.words.size, 30);
    await other.close();
  } finally {
    await api().request("PUT", "/v1/settings/sync", { body: {} });
  }
});

test("an update that is too large is kept aside, and those behind it are sent", async () => {
  const name = fresh("doc");
  const refused: string[] = [];
  await api().request("PUT", "/v1/settings/sync", { body: { blob_bytes_max: 64 } });
  try {
    const storage = new MemoryStorage();
    const onRefused = (update: Uint8Array) => refused.push(text(update));
    const [synced, words] = await opened(name, { storage, onRefused });
    const large = "x".repeat(100);
    await synced.push(words.add(large));
    await synced.push(words.add("small"));
    await synced.settled();
    assert.deepEqual(refused, [`["${large}"]`]);
    assert.equal((await new RelayDocument(api(), name).all()).entries.length, 1);
    assert.equal((await storage.names()).filter((one) => one.startsWith("refused/")).length, 1);
    await synced.close();
  } finally {
    await api().request("PUT", "/v1/settings/sync", { body: {} });
  }
});

test("a document that was deleted is not brought back by a client that was away", async () => {
  const name = fresh("doc");
  const storage = new MemoryStorage();
  const [first, words] = await opened(name, { storage });
  await first.push(words.add("a"));
  await first.settled();
  await first.close();
  await new RelayDocument(api(), name).delete();

  const seen: Status[] = [];
  const [second, again] = await opened(name, { storage, onStatus: (one) => seen.push(one) });
  await second.push(again.add("b"));
  await until(() => second.status === "deleted");
  await assert.rejects(second.settled());
  await assert.rejects(new RelayDocument(api(), name).all(), { status: 404 });
  await second.forget();
  assert.deepEqual(await storage.names(), []);
  assert.equal(seen.at(-1), "deleted");
});

test("with a cipher neither the server nor the disk sees a word", async () => {
  const name = fresh("doc");
  const key = newKey();
  const storage = new MemoryStorage();
  const [one, words] = await opened(name, { cipher: await aesGcm(key, name), storage });
  const [two, others] = await opened(name, { cipher: await aesGcm(key, name) });
  await one.push(words.add("a secret"));
  await until(() => others.words.has("a secret"));
  await one.settled();
  const heard: string[] = [];
  const [three] = await opened(name, {
    cipher: await aesGcm(key, name),
    onPresence: (blob) => heard.push(text(blob)),
  });
  await three.settled();
  await until(async () => {
    await one.whisper(bytes("hello"));
    return heard.length > 0;
  });
  assert.equal(heard[0], "hello");
  await one.compact();
  for (const synced of [one, two, three]) await synced.close();

  const { entries } = await new RelayDocument(api(), name).all();
  const kept = [...entries.map((entry) => entry.blob), (await storage.get("place"))!];
  for (const blob of kept) assert.ok(!Buffer.from(blob).includes("secret"));
});

test("with another key entries are unreadable, and stay where they are", async () => {
  const name = fresh("doc");
  const [one, words] = await opened(name, { cipher: await aesGcm(newKey(), name) });
  await one.push(words.add("a"));
  await one.settled();
  const errors: unknown[] = [];
  const [two, others] = await opened(name, {
    cipher: await aesGcm(newKey(), name),
    onError: (error) => errors.push(error),
  });
  await two.settled();
  assert.deepEqual([others.words.size, errors.length], [0, 1]);
  assert.equal(await two.compact(), undefined);
  assert.equal((await new RelayDocument(api(), name).all()).entries.length, 1);
  for (const synced of [one, two]) await synced.close();
});

test("a sealed blob opens in its own document alone, and with every bit as it was", async () => {
  const key = newKey();
  const cipher = await aesGcm(key, "one");
  const sealed = await cipher.seal(bytes("a"));
  assert.equal(text(await cipher.open(sealed)), "a");
  assert.notDeepEqual(await cipher.seal(bytes("a")), sealed);
  await assert.rejects(async () => (await aesGcm(key, "two")).open(sealed));
  for (let at = 0; at < sealed.length; at++) {
    const bent = Uint8Array.from(sealed);
    bent[at]! ^= 1;
    await assert.rejects(cipher.open(bent));
  }
  await assert.rejects(cipher.open(new Uint8Array()));
  await assert.rejects(aesGcm(new Uint8Array(16), "one"), RangeError);
});
