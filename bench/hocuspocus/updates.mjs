// Yjs updates as editors make them: node updates.mjs EDITORS COUNT BYTES FILE
// Each sets one key of a map to new random bytes, so documents stay as small as a replica's state.
// FILE is u32 editors, then for each u32 count, then u32 size and the bytes of each update.
import { randomBytes } from "node:crypto";
import { createWriteStream } from "node:fs";
import * as Y from "yjs";

const [editors, count, bytes, file] = process.argv.slice(2).map((word, i) => (i < 3 ? Number(word) : word));
const out = createWriteStream(file);
const number = (value) => {
  const four = Buffer.alloc(4);
  four.writeUInt32LE(value);
  out.write(four);
};
number(editors);
for (let editor = 0; editor < editors; editor++) {
  number(count);
  const document = new Y.Doc();
  document.clientID = 1000 + editor;
  document.on("update", (update) => {
    number(update.length);
    out.write(update);
  });
  for (let n = 0; n < count; n++) document.getMap("state").set("all", new Uint8Array(randomBytes(bytes)));
}
out.end();
