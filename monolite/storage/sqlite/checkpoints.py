"""Moves committed pages from the log into the file, beside the writer instead of in its way.

    wal hook (each commit) ──► pages in the log ──► PASSIVE   after 1 000 new pages, or
                                                              after a second with any
                        └─► PASSIVE on the writer's own connection once the log holds 8 000

A checkpoint inside a commit makes that commit's writes wait for two fsyncs: p99.9 of an append was
2.6 ms with it and 0.18 ms without. By time, because at `synchronous=NORMAL` only a checkpoint
syncs, and a quiet server would keep its last writes unsynced for ever. On the writer's connection
once the log is long, because under steady writes one beside it never catches the log's end, and
the log would grow without bound (and RESTART from beside loses the race for the write lock); the
writer then copies only the pages that the other has not.

Where Litestream replicates, it alone checkpoints: one it didn't see makes the replica
unrestorable (litestream#752). Then this does nothing, and no connection checkpoints at close.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import apsw

from monolite.storage.sqlite.connection import open_writer

log = logging.getLogger("monolite.storage")

Owner = Literal["monolite", "litestream"]

PASSIVE_PAGES = 1000
LONG_LOG_PAGES = 8000
INTERVAL_S = 1.0
WAL_BYTES_MAX = 1024 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class CheckpointStats:
    """`wal_over_cap`: nobody empties the log; a reader is stuck, or Litestream is."""

    owner: Owner
    wal_bytes: int
    wal_bytes_max: int
    wal_over_cap: bool
    checkpoints_total: int
    failures_total: int
    last_checkpoint_monotonic: float | None


class Checkpointer:
    """A thread with a connection of its own. `watch` the writer's connection, then `start`."""

    def __init__(
        self,
        path: Path,
        *,
        owner: Owner,
        interval_s: float = INTERVAL_S,
        wal_bytes_max: int = WAL_BYTES_MAX,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path = path
        self._wal = path.with_name(path.name + "-wal")
        self._owner: Owner = owner
        self._interval_s = interval_s
        self._wal_bytes_max = wal_bytes_max
        self._monotonic = monotonic
        self._pages_done = 0
        self._dirty = False
        self._long_log_pages = LONG_LOG_PAGES
        self._wake = threading.Event()
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._checkpoints_total = 0
        self._failures_total = 0
        self._last: float | None = None

    def watch(self, connection: apsw.Connection) -> apsw.Connection:
        """Follows the commits of `connection`, which was opened without autocheckpoint."""
        if self._owner == "monolite":
            connection.set_wal_hook(self._committed)
        return connection

    def start(self) -> None:
        """Starts the thread; nothing where Litestream owns checkpoints. Raises StorageError."""
        if self._owner == "litestream":
            return
        connection = open_writer(self._path, synchronous="normal", autocheckpoint=False)
        # The TRUNCATE at close waits for readers; they have closed, or the next start goes on.
        connection.set_busy_timeout(100)
        self._thread = threading.Thread(
            target=self._run, args=(connection,), name="monolite-checkpoints", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Empties the log and ends the thread. Call it after the writer and readers closed."""
        self._stopping = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join()

    def stats(self) -> CheckpointStats:
        """How large the log is, and what was done about it."""
        try:
            wal_bytes = self._wal.stat().st_size
        except OSError:
            wal_bytes = 0
        return CheckpointStats(
            owner=self._owner,
            wal_bytes=wal_bytes,
            wal_bytes_max=self._wal_bytes_max,
            wal_over_cap=wal_bytes > self._wal_bytes_max,
            checkpoints_total=self._checkpoints_total,
            failures_total=self._failures_total,
            last_checkpoint_monotonic=self._last,
        )

    def _committed(self, connection: apsw.Connection, schema: str, pages: int) -> int:
        """Runs on the writer's thread after each commit, with the pages now in the log."""
        self._dirty = True
        # A log begun anew counts from one, below what the last checkpoint had done.
        new_pages = pages - self._pages_done if pages >= self._pages_done else pages
        if new_pages >= PASSIVE_PAGES:
            self._wake.set()
        if pages < LONG_LOG_PAGES:
            self._long_log_pages = LONG_LOG_PAGES
        elif pages >= self._long_log_pages:
            # Where a reader is in the way, not at each commit again.
            self._long_log_pages = pages + PASSIVE_PAGES
            # The commit is done: an error here must not look like its failure.
            with contextlib.suppress(apsw.Error):
                connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        return apsw.SQLITE_OK

    def _run(self, connection: apsw.Connection) -> None:
        try:
            while not self._stopping:
                self._wake.wait(self._interval_s)
                self._wake.clear()
                if self._dirty:
                    self._checkpoint(connection, apsw.SQLITE_CHECKPOINT_PASSIVE)
            self._checkpoint(connection, apsw.SQLITE_CHECKPOINT_TRUNCATE)
        finally:
            connection.close()

    def _checkpoint(self, connection: apsw.Connection, mode: int) -> None:
        # Cleared first: a commit that comes meanwhile sets it again.
        self._dirty = False
        try:
            pages, done = connection.wal_checkpoint(mode=mode)
        except apsw.BusyError:
            # A reader or the writer is in the way; the next round tries again.
            self._dirty = True
            return
        except apsw.Error as error:
            self._dirty = True
            self._failures_total += 1
            log.error("a checkpoint failed and will be tried again: %s", error)
            return
        self._checkpoints_total += 1
        self._last = self._monotonic()
        self._dirty = self._dirty or done < pages
        self._pages_done = done
