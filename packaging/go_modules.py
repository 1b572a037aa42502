r"""The Go modules inside an executable, read from the build information that Go's linker leaves.

Format: debug/buildinfo in Go's standard library. From Go 1.18 the header is 32 bytes
(`\xff Go buildinf:`, pointer size, flags), then two strings, each with its length as a varint:
Go's version, and the modules as lines of tab-separated fields between two 16-byte sentinels.
"""

from __future__ import annotations

from pathlib import Path

_MAGIC = b"\xff Go buildinf:"
_INLINE_STRINGS = 2


def go_modules(executable: Path) -> dict[str, str]:
    """Module path → version, with Go itself as `go`. Raises ValueError where none is told."""
    content = executable.read_bytes()
    start = content.find(_MAGIC)
    if start < 0 or not content[start + 15] & _INLINE_STRINGS:
        raise ValueError(f"{executable} holds no build information of Go 1.18 or later")
    version, position = _string(content, start + 32)
    listed, _ = _string(content, position)
    modules = {"go": version.decode()}
    for line in listed[16:-16].decode().splitlines():
        kind, *fields = line.split("\t")
        if kind in ("mod", "dep"):
            modules[fields[0]] = fields[1]
    return modules


def _string(content: bytes, position: int) -> tuple[bytes, int]:
    length = shift = 0
    while True:
        byte = content[position]
        position += 1
        length |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return content[position : position + length], position + length
