// node yjs.mjs DOCUMENT FOLDER [websocket|sse|long-poll]: a list of lines in Yjs, offline first.

import * as Y from "yjs";

import { FileStorage } from "../../clients/js/dist/file-storage.js";
import { Api, RelayDocument, Synced } from "../../clients/js/dist/index.js";
import { converse } from "./converse.mjs";

const [name, folder, via] = process.argv.slice(2);
const ydoc = new Y.Doc();
// Somebody is looking at it: no pause longer than a second.
const backoff = { longestMs: 1000 };
const api = new Api({ url: process.env.URL, token: process.env.KEY, backoff });

const synced = await Synced.open({
  document: new RelayDocument(api, name),
  storage: new FileStorage(folder),
  replica: {
    merge: (blob) => Y.applyUpdate(ydoc, blob, "relay"),
    encode: () => Y.encodeStateAsUpdate(ydoc),
  },
  via,
});

let stored;
ydoc.on("update", (update, origin) => {
  if (origin !== "relay") stored = synced.push(update);
});

const list = ydoc.getArray("lines");
await converse(
  {
    add(at, text) {
      list.insert(at, [text]);
      return stored;
    },
    remove(text) {
      list.delete(list.toJSON().indexOf(text));
      return stored;
    },
    show: () => list.toJSON(),
  },
  synced,
);
