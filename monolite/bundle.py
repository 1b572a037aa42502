"""What travels with the program: files beside it in a checkout, inside it in the executable.

The executable's large parts lie between its bootloader and its archive, where starting does not
unpack them (packaging/build.py draws the layout); `payload.json` says where each begins.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from typing import Any

RESOURCES = (
    "schema.sql",
    "litestream.yml",
    "THIRD_PARTY_NOTICES",
    "monolite/storage/sqlite/migrations",
    "monolite/storage/postgres/migrations",
    "monolite/streams/lua",
)
_CHUNK_BYTES = 1 << 20
MODEL_SUFFIX = ".model"


LIBRARY_BLOCK = 64 << 10
"""Bytes of a library in each of its LZ4 blocks, the last one excepted."""

unpacking = threading.RLock()
"""Held while a file is unpacked; who removes the unpacked files takes it first, for good."""


class BundleDamaged(RuntimeError):
    """The executable's own contents aren't what was built."""


def is_frozen() -> bool:
    """Whether this is the executable, and not a checkout."""
    return hasattr(sys, "_MEIPASS")


def resource(name: str) -> Path:
    """Where a shipped file or directory lies, by its path from the top of the checkout.

    Raises FileNotFoundError where the program was shipped without it.
    """
    root = Path(sys._MEIPASS) if is_frozen() else Path(__file__).resolve().parent.parent  # type: ignore[attr-defined]
    path = root / name
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: the program was shipped without it")
    return path


def litestream_path(directory: Path | None = None) -> Path | None:
    """The bundled Litestream, unpacked on first use; None in a checkout.

    It goes into `directory`, else into systemd's cache directory for the service, else beside the
    executable's other unpacked files, where it lives as long as the process. A directory is made
    0700 and must be this user's alone. What lies there is run only when its SHA-256 is the
    built one. Raises BundleDamaged, or OSError where the directory can't be used.
    """
    if not is_frozen():
        return None
    part = _part("litestream")
    if directory is None:
        given = os.environ.get("CACHE_DIRECTORY")
        directory = Path(given.split(":")[0]) if given else resource("payload.json").parent
    directory = directory / "bin"
    with unpacking:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        _require_private(directory)
        path = directory / f"litestream-{part['sha256'][:16]}"
        if path.is_symlink() or not path.is_file() or _sha256(path) != part["sha256"]:
            _unpack(part, path)
    return path


def bundled_model() -> tuple[Path, int, int] | None:
    """The executable, and where in it the default model lies: its first byte and its length. None
    in a checkout, where `make setup` puts it beside its package.

    It is mapped there: nothing is copied, and a server that never embeds never reads it.
    """
    if not is_frozen():
        return None
    (part,) = [part for name, part in _parts().items() if name.endswith(MODEL_SUFFIX)]
    return Path("/proc/self/exe"), part["offset"], part["bytes"]


def start_libraries() -> list[str]:
    """The libraries for `unpack_library`: those that every server loads."""
    return [name for name, part in _parts().items() if "blocks" in part]


def unpack_compressed(start: str, root: Path) -> None:
    """Unpack the libraries that are rarely wanted whose name begins so, below `root`; raises as
    litestream_path does.
    """
    for name, part in _parts().items():
        if "sha256" in part and name.startswith(start):
            with unpacking:
                (root / name).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                _unpack(part, root / name)


def unpack_library(name: str, path: Path) -> None:
    """Unpack one of `start_libraries` into a new file, and make its directory.

    They are LZ4 blocks, so small that the memory of one serves the next. Raises BundleDamaged and
    OSError.
    """
    import lz4.block

    part = _part(name)
    with unpacking:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        source = os.open("/proc/self/exe", os.O_RDONLY | os.O_CLOEXEC)
        target = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o700)
        try:
            offset = part["offset"]
            for length in part["blocks"]:
                block = os.pread(source, length, offset)
                os.write(target, lz4.block.decompress(block, uncompressed_size=LIBRARY_BLOCK))
                offset += length
        except lz4.block.LZ4BlockError as error:
            raise BundleDamaged(_damaged(str(error))) from error
        finally:
            os.close(source)
            os.close(target)


def _parts() -> dict[str, dict[str, Any]]:
    import json

    parts: dict[str, dict[str, Any]] = json.loads(resource("payload.json").read_bytes())
    return parts


def _part(name: str) -> dict[str, Any]:
    return _parts()[name]


def _require_private(directory: Path) -> None:
    facts = directory.lstat()
    if directory.is_symlink() or facts.st_uid != os.getuid() or facts.st_mode & 0o022:
        raise PermissionError(
            f"{directory} must be a directory of this user's that nobody else can write to: "
            f"what lies there is run. Remove it, and start again"
        )


def _unpack(part: dict[str, Any], path: Path) -> None:
    import hashlib
    import lzma

    with open("/proc/self/exe", "rb") as executable:
        executable.seek(part["offset"])
        compressed = executable.read(part["bytes"])
    try:
        content = lzma.decompress(compressed)
    except lzma.LZMAError as error:
        raise BundleDamaged(_damaged(str(error))) from error
    if hashlib.sha256(content).hexdigest() != part["sha256"]:
        raise BundleDamaged(_damaged("a checksum differs"))
    # Two processes may do this at once; each moves a whole file into place.
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o700)
    with open(descriptor, "wb") as file:
        file.write(content)
    temporary.replace(path)


def _sha256(path: Path) -> str:
    import hashlib

    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _damaged(how: str) -> str:
    return f"this executable is damaged ({how}): copy it again and compare its sha256sum"
