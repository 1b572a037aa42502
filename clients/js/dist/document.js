// A document of the relay: every call of docs/sync.md.
import { Disconnected, reading } from "./api.js";
import { fromBase64 } from "./bytes.js";
import { follow } from "./following.js";
import { END, frames, SNAPSHOT, STATE, UPDATE } from "./frames.js";
const FRAMES_TYPE = "application/vnd.monolite.entries";
export const KINDS = {
    [STATE]: "state",
    [UPDATE]: "update",
    [SNAPSHOT]: "snapshot",
};
/** An entry from its JSON. */
export function entryOf(shown) {
    const { seq, kind, replica } = shown;
    return { seq, kind, replica, blob: fromBase64(shown.blob) };
}
/** A document by name. Nothing is kept here: `Synced` keeps what a client needs offline. */
export class RelayDocument {
    api;
    name;
    path;
    constructor(api, name) {
        this.api = api;
        this.name = name;
        this.path = `/v1/sync/${encodeURIComponent(name)}`;
    }
    /** Append one change. */
    async append(blob, options = {}) {
        return await this.#write("POST", "/updates", blob, options);
    }
    /** Store all that one replica knows, in place of its state before. */
    async putState(replica, blob, options = {}) {
        const headers = {};
        if (options.ifMatch !== undefined)
            headers["if-match"] = options.ifMatch;
        if (options.ifAbsent)
            headers["if-none-match"] = "*";
        const path = `/states/${encodeURIComponent(replica)}`;
        return await this.#write("PUT", path, blob, options, headers);
    }
    /** A replica's state and its ETag; undefined where it has none. */
    async state(replica) {
        const path = `${this.path}/states/${encodeURIComponent(replica)}`;
        const answer = await this.api.request("GET", path, { expect: [404] });
        if (answer.status === 404)
            return undefined;
        const blob = await reading(() => answer.arrayBuffer());
        return { blob: new Uint8Array(blob), etag: answer.headers.get("etag") ?? "" };
    }
    /** Post a snapshot in place of the entries it holds. */
    async compact(blob, supersedes, options = {}) {
        return await this.#write("POST", "/snapshots", blob, options, { "x-supersedes": supersedes });
    }
    /** Presence; answered when it was taken, and never tried again. */
    async whisper(blob) {
        await this.api.request("POST", `${this.path}/ephemeral`, { body: blob, retry: false });
    }
    /** A page of live entries with their bytes. */
    async entries(since, limit = 100) {
        const page = await this.api.json("GET", `${this.path}/entries?${query({ since, limit, blobs: "inline" })}`);
        return {
            entries: page.data.map(entryOf),
            cursor: page.next_cursor,
            upToDate: page.up_to_date,
        };
    }
    /** Everything live behind a cursor, in one answer of binary frames. */
    async all(since) {
        const answer = await this.api.request("GET", `${this.path}/entries?${query({ since })}`, {
            headers: { accept: FRAMES_TYPE },
        });
        const bytes = new Uint8Array(await reading(() => answer.arrayBuffer()));
        const entries = [];
        for (const one of frames(bytes)) {
            if (one.kind === END) {
                return { entries, cursor: one.cursor, upToDate: one.blob[0] === 1 };
            }
            const kind = KINDS[one.kind];
            if (kind === undefined)
                continue;
            entries.push({ seq: one.number, kind, replica: one.replica || null, blob: one.blob });
        }
        throw new Disconnected("the list was cut off");
    }
    /** One entry's bytes; superseded ones too, until their grace period is over. */
    async entry(seq) {
        const answer = await this.api.request("GET", `${this.path}/entries/${seq}`);
        return new Uint8Array(await reading(() => answer.arrayBuffer()));
    }
    /** What can be restored. */
    async superseded() {
        const found = [];
        let cursor;
        do {
            const path = `${this.path}/superseded?${query({ cursor })}`;
            const page = await this.api.json("GET", path);
            found.push(...page.data);
            cursor = page.next_cursor ?? undefined;
        } while (cursor !== undefined);
        return found;
    }
    /** Make superseded entries live again, under new numbers. */
    async restore(entries) {
        const answer = await this.api.json("POST", `${this.path}/restore`, { body: { entries }, retry: false });
        return answer.data;
    }
    /** Delete the document; its next epoch begins. Not tried again: another may have begun it anew. */
    async delete() {
        await this.api.request("DELETE", this.path, { expect: [404], retry: false });
    }
    /**
     * Everything from a cursor on, then each entry as it is committed. Connections that break are
     * made anew, from where the last one ended, until `signal` says stop or the document is deleted.
     *
     * @throws Problem for a refusal that trying again does not mend.
     */
    follow(options = {}) {
        return follow(this, options);
    }
    async #write(method, path, blob, options, headers = {}) {
        if (options.epoch !== undefined)
            headers["x-epoch"] = `${options.epoch}`;
        const ask = { body: blob, headers, signal: options.signal };
        const answer = await this.api.request(method, this.path + path, ask);
        const written = await reading(() => answer.json());
        return { ...written, compactAdvised: answer.headers.has("compact-advised") };
    }
}
/** A query string of what is defined. */
export function query(parameters) {
    const defined = Object.entries(parameters).filter(([, value]) => value !== undefined);
    return new URLSearchParams(defined.map(([name, value]) => [name, `${value}`])).toString();
}
