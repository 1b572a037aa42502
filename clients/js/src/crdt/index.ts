export { HybridClock, type Stamp } from "./clock.ts";
export { GCounter, PnCounter, VectorClock } from "./counters.ts";
export { decode, encode } from "./encoding.ts";
export { LwwMap } from "./lww-map.ts";
export { LwwRegister } from "./lww-register.ts";
export { OrSet } from "./or-set.ts";
export { Rga } from "./rga.ts";
export {
  AheadError, ConflictError, CrdtError, type Dot, MalformedError, StaleError, type State, type Value,
} from "./wire.ts";
