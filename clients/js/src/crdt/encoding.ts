// The versioned encoding with its checksum: docs/crdt.md.
//
//  0     1     2         3      4
// +-----+-----+---------+------+-------+------+----------+
// | 'M' | 'C' | version | kind | names | body | checksum |
// +-----+-----+---------+------+-------+------+----------+

import { concat } from "../bytes.ts";
import { GCounter, PnCounter, VectorClock } from "./counters.ts";
import { LwwMap } from "./lww-map.ts";
import { LwwRegister } from "./lww-register.ts";
import { OrSet } from "./or-set.ts";
import { Rga } from "./rga.ts";
import { checkedName, compare, CrdtError, MalformedError, Reader, type State, TYPES, Writer } from "./wire.ts";

const VERSION = 1;
const HEAD_BYTES = 4;
const CHECKSUM_BYTES = 4;

for (const type of [LwwRegister, GCounter, PnCounter, OrSet, Rga, LwwMap, VectorClock]) {
  TYPES.set(new type().kind, { type, read: (reader) => type.read(reader) });
}

/** A state's or a delta's bytes. */
export function encode(state: State): Uint8Array {
  const found = new Set<string>();
  state.names(found);
  const names = [...found].sort(compare);
  const writer = new Writer(names);
  writer.put(Uint8Array.of(0x4d, 0x43, VERSION, state.kind));
  writer.varint(names.length);
  for (const name of names) writer.text(name);
  state.write(writer);
  const body = writer.done();
  return concat(body, checksum(body));
}

/**
 * The state or delta that has these bytes.
 *
 * @throws MalformedError: there is none, or its encoding is another.
 */
export function decode(bytes: Uint8Array): State {
  const isOurs = bytes[0] === 0x4d && bytes[1] === 0x43;
  if (!isOurs || bytes.length < HEAD_BYTES + CHECKSUM_BYTES) {
    throw new MalformedError("no state of this library");
  }
  if (bytes[2] !== VERSION) {
    throw new MalformedError(`version ${bytes[2]} of the encoding; this reads ${VERSION}`);
  }
  const body = bytes.subarray(0, -CHECKSUM_BYTES);
  if (!areEqual(checksum(body), bytes.subarray(-CHECKSUM_BYTES))) {
    throw new MalformedError("the checksum is another: bytes were changed or cut");
  }
  const type = TYPES.get(bytes[3] as number);
  if (type === undefined) throw new MalformedError(`no type has the number ${bytes[3]}`);
  let state: State;
  try {
    const reader = new Reader(body, HEAD_BYTES);
    reader.names = reader.many(() => checkedName(reader.text()));
    state = type.read(reader);
    if (areEqual(encode(state), bytes)) return state;
  } catch (error) {
    if (error instanceof CrdtError) throw new MalformedError(error.message);
    throw error;
  }
  throw new MalformedError("not the canonical encoding of its state");
}

function areEqual(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && a.every((byte, at) => byte === b[at]);
}

const TABLE = Uint32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte;
  for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0xedb88320 : crc >>> 1;
  return crc;
});

/** CRC-32 of ISO 3309, big-endian. */
function checksum(bytes: Uint8Array): Uint8Array {
  let crc = 0xffffffff;
  for (const byte of bytes) crc = (crc >>> 8) ^ (TABLE[(crc ^ byte) & 0xff] as number);
  const found = new Uint8Array(CHECKSUM_BYTES);
  new DataView(found.buffer).setUint32(0, (crc ^ 0xffffffff) >>> 0);
  return found;
}
