import { type Reader, type State, type Value, type Writer } from "./wire.ts";
/** Elements, each with the dots of the additions that are alive; and all dots ever seen. */
export declare class OrSet implements State {
    #private;
    readonly kind = 4;
    has(element: unknown): boolean;
    get size(): number;
    /** The elements, in the order of their encodings. */
    get value(): Value[];
    /** Put an element in; returns the delta: the new dot, and the dots that it stands for. */
    add(element: unknown, replica: string): OrSet;
    /** Take an element out, if it is in; returns the delta: the dots that are gone. */
    remove(element: unknown): OrSet;
    /** Keep what both have, and what one has and the other has not seen. */
    merge(other: this): void;
    copy(): this;
    names(found: Set<string>): void;
    write(writer: Writer): void;
    static read(reader: Reader): OrSet;
}
