// Listening and writing over one WebSocket. The token travels in the hello, never in the address.

import { Disconnected, Problem } from "./api.ts";
import { toBase64 } from "./bytes.ts";
import { KINDS, type RelayDocument } from "./document.ts";
import type { News, Writer, Written } from "./entry.ts";
import type { From } from "./following.ts";
import { frame, frames, PRESENCE, STATE, UPDATE } from "./frames.ts";

const SILENCE_MS = 45_000;

type Answer = { resolve: (ack: Ack) => void; reject: (error: unknown) => void };

interface Ack {
  id: number;
  seq: number;
  etag: string;
  epoch: number;
  compact_advised?: boolean;
}

/** One WebSocket from its hello to its end. */
export async function* overSocket(document: RelayDocument, from: From): AsyncGenerator<News> {
  const { api } = document;
  if (api.WebSocket === undefined) throw new TypeError("there is no WebSocket here: pass one");
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
  if (from.signal?.aborted) leave();
  try {
    yield* line.news();
  } finally {
    from.signal?.removeEventListener("abort", leave);
    line.end(new Disconnected("left"));
  }
}

/** An open WebSocket: its news in order, and an answer for each write. */
class Line implements Writer {
  readonly #socket: WebSocket;
  readonly #waiting = new Map<number, Answer>();
  readonly #heard: News[] = [];
  #wake: () => void = () => {};
  #error: unknown;
  #id = 0;
  #silence: ReturnType<typeof setTimeout> | undefined;

  constructor(socket: WebSocket, hello: object) {
    this.#socket = socket;
    socket.binaryType = "arraybuffer";
    socket.onopen = () => socket.send(JSON.stringify(hello));
    socket.onmessage = (message) => this.#receive(message.data as string | ArrayBuffer);
    socket.onerror = () => this.end(new Disconnected("the WebSocket failed"));
    socket.onclose = ({ code, reason }) => {
      const refused = code >= 4000 && code !== 4508;
      this.end(
        refused ? new Problem(code - 4000, reason, "") : new Disconnected(`closed with ${code}`),
      );
    };
    this.#listen();
  }

  async *news(): AsyncGenerator<News> {
    while (true) {
      const next = this.#heard.shift();
      if (next !== undefined) yield next;
      else if (this.#error !== undefined) throw this.#error;
      else await new Promise<void>((resolve) => (this.#wake = resolve));
    }
  }

  async append(blob: Uint8Array): Promise<Written> {
    return await this.#write((id) => frame(UPDATE, id, "", blob));
  }

  async putState(replica: string, blob: Uint8Array): Promise<Written> {
    return await this.#write((id) => frame(STATE, id, replica, blob));
  }

  async compact(blob: Uint8Array, supersedes: string): Promise<Written> {
    return await this.#write((id) =>
      JSON.stringify({ type: "snapshot", id, supersedes, blob: toBase64(blob) }),
    );
  }

  async whisper(blob: Uint8Array): Promise<void> {
    if (this.#error !== undefined) throw this.#error;
    this.#socket.send(frame(PRESENCE, 0, "", blob) as BufferSource);
  }

  /** Close it; what waits for an answer gets the error. */
  end(error: unknown): void {
    if (this.#error !== undefined) return;
    this.#error = error;
    clearTimeout(this.#silence);
    for (const { reject } of this.#waiting.values()) reject(error);
    this.#waiting.clear();
    this.#socket.close();
    this.#wake();
  }

  async #write(message: (id: number) => string | Uint8Array): Promise<Written> {
    if (this.#error !== undefined) throw this.#error;
    const id = ++this.#id;
    const ack = await new Promise<Ack>((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject });
      this.#socket.send(message(id) as string | BufferSource);
    });
    const { seq, etag, epoch, compact_advised } = ack;
    return { seq, etag, epoch, compactAdvised: compact_advised === true };
  }

  #receive(content: string | ArrayBuffer): void {
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

  #receiveFrames(bytes: Uint8Array): void {
    const entries = [];
    let cursor = "";
    for (const one of frames(bytes)) {
      const kind = KINDS[one.kind];
      if (kind !== undefined) {
        entries.push({ seq: one.number, kind, replica: one.replica || null, blob: one.blob });
        cursor = one.cursor;
      } else if (one.kind === PRESENCE) {
        this.#tell({ type: "presence", blob: one.blob });
      }
    }
    if (entries.length > 0) this.#tell({ type: "entries", entries, cursor });
  }

  #tell(news: News): void {
    this.#heard.push(news);
    this.#wake();
  }

  /** The server sends something every 15 s; a longer silence is a connection that has died. */
  #listen(): void {
    clearTimeout(this.#silence);
    const late = () => this.end(new Disconnected("the server is silent"));
    this.#silence = setTimeout(late, SILENCE_MS);
  }
}
