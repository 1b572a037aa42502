export { Api, Backoff, Disconnected, Problem } from "./api.js";
export { fromBase64, toBase64 } from "./bytes.js";
export { aesGcm, newKey } from "./cipher.js";
export { RelayDocument } from "./document.js";
export { IndexedDbStorage, LocalStorage, MemoryStorage } from "./storage.js";
export { Synced } from "./synced.js";
export { consume } from "./consumer.js";
export { work } from "./worker.js";
