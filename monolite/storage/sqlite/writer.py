"""The one writer: a thread that commits many writes at once.

    submit ──► queue ──► BEGIN IMMEDIATE ─► savepoint, work, release ─► … ─► COMMIT ──► answers

A write is a function of the connection. It runs in a savepoint of its own, so one that raises
takes back only itself, and its future is settled after the commit, never before: what was
acknowledged is in the log. At `synchronous=FULL` the commit is one fsync for the whole batch,
which grows by itself with the load, since writes queue up while the disk works.

What fails:
    a write raises           its savepoint is rolled back; its future gets the error, after the
                             commit, since what it read may include the batch's other writes
    SQLite ends the          everything since BEGIN is lost (a full disk, a failed device): the
    transaction by itself    writes run so far get a StorageError, the rest a new transaction
    BEGIN or COMMIT fails    every write of the batch gets a StorageError
    a future is cancelled    a write that has not begun is dropped; one that has is finished
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, TypeVar

import apsw

from monolite.storage.errors import QueueFull, StorageUnavailable, from_apsw
from monolite.storage.measures import Latencies, LatencySnapshot, PerSecond
from monolite.storage.sqlite.transaction import roll_back

log = logging.getLogger("monolite.storage")

T = TypeVar("T")
Work = Callable[[apsw.Connection], T]


@dataclass(frozen=True, slots=True)
class WriterStats:
    """Totals since the start. Rates are means over the last minute and the last ten;
    `sustained_writes_per_s` is what each of the last ten minutes reached.
    """

    queue_count: int
    queue_count_max: int
    batches_total: int
    writes_total: int
    failed_batches_total: int
    commits: LatencySnapshot
    last_commit_monotonic: float | None
    writes_per_s_1m: float
    writes_per_s_10m: float
    sustained_writes_per_s: float
    busy_fraction_1m: float


class _Write:
    """One write on its way: `error` and `value` are set on the writer's thread."""

    __slots__ = ("error", "future", "value", "work")

    def __init__(self, work: Work[Any], future: asyncio.Future[Any]) -> None:
        self.work = work
        self.future = future
        self.value: Any = None
        self.error: Exception | None = None


class Writer:
    """Group commit on one connection.

    `queue_count_max` bounds the writes accepted and not yet answered. `batch_count_max` is the
    most in one transaction. `group_commit=False` gives each write its own, for measuring.
    `on_commit` functions run on the loop after each commit, with the number of writes in it.
    """

    def __init__(
        self,
        open_connection: Callable[[], apsw.Connection],
        *,
        loop: asyncio.AbstractEventLoop,
        queue_count_max: int = 4096,
        batch_count_max: int = 512,
        group_commit: bool = True,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._open_connection = open_connection
        self._loop = loop
        self._queue: SimpleQueue[_Write | None] = SimpleQueue()
        self._queue_count_max = queue_count_max
        self._batch_count_max = batch_count_max if group_commit else 1
        self._waiting_count = 0
        self._closing = False
        self._thread: threading.Thread | None = None
        self._closed: asyncio.Future[None] = loop.create_future()
        self._monotonic = monotonic
        self._writes_per_s = PerSecond(monotonic)
        self._busy_per_s = PerSecond(monotonic)
        self._commits = Latencies()
        self._batches_total = 0
        self._writes_total = 0
        self._failed_batches_total = 0
        self._last_commit: float | None = None
        self.on_commit: list[Callable[[int], None]] = []

    def start(self) -> None:
        """Opens the connection and starts the thread. Raises what `open_connection` raises."""
        connection = self._open_connection()
        self._thread = threading.Thread(
            target=self._run, args=(connection,), name="monolite-writer", daemon=True
        )
        self._thread.start()

    def submit(self, work: Work[T]) -> asyncio.Future[T]:
        """Queues a write; the future has what `work` returned or raised, once that is committed.

        Called on the loop. `work` runs on the writer's thread beside the loop, so it touches only
        its connection and its own values; it must not end the transaction, nor leave a DEFERRED
        foreign key broken, which would fail the whole batch. Raises QueueFull when too many
        writes wait, and StorageUnavailable once `close` was called.
        """
        if self._closing:
            raise StorageUnavailable("the server is stopping and takes no more writes: try again")
        if self._waiting_count >= self._queue_count_max:
            raise QueueFull(
                f"{self._waiting_count} writes wait already: try again in a second",
                retry_after_s=1.0,
            )
        self._waiting_count += 1
        future: asyncio.Future[T] = self._loop.create_future()
        self._queue.put(_Write(work, future))
        return future

    async def close(self) -> None:
        """Takes no more writes, commits and answers those accepted, closes the connection."""
        if self._thread is None:
            return
        if not self._closing:
            self._closing = True
            self._queue.put(None)
        await asyncio.shield(self._closed)
        self._thread.join()

    @property
    def is_running(self) -> bool:
        """Whether the thread is there to commit."""
        return self._thread is not None and self._thread.is_alive()

    def stats(self) -> WriterStats:
        """How much was written, how fast, and how busy the thread is."""
        return WriterStats(
            queue_count=self._waiting_count,
            queue_count_max=self._queue_count_max,
            batches_total=self._batches_total,
            writes_total=self._writes_total,
            failed_batches_total=self._failed_batches_total,
            commits=self._commits.snapshot(),
            last_commit_monotonic=self._last_commit,
            writes_per_s_1m=self._writes_per_s.mean(60),
            writes_per_s_10m=self._writes_per_s.mean(600),
            sustained_writes_per_s=self._writes_per_s.sustained(600),
            busy_fraction_1m=min(1.0, self._busy_per_s.mean(60)),
        )

    def _run(self, connection: apsw.Connection) -> None:
        stopping = False
        try:
            while not stopping:
                batch, stopping = self._take()
                started = self._monotonic()
                committed_count = self._write(connection, batch)
                self._count(committed_count, started)
                self._on_loop(self._settle, batch, committed_count)
        finally:
            try:
                connection.close()
            except apsw.Error:
                log.exception("the writer's connection did not close cleanly")
            self._on_loop(self._closed.set_result, None)

    def _take(self) -> tuple[list[_Write], bool]:
        """Waits for a write, then takes what else is queued; True when the queue has ended."""
        batch: list[_Write] = []
        write = self._queue.get()
        # This thread alone takes, so as many as qsize says are there without waiting.
        left = min(self._queue.qsize(), self._batch_count_max - 1)
        while write is not None:
            batch.append(write)
            if left == 0:
                return batch, False
            left -= 1
            write = self._queue.get()
        return batch, True

    def _write(self, connection: apsw.Connection, batch: list[_Write]) -> int:
        """Runs and commits a batch, in several transactions if one is lost; writes committed."""
        committed_count = 0
        # Whoever waited for a cancelled one has gone before it began; nothing was promised.
        waiting = [write for write in batch if not write.future.cancelled()]
        while waiting:
            ran: list[_Write] = []
            try:
                roll_back(connection)
                connection.execute("BEGIN IMMEDIATE")
                for write in waiting:
                    ran.append(write)
                    _run_in_savepoint(connection, write)
                connection.execute("COMMIT")
                committed_count += sum(write.error is None for write in ran)
            except BaseException as error:
                self._failed_batches_total += 1
                log.error("a batch of %d writes was not committed: %s", len(ran), error)
                # BEGIN itself failed: the next one would too.
                ran = ran or waiting
                failure = _storage_failure(error)
                for write in ran:
                    write.error = failure
                _recover(connection)
            waiting = waiting[len(ran) :]
        return committed_count

    def _count(self, committed_count: int, started: float) -> None:
        now = self._monotonic()
        self._busy_per_s.add(now - started)
        if committed_count:
            self._commits.add(now - started)
            self._writes_per_s.add(committed_count)
            self._batches_total += 1
            self._writes_total += committed_count
            self._last_commit = now

    def _on_loop(self, function: Callable[..., None], *arguments: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:
            # The loop is closed, and with it everyone who waited.
            log.warning("the loop closed before the writer's answers reached it")

    def _settle(self, batch: list[_Write], committed_count: int) -> None:
        self._waiting_count -= len(batch)
        for write in batch:
            if write.future.cancelled():
                continue
            if write.error is None:
                write.future.set_result(write.value)
            else:
                write.future.set_exception(write.error)
        if committed_count:
            for notify in self.on_commit:
                try:
                    notify(committed_count)
                except Exception:
                    log.exception("a listener to commits failed")


def _run_in_savepoint(connection: apsw.Connection, write: _Write) -> None:
    """Sets the write's value or error; raises only when the whole transaction is lost."""
    # Not apsw's `with connection`: when SQLite has ended the transaction by itself, that reports
    # the missing savepoint in place of the full disk.
    connection.execute("SAVEPOINT one_write")
    try:
        write.value = write.work(connection)
    except BaseException as error:
        if not connection.in_transaction:
            raise
        connection.execute("ROLLBACK TO one_write")
        write.error = _told(error)
    connection.execute("RELEASE one_write")


def _recover(connection: apsw.Connection) -> None:
    try:
        roll_back(connection)
    except apsw.Error:
        log.exception("a failed batch could not be rolled back; the next one will try again")


def _storage_failure(error: BaseException) -> Exception:
    """Why a whole transaction was lost, as the writes in it are told."""
    failure = from_apsw(error) if isinstance(error, apsw.Error) else None
    if failure is None:
        failure = StorageUnavailable(
            f"the transaction was lost ({type(error).__name__}: {error}) and this write was rolled "
            "back: repeat it"
        )
    failure.__cause__ = error
    return failure


def _told(error: BaseException) -> Exception:
    """What one failed write's caller gets."""
    if isinstance(error, apsw.Error):
        failure = from_apsw(error)
        if failure is not None:
            failure.__cause__ = error
            return failure
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    # A future can't carry these: one would end the loop, the other asyncio refuses.
    return _storage_failure(error)
