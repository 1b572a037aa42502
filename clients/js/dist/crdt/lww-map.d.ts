import { type HybridClock } from "./clock.ts";
import { type Reader, type State, type Writer } from "./wire.ts";
/** Keys, each with its life's stamp and its state; none where it was removed. */
export declare class LwwMap implements State {
    #private;
    readonly kind = 6;
    has(key: string): boolean;
    /** A key's state. What you change in it goes out with `delta`. */
    get(key: string): State | undefined;
    keys(): string[];
    /** Keys with their states' values. */
    get value(): Record<string, unknown>;
    /** Begin a new life of a key with a copy of a state; returns the delta. */
    assign(key: string, state: State, clock: HybridClock): LwwMap;
    /** End a key's life; returns the delta. */
    remove(key: string, clock: HybridClock): LwwMap;
    /** A key's state of one type: what is there, or an empty one to begin with. */
    ensure<S extends State>(key: string, type: new () => S, clock: HybridClock): S;
    /** The delta of this map for a delta of a key's state. */
    delta(key: string, of: State): LwwMap;
    /** Of each key take the later life; within one life the states merge. */
    merge(other: this, nowMs?: number): void;
    copy(): this;
    names(found: Set<string>): void;
    write(writer: Writer): void;
    static read(reader: Reader): LwwMap;
    /** How deep maps are in each other here. */
    static depth(state: State | undefined): number;
}
