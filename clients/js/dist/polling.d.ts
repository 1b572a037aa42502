import { type RelayDocument } from "./document.ts";
import type { News, Writer } from "./entry.ts";
import type { From } from "./following.ts";
/** Server-sent events. */
export declare function serverSent(document: RelayDocument, from: From): AsyncGenerator<News>;
/** Requests that wait for the first entry. They hear no presence. */
export declare function longPoll(document: RelayDocument, from: From): AsyncGenerator<News>;
/** The document's writes, all in one epoch, so that none brings a deleted document back. */
export declare function writerIn(document: RelayDocument, epoch: number | undefined, from: From): Writer;
