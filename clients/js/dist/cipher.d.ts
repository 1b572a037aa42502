/** Makes bytes unreadable, and readable again. */
export interface Cipher {
    seal(plain: Uint8Array): Promise<Uint8Array>;
    /** @throws Error where the key is another, or a bit was changed. */
    open(sealed: Uint8Array): Promise<Uint8Array>;
}
/** A new key of 32 random bytes. Give it to the other clients, never to the server. */
export declare function newKey(): Uint8Array;
/** AES-256-GCM by WebCrypto for one document. */
export declare function aesGcm(key: Uint8Array, document: string): Promise<Cipher>;
