import { type Api } from "./api.ts";
import type { Entry, News, Page, Transport, Writer, Written } from "./entry.ts";
export declare const KINDS: Record<number, Entry["kind"]>;
export interface WriteOptions {
    /** Refuse with 410 `epoch_ended` where the document is in another epoch by now. */
    epoch?: number | undefined;
    signal?: AbortSignal | undefined;
}
export interface StateOptions extends WriteOptions {
    /** Store only in place of the state with this ETag. */
    ifMatch?: string;
    /** Store only where the replica has no state. */
    ifAbsent?: boolean;
}
export interface FollowOptions {
    /** A cursor; from the beginning without one. */
    since?: string | undefined;
    epoch?: number | undefined;
    /** `websocket` by default. */
    via?: Transport;
    signal?: AbortSignal;
}
export interface Superseded {
    seq: number;
    kind: Entry["kind"];
    restorable_until: string;
}
/** One entry as JSON shows it. */
export interface EntryShown {
    seq: number;
    kind: Entry["kind"];
    replica: string | null;
    blob: string;
}
/** An entry from its JSON. */
export declare function entryOf(shown: EntryShown): Entry;
/** A document by name. Nothing is kept here: `Synced` keeps what a client needs offline. */
export declare class RelayDocument implements Writer {
    #private;
    readonly api: Api;
    readonly name: string;
    readonly path: string;
    constructor(api: Api, name: string);
    /** Append one change. */
    append(blob: Uint8Array, options?: WriteOptions): Promise<Written>;
    /** Store all that one replica knows, in place of its state before. */
    putState(replica: string, blob: Uint8Array, options?: StateOptions): Promise<Written>;
    /** A replica's state and its ETag; undefined where it has none. */
    state(replica: string): Promise<{
        blob: Uint8Array;
        etag: string;
    } | undefined>;
    /** Post a snapshot in place of the entries it holds. */
    compact(blob: Uint8Array, supersedes: string, options?: WriteOptions): Promise<Written>;
    /** Presence; answered when it was taken, and never tried again. */
    whisper(blob: Uint8Array): Promise<void>;
    /** A page of live entries with their bytes. */
    entries(since?: string, limit?: number): Promise<Page>;
    /** Everything live behind a cursor, in one answer of binary frames. */
    all(since?: string): Promise<Page>;
    /** One entry's bytes; superseded ones too, until their grace period is over. */
    entry(seq: number): Promise<Uint8Array>;
    /** What can be restored. */
    superseded(): Promise<Superseded[]>;
    /** Make superseded entries live again, under new numbers. */
    restore(entries: string): Promise<{
        restored: number;
        seq: number;
    }[]>;
    /** Delete the document; its next epoch begins. Not tried again: another may have begun it anew. */
    delete(): Promise<void>;
    /**
     * Everything from a cursor on, then each entry as it is committed. Connections that break are
     * made anew, from where the last one ended, until `signal` says stop or the document is deleted.
     *
     * @throws Problem for a refusal that trying again does not mend.
     */
    follow(options?: FollowOptions): AsyncGenerator<News>;
}
/** A query string of what is defined. */
export declare function query(parameters: Record<string, string | number | undefined>): string;
