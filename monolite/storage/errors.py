"""What can go wrong below the engines, in words the layers above may show.

Every message says what happened and what to do next. None holds a row's content.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import apsw


class StorageError(Exception):
    """The base of every storage failure. A write that raised one was not acknowledged."""


class QueueFull(StorageError):
    """More work waits than may wait; nothing was accepted. Try again after `retry_after_s`."""

    def __init__(self, message: str, *, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class StorageFull(StorageError):
    """No space left on the device: the write was rolled back whole."""


class StorageReadOnly(StorageError):
    """The file or its directory can't be written."""


class StorageCorrupt(StorageError):
    """The file isn't the database it should be."""


class StorageUnavailable(StorageError):
    """The device failed, another process holds the file, or the server is closing."""


class DatabaseUnavailable(StorageUnavailable):
    """PostgreSQL can't be reached or can't serve now. Try again after `retry_after_s`."""

    def __init__(self, message: str, *, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class ReadDeadline(StorageError):
    """A read was interrupted at its deadline; the connection stays usable."""


class SchemaTooNew(StorageError):
    """A later release wrote this file in a way this one can't run on."""


class DataDirectoryInUse(StorageError):
    """Another process serves this data directory."""


def from_apsw(error: apsw.Error) -> StorageError | None:
    """The storage failure behind an SQLite error, or None where the statement is to blame.

    A constraint, a syntax error or a wrong type says nothing about storage, so the caller
    raises the original. https://www.sqlite.org/rescode.html
    """
    # Here, since the data directory's own errors are wanted before the database is: see serving.py.
    import apsw

    match error:
        case apsw.FullError():
            return StorageFull(
                "the disk is full and the write was rolled back: free space on the volume "
                "of the data directory, then repeat it"
            )
        case apsw.IOError():
            if getattr(error, "extendedresult", 0) == apsw.SQLITE_IOERR_SHMSIZE:
                return StorageFull(
                    "no space for the database's shared-memory file: free space on the volume "
                    "of the data directory, then repeat the request"
                )
            return StorageUnavailable(
                f"the disk failed ({error}): check the volume and the kernel's log, then repeat"
            )
        case apsw.ReadOnlyError() | apsw.PermissionsError():
            return StorageReadOnly(
                f"the database can't be written ({error}): check the owner and mode of the data "
                "directory and whether its volume is mounted read-only"
            )
        case apsw.CorruptError() | apsw.NotADBError() | apsw.FormatError():
            return StorageCorrupt(
                f"the database file is damaged ({error}): stop the server, keep the file, and "
                "run `monolite restore` into an empty data directory, or put a backup in place"
            )
        case apsw.BusyError() | apsw.LockedError():
            return StorageUnavailable(
                f"another process holds the database ({error}): find it with "
                "`fuser monolite.db`, end it, and repeat"
            )
        case apsw.CantOpenError():
            return StorageUnavailable(
                f"the database can't be opened ({error}): check that the data directory exists "
                "and belongs to this user"
            )
        case _:
            return None


def from_os_error(error: OSError, doing: str) -> StorageError:
    """The storage failure behind an operating system error; `doing` completes "can't …"."""
    reason = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageFull(f"can't {doing}: {reason}. Free space on its volume and try again")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return StorageReadOnly(
            f"can't {doing}: {reason}. Give this user the directory (chown, chmod 700), "
            "or choose another with --data"
        )
    return StorageUnavailable(f"can't {doing}: {reason}. Choose another directory with --data")
