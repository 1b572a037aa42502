// A document that works offline: what is changed is stored here first and sent when it can be.
//
//     push ──► storage ──► relay ──acknowledged──► saved with the state, then gone from the queue
//     relay ──entries──► replica ──► state and cursor saved together
//
// Saved are the replica's state with the cursor it has come to, in one value, and each update that
// was not acknowledged, in one of its own. A kill at any instant leaves a cursor that is not ahead of
// its state, and no update that is in neither: what is sent or read twice changes nothing.

import { Backoff, Disconnected, mayPass, Problem } from "./api.ts";
import { concat } from "./bytes.ts";
import type { Cipher } from "./cipher.ts";
import type { RelayDocument } from "./document.ts";
import { type Entry, type News, rangesUpTo, type Transport, type Writer } from "./entry.ts";
import { MemoryStorage, type Storage } from "./storage.ts";

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

interface Place {
  cursor: string | undefined;
  epoch: number | undefined;
  /** The highest number read: all that lives up to it is in the state, except `skipped`. */
  seq: number;
  /** Entries that could not be read. They are never named in a snapshot, so they stay. */
  skipped: number[];
}

interface Queued {
  name: string;
  blob: Uint8Array;
}

const PLACE = "place";
const UPDATES = "update/";
const REFUSED = "refused/";
/** On a WebSocket, which keeps their order. Over HTTP one waits for the other. */
const IN_FLIGHT = 32;

export class Synced {
  readonly #options: SyncedOptions;
  readonly #storage: Storage;
  readonly #stop = new AbortController();
  readonly #pauses: Backoff;
  readonly #waiting: { resolve: () => void; reject: (error: unknown) => void }[] = [];
  #place: Place = { cursor: undefined, epoch: undefined, seq: 0, skipped: [] };
  #queue: Queued[] = [];
  #acknowledged: string[] = [];
  #count = 0;
  #writer: Writer | undefined;
  #status: Status = "offline";
  #storing: Promise<void> = Promise.resolve();
  #sending: Promise<void> | undefined;
  #saving: Promise<void> = Promise.resolve();
  #running: Promise<void> = Promise.resolve();
  #saveTimer: ReturnType<typeof setTimeout> | undefined;
  #compactTimer: ReturnType<typeof setTimeout> | undefined;

  private constructor(options: SyncedOptions) {
    this.#options = options;
    this.#storage = options.storage ?? new MemoryStorage();
    this.#pauses = new Backoff(options.document.api.backoff);
  }

  /** What was stored here is in the replica when this returns; the server is not waited for. */
  static async open(options: SyncedOptions): Promise<Synced> {
    const synced = new Synced(options);
    await synced.#load();
    synced.#running = synced.#run();
    return synced;
  }

  get status(): Status {
    return this.#status;
  }

  /** How many updates the server has not acknowledged. */
  get unsent(): number {
    return this.#queue.length;
  }

  /** Store an update that the replica has in it already; it is sent when it can be. */
  async push(update: Uint8Array): Promise<void> {
    const storing = this.#storing.then(async () => {
      const blob = await this.#sealed(update);
      const name = `${UPDATES}${this.#unique()}`;
      await this.#storage.put(name, blob);
      this.#queue.push({ name, blob });
    });
    this.#storing = storing.catch(() => {});
    await storing;
    this.#send();
  }

  /** Until all that was pushed is acknowledged, and all that was there is merged. */
  async settled(): Promise<void> {
    await this.#storing;
    if (this.#isSettled()) return;
    if (this.#stop.signal.aborted) throw new Disconnected(`the document is ${this.#status}`);
    await new Promise<void>((resolve, reject) => this.#waiting.push({ resolve, reject }));
  }

  /** Tell everyone who listens now. Say it again every few seconds: it is not stored. */
  async whisper(blob: Uint8Array): Promise<void> {
    await this.#writer?.whisper(await this.#sealed(blob)).catch(() => {});
  }

  /**
   * Put a snapshot in place of all that was read. Undefined where another was faster, or nothing
   * was read.
   */
  async compact(): Promise<number | undefined> {
    if (this.#writer === undefined) throw new Disconnected("there is no connection");
    // Together, without a pause: the state must hold all that is named.
    const state = this.#options.replica.encode();
    const supersedes = rangesUpTo(this.#place.seq, this.#place.skipped);
    if (supersedes === "") return undefined;
    try {
      const written = await this.#writer.compact(await this.#sealed(state), supersedes);
      return written.seq;
    } catch (error) {
      if (error instanceof Problem && error.code === "already_superseded") return undefined;
      throw error;
    }
  }

  /** Stop, with everything saved. */
  async close(): Promise<void> {
    await this.#storing;
    this.#end("closed", new Disconnected("the document was closed"));
    await this.#running;
    await this.#sending;
    await this.#save();
  }

  /** Close, and remove what is stored here: for a document that was deleted. */
  async forget(): Promise<void> {
    await this.close();
    for (const name of await this.#storage.names()) await this.#storage.delete(name);
  }

  // ── Storage ──────────────────────────────────────────────────────────────────────────────────

  async #load(): Promise<void> {
    const { replica } = this.#options;
    const saved = await this.#storage.get(PLACE);
    if (saved !== undefined) {
      const [place, state] = unpacked(await this.#opened(saved));
      this.#place = place;
      replica.merge(state);
    }
    for (const name of await this.#storage.names()) {
      if (!name.startsWith(UPDATES)) continue;
      const blob = await this.#storage.get(name);
      if (blob === undefined) continue;
      replica.merge(await this.#opened(blob));
      this.#queue.push({ name, blob });
    }
  }

  #saveSoon(): void {
    this.#saveTimer ??= setTimeout(() => {
      this.#save().catch((error) => this.#options.onError?.(error));
    }, this.#options.saveDelayMs ?? 250);
  }

  async #save(): Promise<void> {
    clearTimeout(this.#saveTimer);
    this.#saveTimer = undefined;
    const saving = this.#saving.then(async () => {
      const acknowledged = this.#acknowledged;
      const packed = pack(this.#place, this.#options.replica.encode());
      await this.#storage.put(PLACE, await this.#sealed(packed));
      // Only now: the state that was saved has them in it.
      for (const name of acknowledged) await this.#storage.delete(name);
      this.#acknowledged = this.#acknowledged.slice(acknowledged.length);
    });
    this.#saving = saving.catch(() => {});
    await saving;
  }

  async #sealed(plain: Uint8Array): Promise<Uint8Array> {
    return (await this.#options.cipher?.seal(plain)) ?? plain;
  }

  async #opened(sealed: Uint8Array): Promise<Uint8Array> {
    return (await this.#options.cipher?.open(sealed)) ?? sealed;
  }

  /** In the order of pushing, and never another tab's. */
  #unique(): string {
    const random = crypto.getRandomValues(new Uint32Array(2)).join("-");
    const count = `${this.#count++}`.padStart(9, "0");
    return `${`${Date.now()}`.padStart(15, "0")}-${count}-${random}`;
  }

  // ── Reading ──────────────────────────────────────────────────────────────────────────────────

  async #run(): Promise<void> {
    const { document, via } = this.#options;
    const { cursor, epoch } = this.#place;
    const { signal } = this.#stop;
    try {
      const options = { since: cursor, epoch, signal, via: via ?? "websocket" };
      for await (const news of document.follow(options)) await this.#hear(news);
    } catch (error) {
      this.#end("refused", error);
    }
  }

  async #hear(news: News): Promise<void> {
    switch (news.type) {
      case "open":
        this.#place.epoch = news.epoch ?? this.#place.epoch;
        this.#writer = news.writer;
        this.#tell("catching-up");
        this.#pauses.wake();
        this.#send();
        break;
      case "entries":
        for (const entry of news.entries) await this.#merge(entry);
        this.#place.cursor = news.cursor;
        this.#saveSoon();
        this.#options.onChange?.();
        break;
      case "up_to_date":
        this.#place.cursor = news.cursor ?? this.#place.cursor;
        this.#tell("live");
        break;
      case "presence":
        await this.#opened(news.blob).then(this.#options.onPresence, () => {});
        break;
      case "closed":
        this.#writer = undefined;
        this.#tell("offline");
        break;
      case "restored":
        this.#place = { cursor: undefined, epoch: undefined, seq: 0, skipped: [] };
        // The server may lack what it acknowledged: all that is here is sent again.
        await this.push(this.#options.replica.encode());
        break;
      case "deleted":
        this.#end("deleted", new Problem(410, "epoch_ended", "The document was deleted."));
        break;
    }
  }

  async #merge(entry: Entry): Promise<void> {
    if (entry.kind === "snapshot") this.#compactTimer = clearTimeout(this.#compactTimer) as undefined;
    try {
      const blob = await this.#opened(entry.blob);
      this.#options.replica.merge(blob);
      this.#place.skipped = this.#place.skipped.filter((seq) => seq !== entry.seq);
    } catch (error) {
      this.#place.skipped.push(entry.seq);
      this.#options.onError?.(error);
    }
    this.#place.seq = Math.max(this.#place.seq, entry.seq);
  }

  // ── Writing ──────────────────────────────────────────────────────────────────────────────────

  #send(): void {
    this.#sending ??= this.#sendAll().finally(() => {
      this.#sending = undefined;
      this.#answer();
      // What was pushed, or connected, while it came to its end.
      if (this.#writer !== undefined && this.#queue.length > 0) this.#send();
    });
  }

  async #sendAll(): Promise<void> {
    while (this.#queue.length > 0 && !this.#stop.signal.aborted) {
      const writer = this.#writer;
      if (writer === undefined) return;
      const isOrdered = (this.#options.via ?? "websocket") === "websocket";
      const batch = this.#queue.slice(0, isOrdered ? IN_FLIGHT : 1);
      const sent = await Promise.allSettled(batch.map(({ blob }) => writer.append(blob)));
      let failure: unknown;
      for (const [at, one] of sent.entries()) {
        const queued = batch[at] as Queued;
        if (one.status === "fulfilled") {
          this.#acknowledged.push(queued.name);
          this.#drop(queued);
          if (one.value.compactAdvised) this.#compactSoon();
        } else {
          failure = (await this.#mend(queued, one.reason)) ?? failure;
        }
      }
      this.#saveSoon();
      if (failure === undefined) this.#pauses.reset();
      else await this.#pauses.pause(failure, this.#stop.signal);
    }
  }

  /** Do what a refusal of an update asks for; returns it where the same may be tried later. */
  async #mend(queued: Queued, error: unknown): Promise<unknown> {
    if (!(error instanceof Problem) || mayPass(error)) return error;
    if (error.code === "epoch_ended") {
      this.#end("deleted", error);
    } else if (error.code === "too_many_entries") {
      this.#compactSoon();
      return error;
    } else if (error.status === 401 || error.status === 403) {
      this.#end("refused", error);
    } else {
      await this.#storage.put(REFUSED + queued.name.slice(UPDATES.length), queued.blob);
      await this.#storage.delete(queued.name);
      this.#drop(queued);
      this.#options.onRefused?.(await this.#opened(queued.blob), error);
    }
    return undefined;
  }

  #drop(queued: Queued): void {
    this.#queue = this.#queue.filter((one) => one !== queued);
  }

  /** After a moment by chance, and not at all where another's snapshot comes first. */
  #compactSoon(): void {
    if (this.#options.compact !== true) return;
    this.#compactTimer ??= setTimeout(() => {
      this.#compactTimer = undefined;
      this.compact().catch((error) => this.#options.onError?.(error));
    }, Math.random() * (this.#options.compactDelayMs ?? 5000));
  }

  // ── Status ───────────────────────────────────────────────────────────────────────────────────

  #isSettled(): boolean {
    return this.#status === "live" && this.#queue.length === 0;
  }

  #answer(): void {
    if (!this.#isSettled()) return;
    for (const { resolve } of this.#waiting.splice(0)) resolve();
  }

  #tell(status: Status): void {
    if (status !== this.#status) {
      this.#status = status;
      this.#options.onStatus?.(status);
    }
    this.#answer();
  }

  #end(status: Status, error: unknown): void {
    if (this.#stop.signal.aborted) return;
    this.#stop.abort();
    this.#writer = undefined;
    clearTimeout(this.#compactTimer);
    if (status === "refused") this.#options.onError?.(error);
    this.#tell(status);
    for (const { reject } of this.#waiting.splice(0)) reject(error);
  }
}

const HEAD_BYTES = 4;

/** A place and a state in one value: the place's length, its JSON, the state. */
function pack(place: Place, state: Uint8Array): Uint8Array {
  const json = new TextEncoder().encode(JSON.stringify(place));
  const head = new Uint8Array(HEAD_BYTES);
  new DataView(head.buffer).setUint32(0, json.length);
  return concat(head, json, state);
}

function unpacked(packed: Uint8Array): [Place, Uint8Array] {
  const view = new DataView(packed.buffer, packed.byteOffset, packed.byteLength);
  const stateAt = HEAD_BYTES + view.getUint32(0);
  const json = new TextDecoder().decode(packed.subarray(HEAD_BYTES, stateAt));
  return [JSON.parse(json) as Place, packed.slice(stateAt)];
}
