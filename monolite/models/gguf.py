"""GGUF files: metadata, and tensors where they lie in the mapping.

The format is ggml's (docs/gguf.md of its repository), version 3, little-endian::

    "GGUF" | version u32 | tensors u64 | pairs u64 | key, type, value …
    name, shape, type, offset … | padding to `general.alignment` | data

A file is not believed: every length, count, offset and type is compared with what is there before
it is used, so a file that is cut off or hostile is refused by name and never read past its end.
"""

from __future__ import annotations

import hashlib
import math
import mmap
import struct
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from monolite.models.file import BadModelFile

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MAGIC = b"GGUF"
SUFFIX = ".gguf"
VERSIONS = (2, 3)
PAIR_COUNT_MAX = 10_000
TENSOR_COUNT_MAX = 100_000
ITEM_COUNT_MAX = 4_000_000
NAME_BYTES_MAX = 65_535
DIMENSION_COUNT_MAX = 4

_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")
_STRING, _ARRAY = 8, 9
_SCALARS = {
    number: struct.Struct("<" + code)
    for number, code in {
        0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d",
    }.items()
}  # fmt: skip


class BadGguf(BadModelFile):
    """A file that is no GGUF that can be used; the message names it and says why."""


class TensorType(NamedTuple):
    """How a type stores numbers: so many in a block of so many bytes."""

    name: str
    items: int
    bytes: int


TYPES = {
    0: TensorType("F32", 1, 4),
    1: TensorType("F16", 1, 2),
    2: TensorType("Q4_0", 32, 18),
    3: TensorType("Q4_1", 32, 20),
    6: TensorType("Q5_0", 32, 22),
    7: TensorType("Q5_1", 32, 24),
    8: TensorType("Q8_0", 32, 34),
    12: TensorType("Q4_K", 256, 144),
    13: TensorType("Q5_K", 256, 176),
    14: TensorType("Q6_K", 256, 210),
    30: TensorType("BF16", 1, 2),
}


class Tensor(NamedTuple):
    """A tensor: its shape as numpy has it (rows first), and where its bytes lie in the file."""

    name: str
    shape: tuple[int, ...]
    type: TensorType
    start: int
    bytes: int


class Gguf:
    """An open file. `metadata` has plain values, arrays as lists."""

    def __init__(self, path: Path, mapped: memoryview) -> None:
        self.path = path
        self._mapped = mapped
        reader = _Reader(path, mapped)
        self.metadata, self.tensors = reader.contents()

    @classmethod
    def open(cls, path: Path) -> Gguf:
        """Map a file and read what it says of itself.

        Raises:
            BadGguf: it is none, cut off, or says what can't be.
            OSError: it can't be read.
        """
        with path.open("rb") as file:
            if not file.read(4) == MAGIC:
                raise _bad(path, "it doesn't begin as one")
            mapped = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        return cls(path, mapped)

    @classmethod
    def read(cls, path: Path, content: bytes) -> Gguf:
        """Read a file's content; `path` is what it is called in errors. Raises BadGguf."""
        if content[:4] != MAGIC:
            raise _bad(path, "it doesn't begin as one")
        return cls(path, memoryview(content))

    def get(self, key: str, kind: type | tuple[type, ...], default: Any = None) -> Any:
        """A value of the metadata of a kind; `default` where it is missing.

        Raises:
            BadGguf: it is of another kind, or missing without a default.
        """
        found = self.metadata.get(key, default)
        if not isinstance(found, kind) or (isinstance(found, bool) and kind is int):
            what = "missing" if key not in self.metadata else "of another kind than it should be"
            raise _bad(self.path, f"its {key} is {what}")
        return found

    def tensor(self, name: str, shape: tuple[int, ...] | None = None) -> Tensor:
        """A tensor by its name.

        Raises:
            BadGguf: it is missing, or has another shape.
        """
        found = self.tensors.get(name)
        if found is None:
            raise _bad(self.path, f"it has no tensor {name}")
        if shape is not None and found.shape != shape:
            raise _bad(self.path, f"its {name} is {found.shape} where {shape} is needed")
        return found

    def digest(self) -> str:
        """SHA-256 of the whole file, in hexadecimal: half a second for a gigabyte."""
        return hashlib.sha256(self._mapped).hexdigest()

    def raw(self, tensor: Tensor) -> NDArray[np.uint8]:
        """The stored bytes [rows, bytes of a row], a view of the mapping."""
        import numpy as np

        content = self._mapped[tensor.start : tensor.start + tensor.bytes]
        rows = math.prod(tensor.shape[:-1])
        return np.frombuffer(content, np.uint8).reshape(rows, -1)


class _Reader:
    def __init__(self, path: Path, mapped: memoryview) -> None:
        self._path = path
        self._mapped = mapped
        self._at = 4

    def contents(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        version = self._u32()
        if version not in VERSIONS:
            raise self._bad(f"it has version {version}, this program reads {VERSIONS[-1]}")
        tensor_count, pair_count = self._u64(), self._u64()
        if tensor_count > TENSOR_COUNT_MAX or pair_count > PAIR_COUNT_MAX:
            raise self._bad(f"it claims {tensor_count} tensors and {pair_count} values")
        metadata: dict[str, Any] = {}
        for _ in range(pair_count):
            key = self._text(NAME_BYTES_MAX)
            if key in metadata:
                raise self._bad(f"it has two values of {key}")
            metadata[key] = self._value(self._u32())
        found = [self._tensor() for _ in range(tensor_count)]
        alignment = metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or not 1 <= alignment <= 65_536:
            raise self._bad("its alignment is none")
        start = -(-self._at // alignment) * alignment
        tensors = {}
        for tensor in found:
            placed = tensor._replace(start=start + tensor.start)
            if tensor.name in tensors:
                raise self._bad(f"it has two tensors {tensor.name}")
            if tensor.start % alignment or placed.start + placed.bytes > len(self._mapped):
                raise self._bad(f"its tensor {tensor.name} lies outside of it: it is cut off")
            tensors[tensor.name] = placed
        return metadata, tensors

    def _tensor(self) -> Tensor:
        name = self._text(NAME_BYTES_MAX)
        dimension_count = self._u32()
        if not 1 <= dimension_count <= DIMENSION_COUNT_MAX:
            raise self._bad(f"its tensor {name} has {dimension_count} dimensions")
        shape = tuple(self._u64() for _ in range(dimension_count))[::-1]
        number, offset = self._u32(), self._u64()
        kind = TYPES.get(number)
        if kind is None:
            raise self._bad(f"its tensor {name} is of type {number}, which this program can't read")
        if min(shape) < 1 or shape[-1] % kind.items:
            raise self._bad(f"its tensor {name} can't be {shape} of {kind.name}")
        return Tensor(name, shape, kind, offset, math.prod(shape) // kind.items * kind.bytes)

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._text(len(self._mapped))
        if kind == _ARRAY:
            return self._array()
        scalar = _SCALARS.get(kind)
        if scalar is None:
            raise self._bad(f"it has a value of type {kind}")
        return self._unpack(scalar)

    def _array(self) -> list[Any]:
        kind, count = self._u32(), self._u64()
        if count > ITEM_COUNT_MAX:
            raise self._bad(f"it has an array of {count} values")
        if kind == _STRING:
            return [self._text(NAME_BYTES_MAX) for _ in range(count)]
        scalar = _SCALARS.get(kind)
        if scalar is None:
            raise self._bad(f"it has an array of type {kind}")
        content = self._take(scalar.size * count)
        return [one for (one,) in scalar.iter_unpack(content)] if count else []

    def _text(self, bytes_max: int) -> str:
        length = self._u64()
        if length > bytes_max:
            raise self._bad("it has a text that is longer than may be: it is cut off")
        try:
            return str(self._take(length), "utf-8")
        except UnicodeDecodeError:
            raise self._bad("it has a text that is not UTF-8") from None

    def _u32(self) -> int:
        return int(self._unpack(_U32))

    def _u64(self) -> int:
        return int(self._unpack(_U64))

    def _unpack(self, form: struct.Struct) -> Any:
        return form.unpack(self._take(form.size))[0]

    def _take(self, count: int) -> memoryview:
        end = self._at + count
        if end > len(self._mapped):
            raise self._bad("it is cut off")
        piece, self._at = self._mapped[self._at : end], end
        return piece

    @property
    def _bad(self) -> Callable[[str], BadGguf]:
        return lambda why: _bad(self._path, why)


def _bad(path: Path, why: str) -> BadGguf:
    return BadGguf(f"{path} is no GGUF that can be used: {why}. Remove it, and add another")
