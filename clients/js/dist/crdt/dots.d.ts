import { type Dot, type Reader, type Writer } from "./wire.ts";
/** A set of dots. */
export declare class Dots {
    #private;
    has([name, n]: Dot): boolean;
    /** The replica's next dot, which now is in the set. */
    next(replica: string): Dot;
    add([name, n]: Dot): void;
    /** Put every dot of another in. */
    update(other: Dots): void;
    [Symbol.iterator](): Generator<Dot>;
    copy(): Dots;
    names(found: Set<string>): void;
    write(writer: Writer): void;
    static read(reader: Reader): Dots;
}
