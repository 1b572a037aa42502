import type { Dots } from "./dots.ts";
import { type Dot, type Reader, type Value, type Writer } from "./wire.ts";
/** An insertion, and what became of it. */
export interface Element {
    readonly dot: Dot;
    readonly stamp: number;
    /** What it was inserted behind; nothing for the beginning. */
    readonly parent: Dot | undefined;
    readonly value: Value;
    /** Its removal. */
    deleted: Dot | undefined;
    isPlaced: boolean;
    next: Element | undefined;
}
/** Elements in this order, as few runs. */
export declare function writeRuns(writer: Writer, items: Element[]): void;
/** Elements in their order. */
export declare function readRuns(reader: Reader): Element[];
/** Refuse elements that no replica can have come to. */
export declare function refuseImpossible(context: Dots, floor: number, placed: Element[], waiting: Element[], early: {
    target: Dot;
    dot: Dot;
}[]): void;
