// A map from text to states of any type, in which each key's last assignment or removal wins.
//
// An assignment begins a new life of its key, named by a stamp. States of one life merge; of two
// lives the later wins whole. `ensure` begins a life that all replicas have in common.
var _a;
import { compareStamps, NEVER, readStamp, refuseAhead, writeStamp } from "./clock.js";
import { checkedText, ConflictError, CrdtError, DEPTH_MAX, MalformedError, sortedTexts, TYPES } from "./wire.js";
/** Keys, each with its life's stamp and its state; none where it was removed. */
export class LwwMap {
    kind = 6;
    #lives = new Map();
    has(key) {
        return this.get(key) !== undefined;
    }
    /** A key's state. What you change in it goes out with `delta`. */
    get(key) {
        return this.#lives.get(key)?.state;
    }
    keys() {
        return sortedTexts(this.#lives.keys()).filter((key) => this.has(key));
    }
    /** Keys with their states' values. */
    get value() {
        return Object.fromEntries(this.keys().map((key) => [key, this.get(key)?.value]));
    }
    /** Begin a new life of a key with a copy of a state; returns the delta. */
    assign(key, state, clock) {
        const copy = nested(state);
        return this.#put(checkedText(key), clock.tick(this.#stamp(key)), copy);
    }
    /** End a key's life; returns the delta. */
    remove(key, clock) {
        return this.#put(checkedText(key), clock.tick(this.#stamp(key)), undefined);
    }
    /** A key's state of one type: what is there, or an empty one to begin with. */
    ensure(key, type, clock) {
        const life = this.#lives.get(key);
        if (life?.state === undefined) {
            const stamp = life === undefined ? NEVER : clock.tick(life.stamp);
            this.#put(checkedText(key), stamp, new type());
        }
        const state = this.get(key);
        if (!(state instanceof type))
            throw new CrdtError(`${key} is a ${state?.constructor.name}`);
        return state;
    }
    /** The delta of this map for a delta of a key's state. */
    delta(key, of) {
        const life = this.#lives.get(key);
        if (life?.state?.kind !== of.kind)
            throw new CrdtError(`${key} is of another type`);
        const made = new _a();
        made.#lives.set(key, { stamp: life.stamp, state: nested(of) });
        return made;
    }
    /** Of each key take the later life; within one life the states merge. */
    merge(other, nowMs) {
        const taken = new Map();
        const joined = [];
        for (const [key, { stamp, state }] of other.#lives) {
            refuseAhead(stamp, nowMs);
            const mine = this.#lives.get(key);
            const order = mine === undefined ? -1 : compareStamps(mine.stamp, stamp) || kindOf(mine.state) - kindOf(state);
            const isOneLife = mine !== undefined && compareStamps(mine.stamp, stamp) === 0;
            if (isOneLife && order !== 0 && stamp.node !== "" && (order < 0 || state !== undefined)) {
                throw new ConflictError(`two lives of ${key} with one stamp of ${stamp.node}`);
            }
            if (order < 0) {
                const fresh = state === undefined ? undefined : new (TYPES.get(state.kind).type)();
                if (state !== undefined)
                    fresh?.merge(state, nowMs);
                taken.set(key, { stamp, state: fresh });
            }
            else if (order === 0 && mine?.state !== undefined && state !== undefined) {
                joined.push([mine.state, state]);
            }
        }
        // All or nothing: what one of several may refuse is tried on copies.
        if (joined.length > 1)
            for (const [mine, theirs] of joined)
                mine.copy().merge(theirs, nowMs);
        for (const [mine, theirs] of joined)
            mine.merge(theirs, nowMs);
        for (const [key, life] of taken)
            this.#lives.set(key, life);
    }
    copy() {
        const made = new _a();
        for (const [key, { stamp, state }] of this.#lives) {
            made.#lives.set(key, { stamp, state: state?.copy() });
        }
        return made;
    }
    names(found) {
        for (const { stamp, state } of this.#lives.values()) {
            if (stamp.node !== "")
                found.add(stamp.node);
            state?.names(found);
        }
    }
    write(writer) {
        writer.varint(this.#lives.size);
        for (const key of sortedTexts(this.#lives.keys())) {
            const { stamp, state } = this.#lives.get(key);
            writer.text(key);
            writeStamp(writer, stamp);
            writer.varint(kindOf(state));
            state?.write(writer);
        }
    }
    static read(reader) {
        if (++reader.depth > DEPTH_MAX)
            throw new MalformedError("maps too deep in each other");
        const made = new _a();
        reader.many(() => {
            const key = reader.text();
            const stamp = readStamp(reader);
            const kind = reader.varint();
            const type = TYPES.get(kind);
            if (kind > 0 && type === undefined)
                throw new MalformedError(`no type has the number ${kind}`);
            made.#lives.set(key, { stamp, state: type?.read(reader) });
        });
        reader.depth--;
        return made;
    }
    /** How deep maps are in each other here. */
    static depth(state) {
        if (!(state instanceof _a))
            return 0;
        return 1 + Math.max(0, ...[...state.#lives.values()].map((life) => _a.depth(life.state)));
    }
    #stamp(key) {
        return this.#lives.get(key)?.stamp ?? NEVER;
    }
    #put(key, stamp, state) {
        this.#lives.set(key, { stamp, state });
        const delta = new _a();
        delta.#lives.set(key, { stamp, state: state?.copy() });
        return delta;
    }
}
_a = LwwMap;
function kindOf(state) {
    return state?.kind ?? 0;
}
/** A copy of a state that may be in a map. */
function nested(state) {
    if (LwwMap.depth(state) >= DEPTH_MAX)
        throw new CrdtError("maps too deep in each other");
    return state.copy();
}
