// Where a client keeps what it must not lose: a few values under names.
import { fromBase64, toBase64 } from "./bytes.js";
/** Nothing outlives the process. */
export class MemoryStorage {
    #values = new Map();
    async get(name) {
        return this.#values.get(name);
    }
    async put(name, value) {
        this.#values.set(name, value);
    }
    async delete(name) {
        this.#values.delete(name);
    }
    async names() {
        return [...this.#values.keys()].sort();
    }
}
/** The browser's localStorage: a few megabytes, as base64. For more, `IndexedDbStorage`. */
export class LocalStorage {
    #prefix;
    #store;
    constructor(name, store = globalThis.localStorage) {
        this.#prefix = `${name}/`;
        this.#store = store;
    }
    async get(name) {
        const text = this.#store.getItem(this.#prefix + name);
        return text === null ? undefined : fromBase64(text);
    }
    async put(name, value) {
        this.#store.setItem(this.#prefix + name, toBase64(value));
    }
    async delete(name) {
        this.#store.removeItem(this.#prefix + name);
    }
    async names() {
        const found = [];
        for (let at = 0; at < this.#store.length; at++) {
            const name = this.#store.key(at);
            if (name?.startsWith(this.#prefix))
                found.push(name.slice(this.#prefix.length));
        }
        return found.sort();
    }
}
const STORE = "values";
/** The browser's IndexedDB, a database of its own under `name`. */
export class IndexedDbStorage {
    #database;
    constructor(name, factory = globalThis.indexedDB) {
        const opening = factory.open(name, 1);
        opening.onupgradeneeded = () => opening.result.createObjectStore(STORE);
        this.#database = settled(opening);
    }
    async get(name) {
        const transaction = (await this.#database).transaction(STORE);
        return await settled(transaction.objectStore(STORE).get(name));
    }
    async put(name, value) {
        await this.#change((values) => values.put(value, name));
    }
    async delete(name) {
        await this.#change((values) => values.delete(name));
    }
    async names() {
        const transaction = (await this.#database).transaction(STORE);
        return (await settled(transaction.objectStore(STORE).getAllKeys()));
    }
    async #change(change) {
        // Strict: by default Chromium says that a change is done before it is on the disk.
        const transaction = (await this.#database).transaction(STORE, "readwrite", {
            durability: "strict",
        });
        change(transaction.objectStore(STORE));
        await new Promise((resolve, reject) => {
            transaction.oncomplete = () => resolve();
            transaction.onabort = () => reject(transaction.error);
        });
    }
}
function settled(request) {
    return new Promise((resolve, reject) => {
        request.onsuccess = () => resolve(request.result);
        request.onerror = () => reject(request.error);
    });
}
