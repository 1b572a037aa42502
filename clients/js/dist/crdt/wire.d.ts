export declare const WHOLE_MAX: number;
export declare const DEPTH_MAX = 16;
/** What every refusal of this library is. */
export declare class CrdtError extends Error {
    name: string;
}
/** Bytes that are no encoding of a state, were cut or changed. */
export declare class MalformedError extends CrdtError {
    name: string;
}
/** A stamp more than five minutes ahead of this replica's clock. */
export declare class AheadError extends CrdtError {
    name: string;
}
/** Two replicas use one name. */
export declare class ConflictError extends CrdtError {
    name: string;
}
/** Insertions of a replica that had not seen what was collected. */
export declare class StaleError extends CrdtError {
    name: string;
}
export type Value = null | boolean | number | string | Uint8Array | Value[] | {
    [key: string]: Value;
};
/** A replica's n-th event, from 1. */
export type Dot = readonly [replica: string, n: number];
/** A dot as a Map's key: no replica's name has a space. */
export declare function keyOf(dot: Dot): string;
/** Ascending by replica, then number. */
export declare function compareDots(a: Dot, b: Dot): number;
/** Ascending by UTF-16: for names, which are ASCII, and for bytes as text. */
export declare function compare(a: string, b: string): number;
/** Bytes as a text with a character each, which sorts as they do. */
export declare function latin1(bytes: Uint8Array): string;
/** Texts ascending by their UTF-8 bytes, which is not JavaScript's own order. */
export declare function sortedTexts(texts: Iterable<string>): string[];
/** A replica's name: 1 to 64 characters of printable ASCII, no space. */
export declare function checkedName(name: string): string;
/** A text without half of a surrogate pair. */
export declare function checkedText(text: string): string;
/** A copy of a value; throws for what is none. */
export declare function normal(value: unknown, depth?: number): Value;
/** The one encoding of a value as text: equal values have equal ones. */
export declare function valueKey(value: unknown): string;
/** Collects bytes; replicas' names are written as their place in a sorted table. */
export declare class Writer {
    #private;
    constructor(names: string[]);
    done(): Uint8Array;
    byte(byte: number): void;
    put(bytes: Uint8Array): void;
    varint(number: number): void;
    raw(bytes: Uint8Array): void;
    text(text: string): void;
    name(name: string): void;
    dot(dot: Dot): void;
    /** A value that `normal` gave. */
    value(value: Value): void;
}
/** Reads what a Writer wrote; anything else is a MalformedError. */
export declare class Reader {
    #private;
    at: number;
    depth: number;
    names: string[];
    constructor(bytes: Uint8Array, at: number);
    byte(): number;
    varint(): number;
    /** How many of something follow, each of a byte at least. */
    count(): number;
    /** That many times what `read` gives. */
    many<T>(read: () => T): T[];
    raw(): Uint8Array;
    text(): string;
    name(): string;
    dot(): Dot;
    value(depth?: number): Value;
}
/** What every type of this library has. */
export interface State {
    readonly kind: number;
    readonly value: unknown;
    /** Take in what another state or delta of the type knows. All or nothing. */
    merge(other: this, nowMs?: number): void;
    copy(): this;
    /** Adds every replica's name that the encoding refers to. */
    names(found: Set<string>): void;
    write(writer: Writer): void;
}
/** Every type by the number that the encoding has for it; `encoding.ts` fills it. */
export declare const TYPES: Map<number, {
    type: new () => State;
    read: (reader: Reader) => State;
}>;
