import { type Reader, type State, type Value, type Writer } from "./wire.ts";
/** Elements in order, tombstones among them; and all dots ever seen. */
export declare class Rga implements State {
    #private;
    readonly kind = 5;
    /** How many elements are alive. */
    get length(): number;
    /** The elements that are alive. */
    get value(): Value[];
    /** The elements as one text, for a sequence of characters. */
    toString(): string;
    /** How many elements are kept though they were removed. */
    get tombstoneCount(): number;
    /**
     * Insert values, which then begin at `index`; a text's are its characters (code points). Returns
     * the delta.
     */
    insert(index: number, values: Iterable<unknown>, replica: string): Rga;
    /** Insert one value at the end; returns the delta. */
    append(value: unknown, replica: string): Rga;
    /** Remove `count` elements from `index` on; returns the delta. */
    delete(index: number, replica: string, count?: number): Rga;
    /** @throws StaleError, ConflictError */
    merge(other: this): void;
    copy(): this;
    names(found: Set<string>): void;
    write(writer: Writer): void;
    static read(reader: Reader): Rga;
}
