export { Api, type ApiOptions, Backoff, Disconnected, Problem, type TokenSource } from "./api.ts";
export { fromBase64, toBase64 } from "./bytes.ts";
export { aesGcm, type Cipher, newKey } from "./cipher.ts";
export { type FollowOptions, RelayDocument } from "./document.ts";
export type { Entry, News, Page, Transport, Writer, Written } from "./entry.ts";
export { IndexedDbStorage, LocalStorage, MemoryStorage, type Storage } from "./storage.ts";
export { type Replica, type Status, Synced, type SyncedOptions } from "./synced.ts";
export { consume, type ConsumeOptions, type StreamEvent } from "./consumer.ts";
export { type Job, work, type WorkOptions } from "./worker.ts";
