// Where a client keeps what it must not lose: a few values under names.

import { fromBase64, toBase64 } from "./bytes.ts";

/** Values by name. Each `put` is whole or has not happened, also when the device loses power. */
export interface Storage {
  get(name: string): Promise<Uint8Array | undefined>;
  put(name: string, value: Uint8Array): Promise<void>;
  delete(name: string): Promise<void>;
  /** Names in order. */
  names(): Promise<string[]>;
}

/** Nothing outlives the process. */
export class MemoryStorage implements Storage {
  readonly #values = new Map<string, Uint8Array>();

  async get(name: string): Promise<Uint8Array | undefined> {
    return this.#values.get(name);
  }

  async put(name: string, value: Uint8Array): Promise<void> {
    this.#values.set(name, value);
  }

  async delete(name: string): Promise<void> {
    this.#values.delete(name);
  }

  async names(): Promise<string[]> {
    return [...this.#values.keys()].sort();
  }
}

/** The browser's localStorage: a few megabytes, as base64. For more, `IndexedDbStorage`. */
export class LocalStorage implements Storage {
  readonly #prefix: string;
  readonly #store: globalThis.Storage;

  constructor(name: string, store: globalThis.Storage = globalThis.localStorage) {
    this.#prefix = `${name}/`;
    this.#store = store;
  }

  async get(name: string): Promise<Uint8Array | undefined> {
    const text = this.#store.getItem(this.#prefix + name);
    return text === null ? undefined : fromBase64(text);
  }

  async put(name: string, value: Uint8Array): Promise<void> {
    this.#store.setItem(this.#prefix + name, toBase64(value));
  }

  async delete(name: string): Promise<void> {
    this.#store.removeItem(this.#prefix + name);
  }

  async names(): Promise<string[]> {
    const found: string[] = [];
    for (let at = 0; at < this.#store.length; at++) {
      const name = this.#store.key(at);
      if (name?.startsWith(this.#prefix)) found.push(name.slice(this.#prefix.length));
    }
    return found.sort();
  }
}

const STORE = "values";

/** The browser's IndexedDB, a database of its own under `name`. */
export class IndexedDbStorage implements Storage {
  readonly #database: Promise<IDBDatabase>;

  constructor(name: string, factory: IDBFactory = globalThis.indexedDB) {
    const opening = factory.open(name, 1);
    opening.onupgradeneeded = () => opening.result.createObjectStore(STORE);
    this.#database = settled(opening);
  }

  async get(name: string): Promise<Uint8Array | undefined> {
    const transaction = (await this.#database).transaction(STORE);
    return await settled<Uint8Array | undefined>(transaction.objectStore(STORE).get(name));
  }

  async put(name: string, value: Uint8Array): Promise<void> {
    await this.#change((values) => values.put(value, name));
  }

  async delete(name: string): Promise<void> {
    await this.#change((values) => values.delete(name));
  }

  async names(): Promise<string[]> {
    const transaction = (await this.#database).transaction(STORE);
    return (await settled(transaction.objectStore(STORE).getAllKeys())) as string[];
  }

  async #change(change: (values: IDBObjectStore) => void): Promise<void> {
    // Strict: by default Chromium says that a change is done before it is on the disk.
    const transaction = (await this.#database).transaction(STORE, "readwrite", {
      durability: "strict",
    });
    change(transaction.objectStore(STORE));
    await new Promise<void>((resolve, reject) => {
      transaction.oncomplete = () => resolve();
      transaction.onabort = () => reject(transaction.error);
    });
  }
}

function settled<T>(request: IDBRequest<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}
