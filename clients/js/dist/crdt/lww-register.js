// A value that the last write wins: the higher stamp, its node's name where times are equal.
import { compareStamps, NEVER, readStamp, refuseAhead, writeStamp } from "./clock.js";
import { ConflictError, normal, valueKey } from "./wire.js";
/** One value with its stamp; null with the stamp NEVER until it is first set. */
export class LwwRegister {
    kind = 1;
    #stamp = NEVER;
    #value = null;
    /** What was last set; lists and maps are copies. */
    get value() {
        return normal(this.#value);
    }
    get stamp() {
        return this.#stamp;
    }
    /** Set it; returns the delta, which here is the whole state. */
    assign(value, clock) {
        this.#value = normal(value);
        this.#stamp = clock.tick(this.#stamp);
        return this.copy();
    }
    /** @throws AheadError, ConflictError */
    merge(other, nowMs) {
        refuseAhead(other.#stamp, nowMs);
        const order = compareStamps(other.#stamp, this.#stamp);
        if (order === 0 && valueKey(other.#value) !== valueKey(this.#value)) {
            throw new ConflictError(`two values with one stamp of ${this.#stamp.node}`);
        }
        if (order > 0) {
            this.#value = other.#value;
            this.#stamp = other.#stamp;
        }
    }
    copy() {
        const made = new LwwRegister();
        made.#value = this.#value;
        made.#stamp = this.#stamp;
        return made;
    }
    names(found) {
        if (this.#stamp.node !== "")
            found.add(this.#stamp.node);
    }
    write(writer) {
        writeStamp(writer, this.#stamp);
        writer.value(this.#value);
    }
    static read(reader) {
        const made = new LwwRegister();
        made.#stamp = readStamp(reader);
        made.#value = reader.value();
        return made;
    }
}
