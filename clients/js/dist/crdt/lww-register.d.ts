import { type HybridClock, type Stamp } from "./clock.ts";
import { type Reader, type State, type Value, type Writer } from "./wire.ts";
/** One value with its stamp; null with the stamp NEVER until it is first set. */
export declare class LwwRegister implements State {
    #private;
    readonly kind = 1;
    /** What was last set; lists and maps are copies. */
    get value(): Value;
    get stamp(): Stamp;
    /** Set it; returns the delta, which here is the whole state. */
    assign(value: unknown, clock: HybridClock): LwwRegister;
    /** @throws AheadError, ConflictError */
    merge(other: this, nowMs?: number): void;
    copy(): this;
    names(found: Set<string>): void;
    write(writer: Writer): void;
    static read(reader: Reader): LwwRegister;
}
