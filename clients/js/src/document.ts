// A document of the relay: every call of docs/sync.md.

import { type Api, type Ask, Disconnected, reading } from "./api.ts";
import { fromBase64 } from "./bytes.ts";
import type { Entry, News, Page, Transport, Writer, Written } from "./entry.ts";
import { follow } from "./following.ts";
import { END, frames, SNAPSHOT, STATE, UPDATE } from "./frames.ts";

const FRAMES_TYPE = "application/vnd.monolite.entries";

export const KINDS: Record<number, Entry["kind"]> = {
  [STATE]: "state",
  [UPDATE]: "update",
  [SNAPSHOT]: "snapshot",
};

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
export function entryOf(shown: EntryShown): Entry {
  const { seq, kind, replica } = shown;
  return { seq, kind, replica, blob: fromBase64(shown.blob) };
}

/** A document by name. Nothing is kept here: `Synced` keeps what a client needs offline. */
export class RelayDocument implements Writer {
  readonly api: Api;
  readonly name: string;
  readonly path: string;

  constructor(api: Api, name: string) {
    this.api = api;
    this.name = name;
    this.path = `/v1/sync/${encodeURIComponent(name)}`;
  }

  /** Append one change. */
  async append(blob: Uint8Array, options: WriteOptions = {}): Promise<Written> {
    return await this.#write("POST", "/updates", blob, options);
  }

  /** Store all that one replica knows, in place of its state before. */
  async putState(replica: string, blob: Uint8Array, options: StateOptions = {}): Promise<Written> {
    const headers: Record<string, string> = {};
    if (options.ifMatch !== undefined) headers["if-match"] = options.ifMatch;
    if (options.ifAbsent) headers["if-none-match"] = "*";
    const path = `/states/${encodeURIComponent(replica)}`;
    return await this.#write("PUT", path, blob, options, headers);
  }

  /** A replica's state and its ETag; undefined where it has none. */
  async state(replica: string): Promise<{ blob: Uint8Array; etag: string } | undefined> {
    const path = `${this.path}/states/${encodeURIComponent(replica)}`;
    const answer = await this.api.request("GET", path, { expect: [404] });
    if (answer.status === 404) return undefined;
    const blob = await reading(() => answer.arrayBuffer());
    return { blob: new Uint8Array(blob), etag: answer.headers.get("etag") ?? "" };
  }

  /** Post a snapshot in place of the entries it holds. */
  async compact(
    blob: Uint8Array,
    supersedes: string,
    options: WriteOptions = {},
  ): Promise<Written> {
    return await this.#write("POST", "/snapshots", blob, options, { "x-supersedes": supersedes });
  }

  /** Presence; answered when it was taken, and never tried again. */
  async whisper(blob: Uint8Array): Promise<void> {
    await this.api.request("POST", `${this.path}/ephemeral`, { body: blob, retry: false });
  }

  /** A page of live entries with their bytes. */
  async entries(since?: string, limit = 100): Promise<Page> {
    const page = await this.api.json<{
      data: EntryShown[];
      next_cursor: string;
      up_to_date: boolean;
    }>("GET", `${this.path}/entries?${query({ since, limit, blobs: "inline" })}`);
    return {
      entries: page.data.map(entryOf),
      cursor: page.next_cursor,
      upToDate: page.up_to_date,
    };
  }

  /** Everything live behind a cursor, in one answer of binary frames. */
  async all(since?: string): Promise<Page> {
    const answer = await this.api.request("GET", `${this.path}/entries?${query({ since })}`, {
      headers: { accept: FRAMES_TYPE },
    });
    const bytes = new Uint8Array(await reading(() => answer.arrayBuffer()));
    const entries: Entry[] = [];
    for (const one of frames(bytes)) {
      if (one.kind === END) {
        return { entries, cursor: one.cursor, upToDate: one.blob[0] === 1 };
      }
      const kind = KINDS[one.kind];
      if (kind === undefined) continue;
      entries.push({ seq: one.number, kind, replica: one.replica || null, blob: one.blob });
    }
    throw new Disconnected("the list was cut off");
  }

  /** One entry's bytes; superseded ones too, until their grace period is over. */
  async entry(seq: number): Promise<Uint8Array> {
    const answer = await this.api.request("GET", `${this.path}/entries/${seq}`);
    return new Uint8Array(await reading(() => answer.arrayBuffer()));
  }

  /** What can be restored. */
  async superseded(): Promise<Superseded[]> {
    const found: Superseded[] = [];
    let cursor: string | undefined;
    do {
      const path = `${this.path}/superseded?${query({ cursor })}`;
      const page = await this.api.json<{ data: Superseded[]; next_cursor: string | null }>(
        "GET",
        path,
      );
      found.push(...page.data);
      cursor = page.next_cursor ?? undefined;
    } while (cursor !== undefined);
    return found;
  }

  /** Make superseded entries live again, under new numbers. */
  async restore(entries: string): Promise<{ restored: number; seq: number }[]> {
    const answer = await this.api.json<{ data: { restored: number; seq: number }[] }>(
      "POST",
      `${this.path}/restore`,
      { body: { entries }, retry: false },
    );
    return answer.data;
  }

  /** Delete the document; its next epoch begins. Not tried again: another may have begun it anew. */
  async delete(): Promise<void> {
    await this.api.request("DELETE", this.path, { expect: [404], retry: false });
  }

  /**
   * Everything from a cursor on, then each entry as it is committed. Connections that break are
   * made anew, from where the last one ended, until `signal` says stop or the document is deleted.
   *
   * @throws Problem for a refusal that trying again does not mend.
   */
  follow(options: FollowOptions = {}): AsyncGenerator<News> {
    return follow(this, options);
  }

  async #write(
    method: string,
    path: string,
    blob: Uint8Array,
    options: WriteOptions,
    headers: Record<string, string> = {},
  ): Promise<Written> {
    if (options.epoch !== undefined) headers["x-epoch"] = `${options.epoch}`;
    const ask: Ask = { body: blob, headers, signal: options.signal };
    const answer = await this.api.request(method, this.path + path, ask);
    const written = await reading(() => answer.json() as Promise<Omit<Written, "compactAdvised">>);
    return { ...written, compactAdvised: answer.headers.has("compact-advised") };
  }
}

/** A query string of what is defined. */
export function query(parameters: Record<string, string | number | undefined>): string {
  const defined = Object.entries(parameters).filter(([, value]) => value !== undefined);
  return new URLSearchParams(defined.map(([name, value]) => [name, `${value}`])).toString();
}
