import { type Reader, type Writer } from "./wire.ts";
/** When and by whom. */
export interface Stamp {
    readonly ms: number;
    readonly counter: number;
    /** Empty in `NEVER` alone. */
    readonly node: string;
}
/** Before every other stamp. */
export declare const NEVER: Stamp;
export declare function compareStamps(a: Stamp, b: Stamp): number;
export declare function refuseAhead(stamp: Stamp, nowMs?: number): void;
export declare function writeStamp(writer: Writer, stamp: Stamp): void;
export declare function readStamp(reader: Reader): Stamp;
/** A replica's clock: it follows this machine's, and never goes back. */
export declare class HybridClock {
    #private;
    readonly node: string;
    constructor(node: string, wallMs?: () => number);
    /** A stamp after every one given before, and after `after`. */
    tick(after?: Stamp): Stamp;
}
