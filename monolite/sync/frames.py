"""Entries as binary frames: `application/vnd.monolite.entries`, and a WebSocket's binary messages.

     0        4      5          13       14       15
    +--------+------+----------+--------+--------+---------+--------+----------- - -+
    | length | kind |  number  |   r    |   c    | replica | cursor | blob          |
    | u32 BE |  u8  |  u64 BE  |   u8   |   u8   | r bytes | c bytes| the rest      |
    +--------+------+----------+--------+--------+---------+--------+----------- - -+
             |<------------------------------ length ------------------------------>|

    kind 1 state, 2 update, 3 snapshot    number is the entry's seq; r is 0 where it has no replica
    kind 5 presence                       number is 0
    kind 0 end of a list                  number is the last seq seen; the blob is one byte, 1 where
                                          the list is up to date, 0 where more is behind the cursor

`cursor` goes on behind the frame it is in. A list that breaks off has no frame of kind 0. A client
sends the same frames, without a cursor; its `number` is its own, and comes back in the answer.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

END, STATE, UPDATE, SNAPSHOT, PRESENCE = 0, 1, 2, 3, 5
KINDS = {"state": STATE, "update": UPDATE, "snapshot": SNAPSHOT}

_HEAD = struct.Struct(">IBQBB")
_LENGTH_BYTES = 4


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame, read."""

    kind: int
    number: int
    replica: str
    cursor: str
    blob: bytes


def frame(kind: int, number: int, replica: str | None, cursor: str, blob: bytes) -> bytes:
    """One frame's bytes."""
    name, place = (replica or "").encode(), cursor.encode()
    length = _HEAD.size - _LENGTH_BYTES + len(name) + len(place) + len(blob)
    return _HEAD.pack(length, kind, number, len(name), len(place)) + name + place + blob


def read(data: bytes) -> Iterator[Frame]:
    """Every frame of a message.

    Raises:
        ValueError: it is cut short, or a length in it is wrong.
    """
    at = 0
    while at < len(data):
        if len(data) - at < _HEAD.size:
            raise ValueError("a frame is cut short")
        length, kind, number, r, c = _HEAD.unpack_from(data, at)
        end = at + _LENGTH_BYTES + length
        blob_at = at + _HEAD.size + r + c
        if end > len(data) or blob_at > end:
            raise ValueError("a frame is cut short")
        try:
            replica = data[at + _HEAD.size : at + _HEAD.size + r].decode("ascii")
            cursor = data[at + _HEAD.size + r : blob_at].decode("ascii")
        except UnicodeDecodeError:
            raise ValueError("a frame's replica or cursor is not ASCII") from None
        yield Frame(kind, number, replica, cursor, data[blob_at:end])
        at = end
