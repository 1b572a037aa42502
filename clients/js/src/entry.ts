// What a document's log holds, and what is told of it.

/** An entry: opaque bytes with a number. */
export interface Entry {
  seq: number;
  kind: "state" | "update" | "snapshot";
  /** Whose state it is. */
  replica: string | null;
  blob: Uint8Array;
}

/** A page of live entries. */
export interface Page {
  entries: Entry[];
  /** Goes on behind the page: now, in a year, on any way to listen. */
  cursor: string;
  upToDate: boolean;
}

/** Where a write stands. The same bytes again give the same number. */
export interface Written {
  seq: number;
  etag: string;
  epoch: number;
  /** The log has grown long: somebody should `compact`. */
  compactAdvised: boolean;
}

/** What carries writes: a document over HTTP, or an open WebSocket. */
export interface Writer {
  append(blob: Uint8Array): Promise<Written>;
  putState(replica: string, blob: Uint8Array): Promise<Written>;
  /** `supersedes` are the numbers of what the snapshot holds: `1-41,43`. */
  compact(blob: Uint8Array, supersedes: string): Promise<Written>;
  /** Tell everyone who listens now; nothing is stored. */
  whisper(blob: Uint8Array): Promise<void>;
}

/** What a follower hears, in this order after each connection. */
export type News =
  | { type: "open"; epoch: number | undefined; writer: Writer }
  | { type: "entries"; entries: Entry[]; cursor: string }
  | { type: "up_to_date"; cursor: string | undefined }
  | { type: "presence"; blob: Uint8Array }
  /** The connection is gone; the follower comes back by itself. */
  | { type: "closed"; error: unknown }
  /** The log starts anew: the database was restored to an earlier moment. Send what it lacks. */
  | { type: "restored" }
  /** The document was deleted, and this was the last news. */
  | { type: "deleted"; epoch: number | undefined };

export type Transport = "websocket" | "sse" | "long-poll";

/** Ascending numbers up to `last`, without some: `1-41,43-50`. */
export function rangesUpTo(last: number, without: Iterable<number>): string {
  const parts: string[] = [];
  let from = 1;
  for (const gap of [...new Set(without), last + 1].sort((a, b) => a - b)) {
    if (gap > last + 1) break;
    if (from < gap) parts.push(from === gap - 1 ? `${from}` : `${from}-${gap - 1}`);
    from = gap + 1;
  }
  return parts.join(",");
}
