"""A copy of a live database in one file, by VACUUM INTO on a reader's snapshot.

The writer is never held: in WAL mode a reader blocks nobody. What the log gained meanwhile can't
be checkpointed past the snapshot until the copy is done, so the log grows for that long.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import apsw

from monolite.storage.data_directory import sync_directory
from monolite.storage.errors import (
    StorageError,
    StorageUnavailable,
    from_apsw,
    from_os_error,
)
from monolite.storage.sqlite.connection import open_reader
from monolite.storage.sqlite.integrity import check

_STEPS_BETWEEN_REPORTS = 100_000


@dataclass(frozen=True)
class BackupReport:
    """Where the copy lies and how large it is."""

    path: Path
    size_bytes: int


def backup(
    source: Path, destination: Path, *, progress: Callable[[int, int], None] | None = None
) -> BackupReport:
    """Copies `source` to `destination`: checked, synced, then renamed into place.

    `progress(bytes_done, bytes_estimated)` is called on this thread while it works. An existing
    destination is refused, and a failed backup leaves nothing. Raises StorageError.
    """
    if destination.exists():
        raise StorageUnavailable(f"{destination} exists: choose another name, or remove it first")
    partial = destination.with_name(destination.name + ".partial")
    try:
        partial.unlink(missing_ok=True)
        _copy(source, partial, progress)
        # Checked before the rename, so that a file of the final name is a good one.
        check(partial)
        _sync(partial)
        size_bytes = partial.stat().st_size
        os.link(partial, destination)
        partial.unlink()
        sync_directory(destination.parent)
    except OSError as error:
        raise from_os_error(error, f"write the backup {destination}") from error
    finally:
        partial.unlink(missing_ok=True)
    return BackupReport(destination, size_bytes)


def _copy(source: Path, partial: Path, progress: Callable[[int, int], None] | None) -> None:
    connection = open_reader(source)
    try:
        if progress is not None:
            pages, page_bytes = connection.pragma("page_count"), connection.pragma("page_size")
            estimated = int(pages) * int(page_bytes)

            def report() -> bool:
                done = partial.stat().st_size if partial.exists() else 0
                progress(min(done, estimated), estimated)
                return False

            connection.set_progress_handler(report, _STEPS_BETWEEN_REPORTS)
        # query_only forbids VACUUM; the connection is opened read-only all the same.
        connection.pragma("query_only", "OFF")
        connection.execute("VACUUM INTO ?", (str(partial),))
        if progress is not None:
            progress(estimated, estimated)
    except apsw.Error as error:
        raise from_apsw(error) or StorageError(f"the backup failed: {error}") from error
    finally:
        connection.close()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
