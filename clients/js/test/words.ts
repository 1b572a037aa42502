// The smallest CRDT there is: a set of words that only grows.

import type { Replica } from "../src/index.ts";
import { bytes, text } from "./server.ts";

export class Words implements Replica {
  readonly words = new Set<string>();

  /** Add a word; the update that says so. */
  add(word: string): Uint8Array {
    this.words.add(word);
    return bytes(JSON.stringify([word]));
  }

  merge(blob: Uint8Array): void {
    for (const word of JSON.parse(text(blob)) as string[]) this.words.add(word);
  }

  encode(): Uint8Array {
    return bytes(JSON.stringify(this.sorted()));
  }

  sorted(): string[] {
    return [...this.words].sort();
  }
}
