export { HybridClock } from "./clock.js";
export { GCounter, PnCounter, VectorClock } from "./counters.js";
export { decode, encode } from "./encoding.js";
export { LwwMap } from "./lww-map.js";
export { LwwRegister } from "./lww-register.js";
export { OrSet } from "./or-set.js";
export { Rga } from "./rga.js";
export { AheadError, ConflictError, CrdtError, MalformedError, StaleError, } from "./wire.js";
