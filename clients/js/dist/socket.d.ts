import { type RelayDocument } from "./document.ts";
import type { News } from "./entry.ts";
import type { From } from "./following.ts";
/** One WebSocket from its hello to its end. */
export declare function overSocket(document: RelayDocument, from: From): AsyncGenerator<News>;
