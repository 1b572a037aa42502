// Listening and writing over one WebSocket. The token travels in the hello, never in the address.
import { Disconnected, Problem } from "./api.js";
import { toBase64 } from "./bytes.js";
import { KINDS } from "./document.js";
import { frame, frames, PRESENCE, STATE, UPDATE } from "./frames.js";
const SILENCE_MS = 45_000;
/** One WebSocket from its hello to its end. */
export async function* overSocket(document, from) {
    const { api } = document;
    if (api.WebSocket === undefined)
        throw new TypeError("there is no WebSocket here: pass one");
    const token = await api.token(from.refused);
    const address = api.url.replace(/^http/, "ws") + `${document.path}/ws`;
    const line = new Line(new api.WebSocket(address, ["monolite.sync.v1"]), {
        type: "hello",
        token,
        frames: "binary",
        ...(from.since === undefined ? {} : { since: from.since }),
        ...(from.epoch === undefined ? {} : { epoch: from.epoch }),
    });
    const leave = () => line.end(new Disconnected("left"));
    from.signal?.addEventListener("abort", leave);
    if (from.signal?.aborted)
        leave();
    try {
        yield* line.news();
    }
    finally {
        from.signal?.removeEventListener("abort", leave);
        line.end(new Disconnected("left"));
    }
}
/** An open WebSocket: its news in order, and an answer for each write. */
class Line {
    #socket;
    #waiting = new Map();
    #heard = [];
    #wake = () => { };
    #error;
    #id = 0;
    #silence;
    constructor(socket, hello) {
        this.#socket = socket;
        socket.binaryType = "arraybuffer";
        socket.onopen = () => socket.send(JSON.stringify(hello));
        socket.onmessage = (message) => this.#receive(message.data);
        socket.onerror = () => this.end(new Disconnected("the WebSocket failed"));
        socket.onclose = ({ code, reason }) => {
            const refused = code >= 4000 && code !== 4508;
            this.end(refused ? new Problem(code - 4000, reason, "") : new Disconnected(`closed with ${code}`));
        };
        this.#listen();
    }
    async *news() {
        while (true) {
            const next = this.#heard.shift();
            if (next !== undefined)
                yield next;
            else if (this.#error !== undefined)
                throw this.#error;
            else
                await new Promise((resolve) => (this.#wake = resolve));
        }
    }
    async append(blob) {
        return await this.#write((id) => frame(UPDATE, id, "", blob));
    }
    async putState(replica, blob) {
        return await this.#write((id) => frame(STATE, id, replica, blob));
    }
    async compact(blob, supersedes) {
        return await this.#write((id) => JSON.stringify({ type: "snapshot", id, supersedes, blob: toBase64(blob) }));
    }
    async whisper(blob) {
        if (this.#error !== undefined)
            throw this.#error;
        this.#socket.send(frame(PRESENCE, 0, "", blob));
    }
    /** Close it; what waits for an answer gets the error. */
    end(error) {
        if (this.#error !== undefined)
            return;
        this.#error = error;
        clearTimeout(this.#silence);
        for (const { reject } of this.#waiting.values())
            reject(error);
        this.#waiting.clear();
        this.#socket.close();
        this.#wake();
    }
    async #write(message) {
        if (this.#error !== undefined)
            throw this.#error;
        const id = ++this.#id;
        const ack = await new Promise((resolve, reject) => {
            this.#waiting.set(id, { resolve, reject });
            this.#socket.send(message(id));
        });
        const { seq, etag, epoch, compact_advised } = ack;
        return { seq, etag, epoch, compactAdvised: compact_advised === true };
    }
    #receive(content) {
        this.#listen();
        if (typeof content !== "string") {
            this.#receiveFrames(new Uint8Array(content));
            return;
        }
        const message = JSON.parse(content);
        switch (message.type) {
            case "ready":
                this.#tell({ type: "open", epoch: message.epoch, writer: this });
                break;
            case "up_to_date":
                this.#tell({ type: "up_to_date", cursor: message.next_cursor });
                break;
            case "deleted":
                this.#tell({ type: "deleted", epoch: message.epoch });
                break;
            case "ack":
                this.#waiting.get(message.id)?.resolve(message);
                this.#waiting.delete(message.id);
                break;
            case "error": {
                const { status, code, detail, retry_after_s } = message;
                const retryAfterMs = retry_after_s === undefined ? undefined : retry_after_s * 1000;
                const problem = new Problem(status, code, detail, message, retryAfterMs);
                this.#waiting.get(message.id)?.reject(problem);
                this.#waiting.delete(message.id);
                break;
            }
        }
    }
    #receiveFrames(bytes) {
        const entries = [];
        let cursor = "";
        for (const one of frames(bytes)) {
            const kind = KINDS[one.kind];
            if (kind !== undefined) {
                entries.push({ seq: one.number, kind, replica: one.replica || null, blob: one.blob });
                cursor = one.cursor;
            }
            else if (one.kind === PRESENCE) {
                this.#tell({ type: "presence", blob: one.blob });
            }
        }
        if (entries.length > 0)
            this.#tell({ type: "entries", entries, cursor });
    }
    #tell(news) {
        this.#heard.push(news);
        this.#wake();
    }
    /** The server sends something every 15 s; a longer silence is a connection that has died. */
    #listen() {
        clearTimeout(this.#silence);
        const late = () => this.end(new Disconnected("the server is silent"));
        this.#silence = setTimeout(late, SILENCE_MS);
    }
}
