// A folder as storage, for Node.

import { mkdir, open, readdir, readFile, rename, rm } from "node:fs/promises";
import { join } from "node:path";

import type { Storage } from "./storage.ts";

const UNFINISHED = ".new";

/** A file a value in a folder of its own. */
export class FileStorage implements Storage {
  readonly #folder: string;
  readonly #made: Promise<unknown>;

  constructor(folder: string) {
    this.#folder = folder;
    this.#made = mkdir(folder, { recursive: true });
    // Whoever uses it hears of the failure; nobody else has to.
    this.#made.catch(() => {});
  }

  async get(name: string): Promise<Uint8Array | undefined> {
    try {
      return new Uint8Array(await readFile(this.#file(name)));
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
      throw error;
    }
  }

  async put(name: string, value: Uint8Array): Promise<void> {
    await this.#made;
    const file = this.#file(name);
    const handle = await open(file + UNFINISHED, "w");
    try {
      await handle.writeFile(value);
      await handle.sync();
    } finally {
      await handle.close();
    }
    await rename(file + UNFINISHED, file);
    await this.#syncFolder();
  }

  async delete(name: string): Promise<void> {
    await rm(this.#file(name), { force: true });
  }

  async names(): Promise<string[]> {
    await this.#made;
    const files = await readdir(this.#folder);
    return files
      .filter((file) => !file.endsWith(UNFINISHED))
      .map(decodeURIComponent)
      .sort();
  }

  #file(name: string): string {
    return join(this.#folder, encodeURIComponent(name));
  }

  /** A new name in a folder outlives a power cut only when the folder was synced. */
  async #syncFolder(): Promise<void> {
    const handle = await open(this.#folder, "r");
    try {
      await handle.sync();
    } finally {
      await handle.close();
    }
  }
}
