// node automerge.mjs DOCUMENT FOLDER [websocket|sse|long-poll]: a list of lines in Automerge.

import * as Automerge from "@automerge/automerge";

import { FileStorage } from "../../clients/js/dist/file-storage.js";
import { Api, RelayDocument, Synced } from "../../clients/js/dist/index.js";
import { converse } from "./converse.mjs";

const [name, folder, via] = process.argv.slice(2);

// Everyone begins with the same change, by the same actor at the same time: lists that two make for
// themselves are two lists, of which one is shown.
const root = Automerge.change(Automerge.init({ actor: "00" }), { time: 0 }, (doc) => {
  doc.lines = [];
});
let doc = Automerge.clone(root);

// Somebody is looking at it: no pause longer than a second.
const backoff = { longestMs: 1000 };
const api = new Api({ url: process.env.URL, token: process.env.KEY, backoff });

const synced = await Synced.open({
  document: new RelayDocument(api, name),
  storage: new FileStorage(folder),
  replica: {
    merge: (blob) => {
      doc = Automerge.loadIncremental(doc, blob);
    },
    encode: () => Automerge.save(doc),
  },
  via,
});

function change(edit) {
  doc = Automerge.change(doc, edit);
  return synced.push(Automerge.getLastLocalChange(doc));
}

await converse(
  {
    add: (at, text) => change((doc) => doc.lines.splice(at, 0, text)),
    remove: (text) => change((doc) => doc.lines.splice(doc.lines.indexOf(text), 1)),
    show: () => doc.lines,
  },
  synced,
);
