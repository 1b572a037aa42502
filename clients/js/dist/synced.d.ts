import { Problem } from "./api.ts";
import type { Cipher } from "./cipher.ts";
import type { RelayDocument } from "./document.ts";
import { type Transport } from "./entry.ts";
import { type Storage } from "./storage.ts";
/** A CRDT's replica as this needs it: Yjs, Automerge, Loro, or one of your own. */
export interface Replica {
    /** Merge a state or an update, in any order and any number of times; throw for what is neither. */
    merge(blob: Uint8Array): void;
    /**
     * All it knows, as something that `merge` takes. What was merged and still waits for something
     * before it counts too, as Yjs and Automerge do it: a snapshot replaces what it names.
     */
    encode(): Uint8Array;
}
export type Status = "offline" | "catching-up" | "live" | "deleted" | "refused" | "closed";
export interface SyncedOptions {
    document: RelayDocument;
    replica: Replica;
    /** In memory where it is left out: then nothing outlives the process. */
    storage?: Storage;
    via?: Transport;
    /** Encrypts what is sent and what is stored here. */
    cipher?: Cipher;
    /** Compact when the server advises it; takes the scope `sync:compact`. */
    compact?: boolean;
    /** It waits by chance up to so long, in case another is faster; 5000. */
    compactDelayMs?: number;
    /** The longest time from a change to its saved state; 250. */
    saveDelayMs?: number;
    /** The replica has merged something from elsewhere. */
    onChange?: () => void;
    onStatus?: (status: Status) => void;
    /** Someone else's presence. */
    onPresence?: (blob: Uint8Array) => void;
    /** The server will never take this update; it is kept as `refused/…` in the storage. */
    onRefused?: (update: Uint8Array, error: Problem) => void;
    onError?: (error: unknown) => void;
}
export declare class Synced {
    #private;
    private constructor();
    /** What was stored here is in the replica when this returns; the server is not waited for. */
    static open(options: SyncedOptions): Promise<Synced>;
    get status(): Status;
    /** How many updates the server has not acknowledged. */
    get unsent(): number;
    /** Store an update that the replica has in it already; it is sent when it can be. */
    push(update: Uint8Array): Promise<void>;
    /** Until all that was pushed is acknowledged, and all that was there is merged. */
    settled(): Promise<void>;
    /** Tell everyone who listens now. Say it again every few seconds: it is not stored. */
    whisper(blob: Uint8Array): Promise<void>;
    /**
     * Put a snapshot in place of all that was read. Undefined where another was faster, or nothing
     * was read.
     */
    compact(): Promise<number | undefined>;
    /** Stop, with everything saved. */
    close(): Promise<void>;
    /** Close, and remove what is stored here: for a document that was deleted. */
    forget(): Promise<void>;
}
