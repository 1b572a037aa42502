import { type State } from "./wire.ts";
/** A state's or a delta's bytes. */
export declare function encode(state: State): Uint8Array;
/**
 * The state or delta that has these bytes.
 *
 * @throws MalformedError: there is none, or its encoding is another.
 */
export declare function decode(bytes: Uint8Array): State;
