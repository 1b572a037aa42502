"""How connections are opened: each setting a function that says what breaks without it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import apsw

from monolite.storage.errors import from_apsw

Synchronous = Literal["normal", "full"]
Setting = Callable[[apsw.Connection], None]

BUSY_TIMEOUT_MS = 5000
CACHE_KIB = 20_000
STATEMENT_COUNT_MAX = 512
AUTOCHECKPOINT_PAGES = 1000
WAL_BYTES_KEPT = 64 * 1024 * 1024
MAPPED_BYTES_MAX = 1 << 30


def busy_timeout(connection: apsw.Connection) -> None:
    """Without it a statement fails the moment Litestream or a backup holds a lock."""
    connection.set_busy_timeout(BUSY_TIMEOUT_MS)


def write_ahead_log(connection: apsw.Connection) -> None:
    """Without it readers block the writer, and Litestream has nothing to follow."""
    mode = connection.pragma("journal_mode", "wal")
    if mode != "wal":
        raise apsw.CantOpenError(f"journal_mode is {mode}: the volume lacks shared memory maps")


def foreign_keys(connection: apsw.Connection) -> None:
    """Without it a removed parent leaves its rows behind."""
    connection.pragma("foreign_keys", "ON")


def page_cache(connection: apsw.Connection) -> None:
    """Without it 2 MB of cache make a busy table's inner pages come from the kernel each time."""
    connection.pragma("cache_size", -CACHE_KIB)


def temporary_in_memory(connection: apsw.Connection) -> None:
    """Without it a large sort writes to a volume that may be full or unwritable."""
    connection.pragma("temp_store", "MEMORY")


def strict_quotes(connection: apsw.Connection) -> None:
    """Without it a misspelt "column" is quietly a string (sqlite.org/quirks.html#dblquote)."""
    connection.config(apsw.SQLITE_DBCONFIG_DQS_DML, 0)
    connection.config(apsw.SQLITE_DBCONFIG_DQS_DDL, 0)


def untrusted_schema(connection: apsw.Connection) -> None:
    """Without it a file from elsewhere can run functions with side effects from its views."""
    connection.config(apsw.SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0)
    connection.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 1)


def stable_plans(connection: apsw.Connection) -> None:
    """Without it SQLite plans for the value of a bound LIMIT, and prepares anew at each use.

    The price: a condition on a bound value never proves that a partial index may be used, and GLOB
    with a bound pattern never seeks, so both are written out where they should.
    """
    connection.config(apsw.SQLITE_DBCONFIG_ENABLE_QPSG, 1)


def bounded_log_file(connection: apsw.Connection) -> None:
    """Without it one long reader's swollen log keeps its size on disk for ever."""
    connection.pragma("journal_size_limit", WAL_BYTES_KEPT)


def query_only(connection: apsw.Connection) -> None:
    """Without it a reader's mistake could write, past the one writer."""
    connection.pragma("query_only", "ON")


def memory_mapped(connection: apsw.Connection) -> None:
    """Without it each page that the cache lacks is a system call and a copy.

    A volume that fails under a mapped page ends the process (SIGBUS), which its supervisor starts
    again; the writer isn't mapped, so nothing is half written.
    """
    connection.pragma("mmap_size", MAPPED_BYTES_MAX)


def checkpoint_inline(connection: apsw.Connection) -> None:
    """Without it, and with no checkpointer, the log only grows."""
    connection.pragma("wal_autocheckpoint", AUTOCHECKPOINT_PAGES)


def never_checkpoint(connection: apsw.Connection) -> None:
    """Without it this connection checkpoints behind the owner's back, at close too.

    A checkpoint that Litestream didn't see makes its replica unrestorable (litestream#752).
    """
    connection.pragma("wal_autocheckpoint", 0)
    connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)


EVERY_CONNECTION: tuple[Setting, ...] = (
    busy_timeout,
    foreign_keys,
    page_cache,
    temporary_in_memory,
    strict_quotes,
    untrusted_schema,
    stable_plans,
)
WRITING: tuple[Setting, ...] = (write_ahead_log, bounded_log_file)
READING: tuple[Setting, ...] = (query_only, never_checkpoint, memory_mapped)


def open_writer(
    path: Path, *, synchronous: Synchronous, autocheckpoint: bool, vfs: str | None = None
) -> apsw.Connection:
    """A connection that may write; makes the file when missing.

    `normal` survives a killed process, `full` a power cut too: it syncs the log at each commit.
    With `autocheckpoint` off, this connection never checkpoints, not even when it closes: a
    Checkpointer or Litestream must. Raises StorageError.
    """

    def durability(connection: apsw.Connection) -> None:
        connection.pragma("synchronous", synchronous.upper())

    flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
    checkpoints = checkpoint_inline if autocheckpoint else never_checkpoint
    return _open(path, flags, vfs, (*EVERY_CONNECTION, *WRITING, durability, checkpoints))


def open_reader(path: Path, *, vfs: str | None = None) -> apsw.Connection:
    """A connection that can't write; the file must exist. Raises StorageError."""
    return _open(path, apsw.SQLITE_OPEN_READONLY, vfs, (*EVERY_CONNECTION, *READING))


def _open(
    path: Path, flags: int, vfs: str | None, settings: tuple[Setting, ...]
) -> apsw.Connection:
    connection: apsw.Connection | None = None
    try:
        connection = apsw.Connection(
            str(path), flags=flags, vfs=vfs, statementcachesize=STATEMENT_COUNT_MAX
        )
        for setting in settings:
            setting(connection)
        # Settings alone don't read the file; a damaged one must be met here, not mid-request.
        connection.pragma("schema_version")
    except apsw.Error as error:
        if connection is not None:
            connection.close()
        failure = from_apsw(error)
        if failure is None:
            raise
        failure.add_note(f"while opening {path}")
        raise failure from error
    return connection
