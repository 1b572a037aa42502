// A set in which an addition wins over a concurrent removal, without tombstones.
//
// Each addition has a dot. An element is in the set while one of its dots is alive; a removal takes
// the dots it has seen, and the context remembers them. Bieniusa, Zawirski, Preguiça, Shapiro,
// Baquero, Balegas, Duarte: "An optimized conflict-free replicated set" (2012).
var _a;
import { Dots } from "./dots.js";
import { compare, compareDots, ConflictError, keyOf, MalformedError, normal, valueKey } from "./wire.js";
/** Elements, each with the dots of the additions that are alive; and all dots ever seen. */
export class OrSet {
    kind = 4;
    #context = new Dots();
    /** By their encodings, by which 1 and true are two. */
    #elements = new Map();
    /** Each live dot, and the encoding of what it added. */
    #alive = new Map();
    has(element) {
        return this.#elements.has(valueKey(element));
    }
    get size() {
        return this.#elements.size;
    }
    /** The elements, in the order of their encodings. */
    get value() {
        return this.#sorted().map(([, element]) => normal(element.value));
    }
    /** Put an element in; returns the delta: the new dot, and the dots that it stands for. */
    add(element, replica) {
        const key = valueKey(element);
        const dot = this.#context.next(replica);
        const delta = this.#clear(key);
        delta.#context.add(dot);
        for (const one of [this, delta])
            one.#put(key, normal(element), dot);
        return delta;
    }
    /** Take an element out, if it is in; returns the delta: the dots that are gone. */
    remove(element) {
        return this.#clear(valueKey(element));
    }
    /** Keep what both have, and what one has and the other has not seen. */
    merge(other) {
        for (const [name, { dot, key }] of other.#alive) {
            if ((this.#alive.get(name)?.key ?? key) !== key) {
                throw new ConflictError(`one dot of ${dot[0]} adds two elements`);
            }
        }
        for (const [name, { dot }] of [...this.#alive]) {
            if (!other.#alive.has(name) && other.#context.has(dot))
                this.#drop(name);
        }
        for (const [name, { dot, key }] of other.#alive) {
            if (this.#alive.has(name) || this.#context.has(dot))
                continue;
            this.#put(key, other.#elements.get(key).value, dot);
        }
        this.#context.update(other.#context);
    }
    copy() {
        const made = new _a();
        made.#context = this.#context.copy();
        for (const { dot, key } of this.#alive.values()) {
            made.#put(key, this.#elements.get(key).value, dot);
        }
        return made;
    }
    names(found) {
        this.#context.names(found);
    }
    write(writer) {
        this.#context.write(writer);
        writer.varint(this.#elements.size);
        for (const [, { value, dots }] of this.#sorted()) {
            writer.value(value);
            writer.varint(dots.length);
            for (const dot of [...dots].sort(compareDots))
                writer.dot(dot);
        }
    }
    static read(reader) {
        const made = new _a();
        made.#context = Dots.read(reader);
        reader.many(() => {
            const value = reader.value();
            const key = valueKey(value);
            const dots = reader.many(() => reader.dot());
            if (dots.length === 0 || made.#elements.has(key)) {
                throw new MalformedError("an element without dots, or twice");
            }
            for (const dot of dots) {
                if (made.#alive.has(keyOf(dot)) || !made.#context.has(dot)) {
                    throw new MalformedError("a dot is used twice, or not in the context");
                }
                made.#put(key, value, dot);
            }
        });
        return made;
    }
    #put(key, value, dot) {
        const element = this.#elements.get(key);
        if (element === undefined)
            this.#elements.set(key, { value, dots: [dot] });
        else
            element.dots.push(dot);
        this.#alive.set(keyOf(dot), { dot, key });
    }
    #drop(name) {
        const { dot, key } = this.#alive.get(name);
        this.#alive.delete(name);
        const element = this.#elements.get(key);
        element.dots = element.dots.filter((one) => one[0] !== dot[0] || one[1] !== dot[1]);
        if (element.dots.length === 0)
            this.#elements.delete(key);
    }
    /** Take all dots of an element away; returns a delta that says so. */
    #clear(key) {
        const delta = new _a();
        for (const dot of this.#elements.get(key)?.dots ?? []) {
            this.#alive.delete(keyOf(dot));
            delta.#context.add(dot);
        }
        this.#elements.delete(key);
        return delta;
    }
    #sorted() {
        return [...this.#elements].sort((a, b) => compare(a[0], b[0]));
    }
}
_a = OrSet;
