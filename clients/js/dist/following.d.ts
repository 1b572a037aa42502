import type { FollowOptions, RelayDocument } from "./document.ts";
import type { News } from "./entry.ts";
/** From where one connection goes on. */
export interface From {
    since: string | undefined;
    epoch: number | undefined;
    /** Whether the last credential was refused. */
    refused: boolean;
    signal: AbortSignal | undefined;
}
/** One connection's news, until it ends or throws. */
export type Listen = (document: RelayDocument, from: From) => AsyncGenerator<News>;
/** See `RelayDocument.follow`. */
export declare function follow(document: RelayDocument, options: FollowOptions): AsyncGenerator<News>;
