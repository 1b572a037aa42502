"""The mapped file of an index: what a scan reads, row by row in the order of keys.

    0                   4096
    +-----------------+--------------+---------------+-----------+------------+---------------+
    | Header, padded  | crc32        | keys          | scale     | bits       | codes         |
    |                 | u32 [C/256]  | i64 [C]       | f32 [C]   | u64        | u8            |
    |                 |              |               |           | [C/8,W,8]  | [C, D padded] |
    +-----------------+--------------+---------------+-----------+------------+---------------+

C is the capacity, a multiple of 256; D the dimensions, padded to 64; W = D padded / 64. Rows are
appended; one checksum covers the rows of a block of 256. The count is written last, so a file that
a crash cut off has a block whose checksum differs: that block and what follows is made again.
`stamp` ties the file to one past of its rows (sqlite_views.py).
"""

from __future__ import annotations

import mmap
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monolite import kernels
from monolite.kernels.arrays import Rows, padded
from monolite.search.vector_header import BLOCK, HEADER, MAGIC, PAGE, section_bytes

_RESERVED_AT_ONCE = 4096
"""Rows for which the disk is asked at once."""


class VectorFile:
    """An open file. One thread at a time may append; those who scan take `rows`, which stay as
    they are.
    """

    def __init__(self, path: Path, descriptor: int, width: int, capacity: int) -> None:
        self.path = path
        self.width = width
        self.capacity = capacity
        self.count = 0
        self.stamped = bytes(16)
        code_bytes, words = padded(width), padded(width) // 64
        sizes = [
            ("crc", "<u4", (capacity // BLOCK,)),
            ("keys", "<i8", (capacity,)),
            ("scale", "<f4", (capacity,)),
            ("bits", "<u8", (capacity // 8, words, 8)),
            ("codes", "u1", (capacity, code_bytes)),
        ]
        total = PAGE + sum(section_bytes(dtype, *shape) for _, dtype, shape in sizes)
        if os.fstat(descriptor).st_size < total:
            os.ftruncate(descriptor, total)
        self._map = mmap.mmap(descriptor, total)
        self._descriptor = descriptor
        self._reserved = 0
        self._sections: list[tuple[int, int]] = []
        arrays: dict[str, NDArray[Any]] = {}
        place = PAGE
        for name, dtype, shape in sizes:
            count = int(np.prod(shape))
            arrays[name] = np.frombuffer(self._map, dtype, count, place).reshape(shape)
            self._sections.append((place, section_bytes(dtype, *shape)))
            place += section_bytes(dtype, *shape)
        self._arrays = arrays

    def __del__(self) -> None:
        if hasattr(self, "_descriptor"):
            os.close(self._descriptor)

    @classmethod
    def create(cls, path: Path, width: int, capacity: int, stamp: bytes) -> VectorFile:
        """A new, empty file in place of what is there. Raises OSError."""
        path.unlink(missing_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, PAGE)
        except OSError:
            os.close(descriptor)
            path.unlink()
            raise
        capacity = max(BLOCK, -(-capacity // BLOCK) * BLOCK)
        made = cls(path, descriptor, width, capacity)
        made.stamp(stamp)
        return made

    @classmethod
    def without_disk(cls, path: Path, width: int, stamp: bytes) -> VectorFile:
        """One of the smallest capacity in memory, where the disk takes no file."""
        made = cls(path, os.memfd_create("vectors"), width, BLOCK)
        made.stamp(stamp)
        return made

    @classmethod
    def open(cls, path: Path, width: int, stamp: bytes) -> VectorFile | None:
        """The file as far as it is whole; None where it is missing, another's, or no such file."""
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            return None
        header = os.pread(descriptor, HEADER.size, 0)
        if len(header) == HEADER.size:
            magic, found_width, _, capacity, count, found_stamp = HEADER.unpack(header)
            size = os.fstat(descriptor).st_size
            row_bytes = padded(width) * 9 // 8 + 12
            if (
                (magic, found_width, found_stamp) == (MAGIC, width, stamp)
                and 0 <= count <= capacity
                and capacity % BLOCK == 0
                and 0 < capacity * row_bytes <= size
            ):
                made = cls(path, descriptor, width, capacity)
                made.stamped = stamp
                made.count = made._whole(count)
                return made
        os.close(descriptor)
        return None

    def stamp(self, stamp: bytes) -> None:
        """Tie the file to a past."""
        self.stamped = stamp
        self._write_header()

    def keys(self) -> NDArray[np.int64]:
        """The keys of all rows, ascending."""
        keys: NDArray[np.int64] = self._arrays["keys"][: self.count]
        return keys

    def rows(self, count: int) -> Rows:
        """The first rows, for a scan."""
        a = self._arrays
        return Rows(self.width, a["codes"][:count], a["scale"][:count], a["bits"])

    def bytes_of(self, count: int) -> int:
        """What so many rows take of the file."""
        code_bytes = padded(self.width)
        return PAGE + count * (code_bytes + code_bytes // 8 + 12) + -(-count // BLOCK) * 4

    def append(self, keys: NDArray[np.int64], vectors: NDArray[np.float32]) -> None:
        """Add rows behind the last; the caller sees to it that they fit. Raises OSError."""
        first, end = self.count, self.count + len(keys)
        self._reserve(first, end)
        a = self._arrays
        codes, scale = kernels.quantize(vectors)
        a["codes"][first:end] = codes
        a["scale"][first:end] = scale
        a["keys"][first:end] = keys
        kernels.signs(vectors, a["bits"], first)
        for block in range(first // BLOCK, -(-end // BLOCK)):
            a["crc"][block] = self._crc(block, end)
        self.count = end
        self._write_header()

    def copy_to(self, other: VectorFile, chosen: NDArray[np.int64]) -> None:
        """Append the chosen rows, ascending, to an empty file. Raises OSError."""
        a, b = self._arrays, other._arrays
        end = len(chosen)
        other._reserve(0, end)
        for name in ("codes", "scale", "keys"):
            b[name][:end] = a[name][chosen]
        words = a["bits"].shape[1]
        for first in range(0, end, 1 << 16):
            part = chosen[first : first + (1 << 16)]
            rows = a["bits"][part // 8, :, part % 8]  # [n, words]
            spread = np.zeros((-(-len(part) // 8) * 8, words), np.uint64)
            spread[: len(part)] = rows
            blocks = spread.reshape(-1, 8, words).transpose(0, 2, 1)
            b["bits"][first // 8 : first // 8 + len(blocks)] = blocks
        for block in range(-(-end // BLOCK)):
            b["crc"][block] = other._crc(block, end)
        other.count = end
        other._write_header()

    def flush(self) -> None:
        """Have the system write what is mapped."""
        self._map.flush()

    def _reserve(self, first: int, end: int) -> None:
        """Have the disk hold these rows: writing to a mapped page that it can't hold would end the
        process.
        """
        if end <= self._reserved:
            return
        end = min(self.capacity, -(-max(end, first + _RESERVED_AT_ONCE) // BLOCK) * BLOCK)
        for place, size in self._sections:
            start = size * first // self.capacity
            length = size * end // self.capacity - start
            os.posix_fallocate(self._descriptor, place + start, max(1, length))
        self._reserved = end

    def _write_header(self) -> None:
        header = HEADER.pack(MAGIC, self.width, 0, self.capacity, self.count, self.stamped)
        self._map[: len(header)] = header

    def _whole(self, count: int) -> int:
        """How many rows lie before the first block whose checksum differs."""
        crc = self._arrays["crc"]
        for block in range(-(-count // BLOCK)):
            if self._crc(block, count) != crc[block]:
                return block * BLOCK
        return count

    def _crc(self, block: int, count: int) -> int:
        first, end = block * BLOCK, min((block + 1) * BLOCK, count)
        a = self._arrays
        crc = 0
        for name in ("keys", "scale", "codes"):
            crc = zlib.crc32(a[name][first:end].data, crc)
        # Rows share words of a group of eight: lanes beyond the count are not theirs.
        groups = a["bits"][first // 8 : -(-end // 8)]
        if end % 8:
            groups = groups.copy()
            groups[-1, :, end % 8 :] = 0
        return zlib.crc32(groups.data, crc)
