// A folder as storage, for Node.
import { mkdir, open, readdir, readFile, rename, rm } from "node:fs/promises";
import { join } from "node:path";
const UNFINISHED = ".new";
/** A file a value in a folder of its own. */
export class FileStorage {
    #folder;
    #made;
    constructor(folder) {
        this.#folder = folder;
        this.#made = mkdir(folder, { recursive: true });
        // Whoever uses it hears of the failure; nobody else has to.
        this.#made.catch(() => { });
    }
    async get(name) {
        try {
            return new Uint8Array(await readFile(this.#file(name)));
        }
        catch (error) {
            if (error.code === "ENOENT")
                return undefined;
            throw error;
        }
    }
    async put(name, value) {
        await this.#made;
        const file = this.#file(name);
        const handle = await open(file + UNFINISHED, "w");
        try {
            await handle.writeFile(value);
            await handle.sync();
        }
        finally {
            await handle.close();
        }
        await rename(file + UNFINISHED, file);
        await this.#syncFolder();
    }
    async delete(name) {
        await rm(this.#file(name), { force: true });
    }
    async names() {
        await this.#made;
        const files = await readdir(this.#folder);
        return files
            .filter((file) => !file.endsWith(UNFINISHED))
            .map(decodeURIComponent)
            .sort();
    }
    #file(name) {
        return join(this.#folder, encodeURIComponent(name));
    }
    /** A new name in a folder outlives a power cut only when the folder was synced. */
    async #syncFolder() {
        const handle = await open(this.#folder, "r");
        try {
            await handle.sync();
        }
        finally {
            await handle.close();
        }
    }
}
