"""The model file: named arrays, each where a vector load likes it, and what they are.

    0        8         12        16          48                         data
    +--------+---------+---------+-----------+-------------------+------+---------+-----+---------+
    |MONOMODL| version | header  | SHA-256   | header: JSON, that| 0... | section | ... | section |
    |        | u32     | bytes   | of header | of Header         |      | each from a multiple of |
    |        |         | u32     |           |                   |      | 64 bytes on             |
    +--------+---------+---------+-----------+-------------------+------+---------+-----+---------+

Numbers are little-endian; a section's offset counts from the start of `data`, which begins at the
next multiple of 4096. The header has each section's SHA-256. A file may lie inside another one, at
an offset that is a multiple of 64.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from monolite.errors import Unavailable

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAGIC = b"MONOMODL"
VERSION = 2
SUFFIX = ".model"
_PREAMBLE = struct.Struct("<8sII32s")
_PAGE = 4096
_ALIGNMENT = 64
_HEADER_BYTES_MAX = 1 << 20
_CHUNK_BYTES = 1 << 18


class BadModelFile(Unavailable):
    """A file that is no model, or is damaged; the message names it and says what to do."""

    code = "model_unusable"


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
    `pooling` is `mean` or `first`; vectors are always brought to length 1.
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


class ModelPlace(NamedTuple):
    """Where a model lies: all of a file, or `length` bytes of it from `offset` on."""

    path: Path
    offset: int = 0
    length: int | None = None

    @property
    def bytes(self) -> int:
        """How large it is. Raises OSError."""
        return self.path.stat().st_size - self.offset if self.length is None else self.length


class _Contents(NamedTuple):
    """A model's header, and where its data begins and ends, from the file's start."""

    header: Header
    data: int
    end: int


class ModelFile:
    """An open model file. `arrays` view the mapping and keep it alive."""

    def __init__(self, header: Header, arrays: dict[str, NDArray[Any]]) -> None:
        self.about = header.about
        self.arrays = arrays

    @classmethod
    def open(cls, path: Path, *, offset: int = 0, length: int | None = None) -> ModelFile:
        """Map the model in `path`, or in the `length` bytes from `offset` on.

        All of it is read once to compare checksums, past the mapping, so that only what is used
        becomes memory of the process: 16 ms for the default model.

        Raises:
            BadModelFile: it is cut off, changed, or of another version.
            OSError: it can't be read.
        """
        import numpy as np

        with path.open("rb") as file:
            place = _read_header(path, file.fileno(), offset, length)
            for name, section in place.header.sections.items():
                start = place.data + section.offset
                if section.offset < 0 or section.bytes < 0 or start + section.bytes > place.end:
                    raise _bad(path, "it is cut off")
                if _digest(file.fileno(), start, section.bytes) != section.sha256:
                    raise _bad(path, f"its {name} is not what was written")
            # A mapping begins at a page, whose size is the machine's; what is mapped need not.
            first = place.data // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
            mapped = memoryview(
                mmap.mmap(file.fileno(), place.end - first, access=mmap.ACCESS_READ, offset=first)
            )[place.data - first :]
        arrays = {}
        for name, section in place.header.sections.items():
            content = mapped[section.offset :][: section.bytes]
            try:
                arrays[name] = np.frombuffer(content, section.dtype).reshape(section.shape)
            except (ValueError, TypeError):
                raise _bad(path, f"its {name} has no shape that fits") from None
        return cls(place.header, arrays)


def describe(place: ModelPlace) -> About:
    """What a model file says it is, without a look at its arrays. Raises as ModelFile.open does."""
    with place.path.open("rb") as file:
        return _read_header(place.path, file.fileno(), place.offset, place.length).header.about


def write(path: Path, about: About, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write a model file, whole or not at all. Raises OSError."""
    import numpy as np

    sections, place = {}, 0
    for name, array in arrays.items():
        digest = hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()
        sections[name] = Section(array.dtype.str, array.shape, place, array.nbytes, digest)
        place += -(-array.nbytes // _ALIGNMENT) * _ALIGNMENT
    header = msgspec.json.encode(Header(about, sections))
    start = _data_start(len(header))
    made = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with made.open("wb") as file:
            file.write(_PREAMBLE.pack(MAGIC, VERSION, len(header), hashlib.sha256(header).digest()))
            file.write(header)
            for name, array in arrays.items():
                file.seek(start + sections[name].offset)
                file.write(np.ascontiguousarray(array).data)
            file.truncate(start + place)
            file.flush()
            os.fsync(file.fileno())
        made.replace(path)
    finally:
        made.unlink(missing_ok=True)


def _data_start(header_bytes: int) -> int:
    return -(-(_PREAMBLE.size + header_bytes) // _PAGE) * _PAGE


def _read_header(path: Path, descriptor: int, offset: int, length: int | None) -> _Contents:
    size = max(0, os.fstat(descriptor).st_size - offset)
    size = size if length is None else min(length, size)
    preamble = os.pread(descriptor, min(_PREAMBLE.size, size), offset)
    if not preamble.startswith(MAGIC):
        raise _bad(path, "it doesn't begin as one")
    if len(preamble) < _PREAMBLE.size:
        raise _bad(path, "it is cut off")
    _, version, header_bytes, digest = _PREAMBLE.unpack(preamble)
    if version != VERSION:
        raise _bad(path, f"it has format {version}, this program reads {VERSION}")
    if header_bytes > _HEADER_BYTES_MAX or _data_start(header_bytes) > size:
        raise _bad(path, "it is cut off")
    text = os.pread(descriptor, header_bytes, offset + _PREAMBLE.size)
    if hashlib.sha256(text).digest() != digest:
        raise _bad(path, "its header is not what was written")
    try:
        header = msgspec.json.decode(text, type=Header)
    except msgspec.DecodeError as error:
        raise _bad(path, f"its header can't be read: {error}") from None
    return _Contents(header, offset + _data_start(header_bytes), offset + size)


def _digest(descriptor: int, start: int, length: int) -> str:
    digest, buffer, end = hashlib.sha256(), memoryview(bytearray(_CHUNK_BYTES)), start + length
    while start < end:
        count = os.preadv(descriptor, [buffer[: end - start]], start)
        if count == 0:
            break
        digest.update(buffer[:count])
        start += count
    return digest.hexdigest()


def _bad(path: Path, why: str) -> BadModelFile:
    return BadModelFile(f"{path} is no model that can be used: {why}. Remove it, and add it again")
