// The relay's calls against the real server.

import assert from "node:assert/strict";
import { test } from "node:test";

import { Api, Disconnected, type News, Problem, RelayDocument, type Transport } from "../src/index.ts";
import { api, backoff, bytes, fresh, key, text, url } from "./server.ts";

const TRANSPORTS: Transport[] = ["websocket", "sse", "long-poll"];

function document(prefix = "doc", of = api()): RelayDocument {
  return new RelayDocument(of, fresh(prefix));
}

test("an update that is sent again keeps its number", async () => {
  const doc = document();
  const first = await doc.append(bytes("one"));
  const again = await doc.append(bytes("one"));
  assert.deepEqual([first.seq, again.seq, again.epoch], [1, 1, 1]);
  assert.equal(first.compactAdvised, false);
  assert.equal(text(await doc.entry(1)), "one");
});

test("a state is put, read, and guarded by its ETag", async () => {
  const doc = document();
  assert.equal(await doc.state("phone"), undefined);
  const put = await doc.putState("phone", bytes("a"), { ifAbsent: true });
  const read = await doc.state("phone");
  assert.deepEqual([text(read!.blob), read!.etag], ["a", put.etag]);
  await doc.putState("phone", bytes("b"), { ifMatch: put.etag });
  await assert.rejects(doc.putState("phone", bytes("c"), { ifMatch: put.etag }), { status: 412 });
});

test("pages and the list in frames hold the same, behind any cursor", async () => {
  const doc = document();
  for (const word of ["a", "b", "c"]) await doc.append(bytes(word));
  await doc.putState("phone", bytes("p"));
  const first = await doc.entries(undefined, 2);
  const rest = await doc.entries(first.cursor);
  const all = await doc.all();
  assert.deepEqual(all.entries, [...first.entries, ...rest.entries]);
  assert.deepEqual([first.upToDate, rest.upToDate, all.upToDate], [false, true, true]);
  assert.deepEqual((await doc.all(first.cursor)).entries, rest.entries);
  assert.equal(all.entries[3]!.replica, "phone");
  assert.deepEqual((await doc.entries(all.cursor)).entries, []);
});

test("a snapshot supersedes, and what it superseded is restored", async () => {
  const doc = document();
  for (const word of ["a", "b", "c"]) await doc.append(bytes(word));
  const { seq } = await doc.compact(bytes("ab"), "1-2");
  assert.deepEqual((await doc.all()).entries.map((one) => one.seq), [3, seq]);
  assert.deepEqual((await doc.superseded()).map((one) => one.seq), [1, 2]);
  assert.deepEqual(await doc.restore("2"), [{ restored: 2, seq: seq + 1 }]);
  await assert.rejects(doc.compact(bytes("x"), "99"), { code: "unknown_entries" });
});

test("a write in an ended epoch brings nothing back", async () => {
  const doc = document();
  const { epoch } = await doc.append(bytes("a"));
  await doc.delete();
  await assert.rejects(doc.append(bytes("b"), { epoch }), { status: 410, code: "epoch_ended" });
  await assert.rejects(doc.all(), { status: 404 });
});

for (const via of TRANSPORTS) {
  test(`${via}: follows what was there and what comes, and resumes by cursor`, async () => {
    const doc = document(via);
    await doc.append(bytes("a"));
    const heard: string[] = [];
    let cursor: string | undefined;
    const stop = new AbortController();
    for await (const news of doc.follow({ via, signal: stop.signal })) {
      if (news.type === "up_to_date" && heard.length === 1) await doc.append(bytes("b"));
      if (news.type !== "entries") continue;
      heard.push(...news.entries.map((one) => text(one.blob)));
      cursor = news.cursor;
      if (heard.length === 2) break;
    }
    assert.deepEqual(heard, ["a", "b"]);
    await doc.append(bytes("c"));
    for await (const news of doc.follow({ via, since: cursor })) {
      if (news.type !== "entries") continue;
      assert.deepEqual(news.entries.map((one) => text(one.blob)), ["c"]);
      break;
    }
  });

  test(`${via}: a document that is yet to be is waited for`, async () => {
    const doc = document(via);
    let isFirst = true;
    for await (const news of doc.follow({ via })) {
      if (news.type === "open" && isFirst) {
        isFirst = false;
        await news.writer.append(bytes("a"));
      }
      if (news.type === "entries") break;
    }
  });

  test(`${via}: a cursor below a snapshot goes on with the snapshot`, async () => {
    const doc = document(via);
    await doc.append(bytes("a"));
    const { cursor } = await doc.all();
    for (const word of ["b", "c"]) await doc.append(bytes(word));
    await doc.compact(bytes("abc"), "1-3");
    const heard: string[] = [];
    for await (const news of doc.follow({ via, since: cursor })) {
      if (news.type === "entries") heard.push(...news.entries.map((one) => text(one.blob)));
      if (news.type === "up_to_date" && heard.length > 0) break;
    }
    assert.deepEqual(heard, ["abc"]);
  });

  test(`${via}: the end of the document is the end of following it`, async () => {
    const doc = document(via);
    await doc.append(bytes("a"));
    const types: string[] = [];
    for await (const news of doc.follow({ via })) {
      types.push(news.type);
      if (news.type === "up_to_date") await doc.delete();
    }
    assert.equal(types.at(-1), "deleted");
  });

  test(`${via}: a follower stops when it is told to`, async () => {
    const doc = document(via);
    await doc.append(bytes("a"));
    const stop = new AbortController();
    for await (const news of doc.follow({ via, signal: stop.signal })) {
      if (news.type === "up_to_date") stop.abort();
    }
  });

  test(`${via}: a key without the right is an error, not a silence`, async () => {
    const doc = document(via, api({ token: "mk_live_nobody_nothing" }));
    await assert.rejects(
      async () => {
        for await (const _ of doc.follow({ via }));
      },
      { name: "Problem", status: 401 },
    );
  });

  test(`${via}: a token that ended is fetched anew`, async () => {
    const doc = document(via);
    await doc.append(bytes("a"));
    const renewing = api({ token: (wasRefused) => (wasRefused ? key : "mk_live_old_old") });
    for await (const news of new RelayDocument(renewing, doc.name).follow({ via })) {
      if (news.type === "entries") break;
    }
  });
}

for (const via of ["websocket", "sse"] as const) {
  test(`${via}: presence reaches those who listen, and is stored nowhere`, async () => {
    const doc = document();
    await doc.append(bytes("a"));
    const stop = new AbortController();
    for await (const news of doc.follow({ via, signal: stop.signal })) {
      if (news.type === "up_to_date") await doc.whisper(bytes("here"));
      if (news.type !== "presence") continue;
      assert.equal(text(news.blob), "here");
      break;
    }
    assert.equal((await doc.all()).entries.length, 1);
  });
}

test("a WebSocket carries every write, and its refusals", async () => {
  const doc = document();
  for await (const news of doc.follow()) {
    if (news.type !== "open") continue;
    const { writer } = news;
    const first = await writer.append(bytes("a"));
    assert.equal((await writer.append(bytes("a"))).seq, first.seq);
    const state = await writer.putState("phone", bytes("p"));
    assert.equal((await writer.compact(bytes("ap"), `1-${state.seq}`)).seq, 3);
    await assert.rejects(writer.compact(bytes("x"), "99"), { code: "unknown_entries" });
    await writer.whisper(bytes("here"));
    await assert.rejects(writer.append(bytes("")), { code: "empty_blob" });
    break;
  }
  assert.deepEqual((await doc.all()).entries.map((one) => text(one.blob)), ["ap"]);
});

test("a request is tried again with growing pauses, and as often as it was told", async () => {
  let calls = 0;
  const flaky: typeof fetch = async (...call) => {
    calls++;
    if (calls === 1) throw new TypeError("the network is gone");
    if (calls === 2) return new Response("busy", { status: 503 });
    return await fetch(...call);
  };
  const doc = document("doc", api({ fetch: flaky }));
  assert.equal((await doc.append(bytes("a"))).seq, 1);
  assert.equal(calls, 3);
  const dead: typeof fetch = () => Promise.reject(new TypeError("gone"));
  const other = document("doc", api({ fetch: dead, attempts: 2 }));
  await assert.rejects(other.append(bytes("a")), Disconnected);
});

test("a refusal carries status, code and members, and is not tried again", async () => {
  let calls = 0;
  const counted: typeof fetch = (...call) => {
    calls++;
    return fetch(...call);
  };
  const doc = document("doc", api({ fetch: counted }));
  const refusal = await doc.append(bytes("")).catch((error: unknown) => error);
  assert.ok(refusal instanceof Problem);
  assert.deepEqual([refusal.status, refusal.code, calls], [422, "empty_blob", 1]);
});

test("a list that is cut off is no list", async () => {
  const doc = document();
  await doc.append(bytes("a"));
  const cut: typeof fetch = async (...call) => {
    const answer = await fetch(...call);
    const body = new Uint8Array(await answer.arrayBuffer());
    // The whole frame of the entry, and not the one that ends the list.
    const size = new DataView(body.buffer).getUint32(0) + 4;
    return new Response(body.slice(0, size), { headers: answer.headers });
  };
  const broken = new RelayDocument(new Api({ url, token: key, backoff, fetch: cut }), doc.name);
  await assert.rejects(broken.all(), Disconnected);
});

test("names of documents are any text that the server takes", async () => {
  const doc = new RelayDocument(api(), fresh("a.b-c_d"));
  const types: News["type"][] = [];
  await doc.append(bytes("a"));
  for await (const news of doc.follow()) {
    types.push(news.type);
    if (news.type === "up_to_date") break;
  }
  assert.deepEqual(types, ["open", "entries", "up_to_date"]);
});
