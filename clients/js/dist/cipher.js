// End-to-end encryption: the relay carries ciphertext, and the key never leaves the clients.
//
// +---------+----------+------------------------------+
// | version | nonce    | AES-256-GCM of the bytes     |
// | 1       | 12 bytes | as many bytes, and a 16 byte |
// |         |          | tag                          |
// +---------+----------+------------------------------+
//
// The document's name is the additional data, so a blob of one document is none of another's. The
// nonce is random: under one key no more than 2^32 blobs (NIST SP 800-38D, 8.3).
import { concat } from "./bytes.js";
const VERSION = 1;
const NONCE_BYTES = 12;
const KEY_BYTES = 32;
/** A new key of 32 random bytes. Give it to the other clients, never to the server. */
export function newKey() {
    return crypto.getRandomValues(new Uint8Array(KEY_BYTES));
}
/** AES-256-GCM by WebCrypto for one document. */
export async function aesGcm(key, document) {
    if (key.length !== KEY_BYTES)
        throw new RangeError(`a key is ${KEY_BYTES} bytes`);
    const usages = ["encrypt", "decrypt"];
    const imported = await crypto.subtle.importKey("raw", key, "AES-GCM", false, usages);
    const additionalData = new TextEncoder().encode(document);
    return {
        async seal(plain) {
            const iv = crypto.getRandomValues(new Uint8Array(NONCE_BYTES));
            const algorithm = { name: "AES-GCM", iv, additionalData };
            const sealed = await crypto.subtle.encrypt(algorithm, imported, plain);
            return concat(Uint8Array.of(VERSION), iv, new Uint8Array(sealed));
        },
        async open(sealed) {
            if (sealed[0] !== VERSION)
                throw new Error("not sealed, or by a later version");
            const iv = sealed.slice(1, 1 + NONCE_BYTES);
            const algorithm = { name: "AES-GCM", iv, additionalData };
            const rest = sealed.slice(1 + NONCE_BYTES);
            return new Uint8Array(await crypto.subtle.decrypt(algorithm, imported, rest));
        },
    };
}
