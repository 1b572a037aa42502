/** Bytes as base64. */
export declare function toBase64(bytes: Uint8Array): string;
/** Base64 as bytes. */
export declare function fromBase64(text: string): Uint8Array;
/** Pieces as one. */
export declare function concat(...pieces: Uint8Array[]): Uint8Array;
