"""The header of a mapped file, without what needs numpy (vector_file.py draws the whole)."""

from __future__ import annotations

import math
import struct
from pathlib import Path

MAGIC = b"MONOVEC1"
BLOCK = 256
"""Rows of one checksum."""

HEADER = struct.Struct("<8sII q q 16s")
"""Magic, dimensions, 0, capacity, count, stamp."""

PAGE = 4096
_ITEM_BYTES = {"u1": 1, "<u4": 4, "<f4": 4, "<i8": 8, "<u8": 8}


def section_bytes(dtype: str, *shape: int) -> int:
    """Bytes of a section, padded to a cache line."""
    return -(-math.prod(shape) * _ITEM_BYTES[dtype] // 64) * 64


def last_key(path: Path) -> int:
    """The newest key in a file, 0 where it has none or is no such file."""
    try:
        with path.open("rb") as file:
            header = file.read(HEADER.size)
            if len(header) < HEADER.size or header[:8] != MAGIC:
                return 0
            _, _, _, capacity, count, _ = HEADER.unpack(header)
            if not 0 < count <= capacity:
                return 0
            file.seek(PAGE + section_bytes("<u4", capacity // BLOCK) + 8 * (count - 1))
            return int.from_bytes(file.read(8), "little", signed=True)
    except OSError:
        return 0
