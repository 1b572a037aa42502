/** Values by name. Each `put` is whole or has not happened, also when the device loses power. */
export interface Storage {
    get(name: string): Promise<Uint8Array | undefined>;
    put(name: string, value: Uint8Array): Promise<void>;
    delete(name: string): Promise<void>;
    /** Names in order. */
    names(): Promise<string[]>;
}
/** Nothing outlives the process. */
export declare class MemoryStorage implements Storage {
    #private;
    get(name: string): Promise<Uint8Array | undefined>;
    put(name: string, value: Uint8Array): Promise<void>;
    delete(name: string): Promise<void>;
    names(): Promise<string[]>;
}
/** The browser's localStorage: a few megabytes, as base64. For more, `IndexedDbStorage`. */
export declare class LocalStorage implements Storage {
    #private;
    constructor(name: string, store?: globalThis.Storage);
    get(name: string): Promise<Uint8Array | undefined>;
    put(name: string, value: Uint8Array): Promise<void>;
    delete(name: string): Promise<void>;
    names(): Promise<string[]>;
}
/** The browser's IndexedDB, a database of its own under `name`. */
export declare class IndexedDbStorage implements Storage {
    #private;
    constructor(name: string, factory?: IDBFactory);
    get(name: string): Promise<Uint8Array | undefined>;
    put(name: string, value: Uint8Array): Promise<void>;
    delete(name: string): Promise<void>;
    names(): Promise<string[]>;
}
