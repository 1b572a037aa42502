import { type Reader, type State, type Writer } from "./wire.ts";
/** A counter that only grows. */
export declare class GCounter implements State {
    #private;
    readonly kind = 2;
    /** The sum of all counts. */
    get value(): number;
    /** Count; returns the delta: this replica's new count. */
    increment(replica: string, by?: number): GCounter;
    merge(other: this): void;
    copy(): this;
    names(found: Set<string>): void;
    write(writer: Writer): void;
    static read(reader: Reader): GCounter;
}
/** A counter that grows and shrinks: two that only grow, and their difference. */
export declare class PnCounter implements State {
    #private;
    readonly kind = 3;
    get value(): number;
    /** Add; returns the delta. */
    increment(replica: string, by?: number): PnCounter;
    /** Take away; returns the delta. */
    decrement(replica: string, by?: number): PnCounter;
    merge(other: this): void;
    copy(): this;
    names(found: Set<string>): void;
    write(writer: Writer): void;
    static read(reader: Reader): PnCounter;
}
/** What one has seen of each replica. */
export declare class VectorClock implements State {
    #private;
    readonly kind = 7;
    get value(): Record<string, number>;
    of(replica: string): number;
    /** One more event of a replica; returns the delta. */
    increment(replica: string): VectorClock;
    /** `before` where the other has seen all of this one and more. */
    compare(other: VectorClock): "equal" | "before" | "after" | "concurrent";
    /** A clock without some replicas. Prune both alike before you compare them. */
    prune(inactive: Iterable<string>): VectorClock;
    merge(other: this): void;
    copy(): this;
    names(found: Set<string>): void;
    write(writer: Writer): void;
    static read(reader: Reader): VectorClock;
}
