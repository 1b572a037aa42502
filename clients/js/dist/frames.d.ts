export declare const END = 0;
export declare const STATE = 1;
export declare const UPDATE = 2;
export declare const SNAPSHOT = 3;
export declare const PRESENCE = 5;
export interface Frame {
    kind: number;
    number: number;
    replica: string;
    cursor: string;
    blob: Uint8Array;
}
/** One frame's bytes. */
export declare function frame(kind: number, number: number, replica: string, blob: Uint8Array): Uint8Array;
/**
 * Every frame of a message or list.
 *
 * @throws RangeError where it is cut short, or a length in it is wrong.
 */
export declare function frames(bytes: Uint8Array): Generator<Frame>;
