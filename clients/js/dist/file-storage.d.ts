import type { Storage } from "./storage.ts";
/** A file a value in a folder of its own. */
export declare class FileStorage implements Storage {
    #private;
    constructor(folder: string);
    get(name: string): Promise<Uint8Array | undefined>;
    put(name: string, value: Uint8Array): Promise<void>;
    delete(name: string): Promise<void>;
    names(): Promise<string[]>;
}
