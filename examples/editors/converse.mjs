// An editor that is told what to do line by line; it answers each with a line. What others do comes in
// between, so places are at most what there is, and lines are removed by what they say.

import { createInterface } from "node:readline";

/** `lines` has `add(at, text)`, `remove(text)` and `show()`; `synced` is the document behind them. */
export async function converse(lines, synced) {
  for await (const line of createInterface({ input: process.stdin })) {
    const [, word, rest] = /^(\w+) ?(.*)$/.exec(line);
    const [, at, text] = /^(\d+) (.*)$/.exec(rest) ?? [];
    if (word === "add") await lines.add(Math.min(Number(at), lines.show().length), text);
    else if (word === "remove" && lines.show().includes(rest)) await lines.remove(rest);
    else if (word === "settle") await synced.settled();
    else if (word === "compact") await synced.compact().catch(() => {}); // offline: another time
    else if (word === "close") break;
    console.log(word === "show" ? JSON.stringify(lines.show()) : "done");
  }
  await synced.close();
}
