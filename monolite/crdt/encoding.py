"""States and deltas as bytes.

     0     1     2         3      4
    +-----+-----+---------+------+-------+------+----------+
    | 'M' | 'C' | version | kind | names | body | checksum |
    |     |     |    1    |  u8  |       |      |  u32 BE  |
    +-----+-----+---------+------+-------+------+----------+

`names` is a varint count and, ascending, the text of each replica's name that the body refers to;
the body has their places, from 0. The checksum is the CRC-32 of ISO 3309 (zlib's) of all before it.
Equal states have equal bytes, and no others are accepted.
"""

from __future__ import annotations

import zlib

from monolite.crdt import g_counter, lww_map, lww_register, or_set, pn_counter, rga, vector_clock
from monolite.crdt.errors import CrdtError, MalformedError
from monolite.crdt.wire import KINDS, Reader, State, Writer, checked_name

__all__ = ["TYPES", "VERSION", "decode", "encode"]

VERSION = 1
MAGIC = b"MC"
TYPES = (
    lww_register.LwwRegister, g_counter.GCounter, pn_counter.PnCounter, or_set.OrSet, rga.Rga,
    lww_map.LwwMap, vector_clock.VectorClock,
)  # fmt: skip
_HEAD_BYTES = 4
_CHECKSUM_BYTES = 4


def encode(state: State) -> bytes:
    """A state's or a delta's bytes."""
    found: set[str] = set()
    state.names(found)
    names = sorted(found)
    writer = Writer(names)
    writer.bytes += MAGIC + bytes((VERSION, state.KIND))
    writer.varint(len(names))
    for name in names:
        writer.text(name)
    state.write(writer)
    return bytes(writer.bytes) + zlib.crc32(writer.bytes).to_bytes(_CHECKSUM_BYTES, "big")


def decode(data: bytes) -> State:
    """The state or delta that has these bytes.

    Raises:
        MalformedError: there is none, or its encoding is another.
    """
    if len(data) < _HEAD_BYTES + _CHECKSUM_BYTES or data[:2] != MAGIC:
        raise MalformedError("no state of this library")
    if data[2] != VERSION:
        raise MalformedError(f"version {data[2]} of the encoding; this library reads {VERSION}")
    body = data[:-_CHECKSUM_BYTES]
    if zlib.crc32(body) != int.from_bytes(data[-_CHECKSUM_BYTES:], "big"):
        raise MalformedError("the checksum is another: bytes were changed or cut")
    kind = KINDS.get(data[3])
    if kind is None:
        raise MalformedError(f"no type has the number {data[3]}")
    reader = Reader(body, _HEAD_BYTES)
    try:
        reader.names = [checked_name(reader.text()) for _ in range(reader.count())]
    except MalformedError:
        raise
    except CrdtError as error:
        raise MalformedError(str(error)) from None
    state = kind.read(reader)
    if encode(state) != data:
        raise MalformedError("not the canonical encoding of its state")
    return state
