// Entries as binary frames, as docs/sync.md draws them. Numbers are big-endian.
//
//  0        4      5          13       14       15
// +--------+------+----------+--------+--------+---------+---------+-----------+
// | length | kind |  number  |   r    |   c    | replica | cursor  | blob      |
// | u32    |  u8  |   u64    |   u8   |   u8   | r bytes | c bytes | the rest  |
// +--------+------+----------+--------+--------+---------+---------+-----------+
//          |<--------------------------- length --------------------------->|

export const END = 0;
export const STATE = 1;
export const UPDATE = 2;
export const SNAPSHOT = 3;
export const PRESENCE = 5;

const HEAD_BYTES = 15;
const LENGTH_BYTES = 4;
const ascii = new TextDecoder();

export interface Frame {
  kind: number;
  number: number;
  replica: string;
  cursor: string;
  blob: Uint8Array;
}

/** One frame's bytes. */
export function frame(kind: number, number: number, replica: string, blob: Uint8Array): Uint8Array {
  const name = new TextEncoder().encode(replica);
  const bytes = new Uint8Array(HEAD_BYTES + name.length + blob.length);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, bytes.length - LENGTH_BYTES);
  view.setUint8(4, kind);
  view.setBigUint64(5, BigInt(number));
  view.setUint8(13, name.length);
  bytes.set(name, HEAD_BYTES);
  bytes.set(blob, HEAD_BYTES + name.length);
  return bytes;
}

/**
 * Every frame of a message or list.
 *
 * @throws RangeError where it is cut short, or a length in it is wrong.
 */
export function* frames(bytes: Uint8Array): Generator<Frame> {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  for (let at = 0; at < bytes.length; ) {
    if (bytes.length - at < HEAD_BYTES) throw new RangeError("a frame is cut short");
    const end = at + LENGTH_BYTES + view.getUint32(at);
    const cursorAt = at + HEAD_BYTES + view.getUint8(at + 13);
    const blobAt = cursorAt + view.getUint8(at + 14);
    if (end > bytes.length || blobAt > end) throw new RangeError("a frame is cut short");
    yield {
      kind: view.getUint8(at + 4),
      number: Number(view.getBigUint64(at + 5)),
      replica: ascii.decode(bytes.subarray(at + HEAD_BYTES, cursorAt)),
      cursor: ascii.decode(bytes.subarray(cursorAt, blobAt)),
      blob: bytes.slice(blobAt, end),
    };
    at = end;
  }
}
