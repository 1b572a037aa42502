"""The model file: named arrays, each where a vector load likes it, and what they are.

    0        8         12          16                          data
    +--------+---------+-----------+--------------------+------+---------+-----+---------+
    |MONOMODL| version | header    | header: JSON, that | 0... | section | ... | section |
    |        | u32     | bytes u32 | of Header          |      | 64-byte aligned         |
    +--------+---------+-----------+--------------------+------+---------+-----+---------+

Numbers are little-endian; a section's offset counts from the start of `data`, which begins at the
next multiple of 4096. A file may lie inside another one, at an offset that is a multiple of 4096.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAGIC = b"MONOMODL"
VERSION = 1
SUFFIX = ".model"
_PAGE = 4096
_HEADER_BYTES_MAX = 1 << 20


class BadModelFile(Exception):
    """A file that is no model, or is damaged; the message names it and says what to do."""


class Section(msgspec.Struct, frozen=True):
    """One array: numpy's name of its dtype, its shape, where it lies, and its SHA-256."""

    dtype: str
    shape: tuple[int, ...]
    offset: int
    bytes: int
    sha256: str


class About(msgspec.Struct, frozen=True, kw_only=True):
    """What a model is: `kind` is `encoder`; `source_sha256` is that of the weights it was made of.

    `query_prefix` and `passage_prefix` go before a text of that kind, as the model was trained.
    """

    name: str
    kind: str
    dimensions: int
    tokens_max: int
    heads: int
    layers: int
    epsilon: float
    pooling: str
    query_prefix: str = ""
    passage_prefix: str = ""
    licence: str = ""
    source: str = ""
    source_sha256: str = ""


class Header(msgspec.Struct, frozen=True):
    """The file's table of contents."""

    about: About
    sections: dict[str, Section]


class ModelFile:
    """An open model file. `arrays` view the mapping and keep it alive."""

    def __init__(self, header: Header, arrays: dict[str, NDArray[Any]]) -> None:
        self.about = header.about
        self.arrays = arrays

    @classmethod
    def open(cls, path: Path, *, offset: int = 0, length: int | None = None) -> ModelFile:
        """Map the model in `path`, or in the `length` bytes from `offset` on.

        Reads all of it once to compare checksums: 15 ms for the default model.

        Raises:
            BadModelFile: it is cut off, changed, or of another version.
            OSError: it can't be read.
        """
        import numpy as np

        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size - offset
            size = size if length is None else min(length, size)
            if size < 16:
                raise _bad(path, "it is too short")
            mapped = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ, offset=offset)
        header, start = _header(path, mapped)
        arrays = {}
        for name, section in header.sections.items():
            content = memoryview(mapped)[start + section.offset :][: section.bytes]
            if hashlib.sha256(content).hexdigest() != section.sha256:
                raise _bad(path, f"its {name} is not what was written")
            try:
                arrays[name] = np.frombuffer(content, section.dtype).reshape(section.shape)
            except (ValueError, TypeError):
                raise _bad(path, f"its {name} has no shape that fits") from None
        return cls(header, arrays)


def describe(path: Path) -> About:
    """What a model file says it is, without a look at its arrays. Raises as ModelFile.open does."""
    with path.open("rb") as file:
        return _header(path, file.read(16 + _HEADER_BYTES_MAX))[0].about


def write(path: Path, about: About, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write a model file, whole or not at all. Raises OSError."""
    sections, place = {}, 0
    for name, array in arrays.items():
        content = array.tobytes()
        digest = hashlib.sha256(content).hexdigest()
        sections[name] = Section(array.dtype.str, array.shape, place, len(content), digest)
        place += -(-len(content) // 64) * 64
    header = msgspec.json.encode(Header(about, sections))
    made = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with made.open("wb") as file:
            file.write(MAGIC + struct.pack("<II", VERSION, len(header)) + header)
            start = _start(len(header))
            for name, array in arrays.items():
                file.seek(start + sections[name].offset)
                file.write(array.tobytes())
            file.truncate(start + place)
            file.flush()
            os.fsync(file.fileno())
        made.replace(path)
    finally:
        made.unlink(missing_ok=True)


def _start(header_bytes: int) -> int:
    return -(-(16 + header_bytes) // _PAGE) * _PAGE


def _header(path: Path, content: Any) -> tuple[Header, int]:
    if bytes(content[:8]) != MAGIC:
        raise _bad(path, "it doesn't begin as one")
    version, length = struct.unpack("<II", content[8:16])
    if version != VERSION:
        raise _bad(path, f"it has format {version}, this program reads {VERSION}")
    if length > _HEADER_BYTES_MAX or len(content) < 16 + length:
        raise _bad(path, "it ends in its header")
    try:
        header = msgspec.json.decode(bytes(content[16 : 16 + length]), type=Header)
    except msgspec.DecodeError as error:
        raise _bad(path, f"its header can't be read: {error}") from None
    return header, _start(length)


def _bad(path: Path, why: str) -> BadModelFile:
    return BadModelFile(f"{path} is no model that can be used: {why}. Remove it, and add it again")
