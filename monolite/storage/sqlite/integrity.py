"""Is this file a whole, sound database? Answered without changing it."""

from __future__ import annotations

from pathlib import Path

import apsw

from monolite.storage.errors import StorageCorrupt, StorageUnavailable, from_apsw, from_os_error
from monolite.storage.sqlite.connection import open_reader

_MAGIC = b"SQLite format 3\x00"
_NEXT_STEP = (
    "keep the file, and run `monolite restore` into an empty data directory, or put a backup in "
    "its place"
)


def examine(path: Path) -> None:
    """Proves that `path` is an SQLite database of its full length; reads a few pages only.

    For the start, before a writer opens the file: SQLite itself takes an empty file for a new
    database, and would serve it in place of the data that was cut off. Not for a file that this
    process has open: closing any descriptor of it drops SQLite's locks (fcntl(2)). Raises
    StorageCorrupt, or StorageUnavailable for a missing file.
    """
    try:
        with path.open("rb") as file:
            header = file.read(100)
    except OSError as error:
        raise from_os_error(error, f"read {path}") from error
    if not header:
        raise StorageCorrupt(f"{path} is empty, so its data was cut off: {_NEXT_STEP}")
    if not header.startswith(_MAGIC) or len(header) < 100:
        raise StorageCorrupt(f"{path} is not an SQLite database, or was cut off: {_NEXT_STEP}")
    # Reading the schema makes SQLite compare the file's length with the header's page count.
    open_reader(path).close()


def check(path: Path, *, quick: bool = False) -> None:
    """Runs integrity_check over the whole file, or quick_check, which skips the indexes.

    Raises StorageCorrupt naming the first faults found, StorageUnavailable for a missing file.
    """
    if not path.exists():
        raise StorageUnavailable(f"{path} does not exist: give the path of a database")
    examine(path)
    connection = open_reader(path)
    try:
        pragma = "quick_check" if quick else "integrity_check"
        faults = [str(row[0]) for row in connection.execute(f"PRAGMA {pragma}(3)")]
    except apsw.Error as error:
        raise from_apsw(error) or StorageUnavailable(f"can't check {path}: {error}") from error
    finally:
        connection.close()
    if faults != ["ok"]:
        raise StorageCorrupt(f"{path} is damaged ({'; '.join(faults)}): {_NEXT_STEP}")
