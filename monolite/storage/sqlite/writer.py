"""The one writer: one connection, and many writes in one commit.

                 the loop                                    the writer's thread
    submit ──► waiting ──► BEGIN IMMEDIATE ─► savepoint,        ─► COMMIT (fsync) ──► answers
                           work, release, for each waiting
                           (at `normal`, COMMIT too)

A write is a function of the connection. It runs in a savepoint of its own, unless it is a single
statement, so one that raises takes back only itself, and its future is settled after the commit,
never before: what was acknowledged is in the log. At `synchronous=FULL` the commit is one fsync for
the whole batch, which grows by itself with the load, since writes wait while the disk works.

The statements of short writes run on the loop and only what may wait for the disk or for another
process's lock goes to the thread. Statements on the thread would hand the interpreter lock to and
fro with the loop several times a write, which cost more than half of the writes a second
(docs/decisions/0003-where-a-commit-runs.md). A write that says it is `long` runs there whole.

Where nobody else writes, waiting for company is waiting for nothing. At `normal` a write that is
`prompt` and finds the last batch to have been one write, and no other of this turn of the loop,
runs and commits inside `submit`, without a savepoint, since its transaction is its own:

    submit ──► BEGIN IMMEDIATE ─► work ─► COMMIT ──► a future that is done

One task may go on so for half a millisecond; then the others get their turn.

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
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, TypeVar

import apsw

from monolite.storage.errors import QueueFull, StorageUnavailable, from_apsw
from monolite.storage.measures import Latencies, LatencySnapshot, PerSecond
from monolite.storage.sqlite.connection import BUSY_TIMEOUT_MS
from monolite.storage.sqlite.transaction import roll_back

log = logging.getLogger("monolite.storage")

T = TypeVar("T")
Work = Callable[[apsw.Connection], T]

_PROMPT_S = 0.0005
"""How long one task's prompt writes may keep the loop."""


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
    """One write on its way: `error` and `value` are set when it runs."""

    __slots__ = ("error", "future", "is_atomic", "is_long", "value", "work")

    def __init__(
        self, work: Work[Any], future: asyncio.Future[Any], is_long: bool, is_atomic: bool
    ) -> None:
        self.work = work
        self.future = future
        self.is_long = is_long
        self.is_atomic = is_atomic
        self.value: Any = None
        self.error: Exception | None = None


class _Batch:
    """Writes of one transaction. `begun` when their work was done on the loop already."""

    __slots__ = ("begun", "failed", "started", "writes")

    def __init__(self, writes: list[_Write], started: float) -> None:
        self.writes = writes
        self.started = started
        self.begun = False
        self.failed = False


class Writer:
    """Group commit on one connection.

    `queue_count_max` bounds the writes accepted and not yet answered. `batch_count_max` is the
    most in one transaction. `commit_on_loop` is for `synchronous=normal`, where a commit is a
    write to the page cache and takes less than a hop to the thread. `group_commit=False` gives
    each write its own transaction, for measuring. `on_commit` functions run on the loop after each
    commit, with the number of writes in it; `on_failure` ones when a transaction was lost, before
    the next begins.
    """

    def __init__(
        self,
        open_connection: Callable[[], apsw.Connection],
        *,
        loop: asyncio.AbstractEventLoop,
        queue_count_max: int = 4096,
        batch_count_max: int = 128,
        commit_on_loop: bool = False,
        group_commit: bool = True,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._open_connection = open_connection
        self._connection: apsw.Connection
        self._loop = loop
        self._waiting: deque[_Write] = deque()
        self._jobs: SimpleQueue[_Batch | None] = SimpleQueue()
        self._queue_count_max = queue_count_max
        self._batch_count_max = batch_count_max if group_commit else 1
        self._commit_on_loop = commit_on_loop
        self._unanswered_count = 0
        self._scheduled = False
        # The last batch was one write of one caller, so the next is likely to be.
        self._is_lone = True
        # Whose prompt writes this turn of the loop has seen, and since when; None before the first.
        self._prompted: tuple[object, float] | None = None
        # The thread has the connection; the loop must not touch it.
        self._lent = False
        self._closing = False
        self._thread: threading.Thread | None = None
        self._drained: asyncio.Future[None] = loop.create_future()
        self._monotonic = monotonic
        self._writes_per_s = PerSecond(monotonic)
        self._busy_per_s = PerSecond(monotonic)
        self._commits = Latencies()
        self._batches_total = 0
        self._writes_total = 0
        self._failed_batches_total = 0
        self._last_commit: float | None = None
        self.on_commit: list[Callable[[int], None]] = []
        self.on_failure: list[Callable[[], None]] = []

    def start(self) -> None:
        """Opens the connection and starts the thread. Raises what `open_connection` raises."""
        self._connection = self._open_connection()
        # The loop never waits for a lock: what finds one held goes to the thread, which does.
        self._connection.set_busy_timeout(0)
        self._thread = threading.Thread(target=self._run, name="monolite-writer", daemon=True)
        self._thread.start()

    def submit(
        self,
        work: Work[T],
        *,
        is_long: bool = False,
        is_atomic: bool = False,
        is_prompt: bool = False,
    ) -> asyncio.Future[T]:
        """Queues a write; the future has what `work` returned or raised, once that is committed.

        Called on the loop. `work` touches only its connection and its own values. A short one runs
        on the loop, so it takes microseconds; one that may take over a millisecond says `is_long`
        and runs on the writer's thread beside the loop. It must not end the transaction, nor leave
        a DEFERRED foreign key broken, which would fail the whole batch. One that `is_atomic`
        changes with a single statement, and never raises after it; it runs without a savepoint,
        a tenth of what a short write costs, and would fail the whole batch if it lied. One that
        `is_prompt` may be done when this returns: what it needs is there before the call. Raises
        QueueFull when too many writes wait, and StorageUnavailable once `close` was called.
        """
        if self._closing:
            raise StorageUnavailable("the server is stopping and takes no more writes: try again")
        if self._unanswered_count >= self._queue_count_max:
            raise QueueFull(
                f"{self._unanswered_count} writes wait already: try again in a second",
                retry_after_s=1.0,
            )
        self._unanswered_count += 1
        future: asyncio.Future[T] = self._loop.create_future()
        write = _Write(work, future, is_long, is_atomic)
        if is_prompt and self._is_lone and self._may_run_now() and self._run_now(write):
            return future
        self._waiting.append(write)
        if not self._scheduled and not self._lent:
            # What else this turn of the loop submits is in the same batch.
            self._scheduled = True
            self._loop.call_soon(self._next)
        return future

    def have_company(self) -> None:
        """What was just committed came from several callers. For functions of `on_commit`."""
        self._is_lone = False

    async def close(self) -> None:
        """Takes no more writes, commits and answers those accepted, closes the connection."""
        if self._thread is None or self._drained.done():
            return
        self._closing = True
        self._end_when_drained()
        await asyncio.shield(self._drained)
        self._jobs.put(None)
        await asyncio.to_thread(self._thread.join)

    @property
    def is_running(self) -> bool:
        """Whether the thread is there to commit."""
        return self._thread is not None and self._thread.is_alive()

    def stats(self) -> WriterStats:
        """How much was written, how fast, and how busy the thread is."""
        return WriterStats(
            queue_count=self._unanswered_count,
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

    def _may_run_now(self) -> bool:
        if self._scheduled or self._lent or self._waiting or not self._commit_on_loop:
            return False
        if self._prompted is None:
            self._prompted = asyncio.current_task(self._loop), self._monotonic()
            self._loop.call_soon(self._turn_ended)
            return True
        task, since = self._prompted
        return (
            task is not None
            and task is asyncio.current_task(self._loop)
            and self._monotonic() - since < _PROMPT_S
        )

    def _turn_ended(self) -> None:
        self._prompted = None

    def _run_now(self, write: _Write) -> bool:
        """Run and commit a write alone; False, and nothing done, where it would have to wait."""
        batch = _Batch([write], self._monotonic())
        connection = self._connection
        if write.is_atomic:
            # Its statement is its transaction.
            try:
                write.value = write.work(connection)
            except apsw.BusyError:
                return False
            except BaseException as error:
                write.error = _told(error)
                _recover(connection)
        elif self._begin(batch):
            try:
                write.value = write.work(connection)
            except BaseException as error:
                if not connection.in_transaction:
                    _lose(connection, batch, error)
                else:
                    write.error = _told(error)
                    _recover(connection)
            else:
                _commit(connection, batch)
        else:
            return False
        self._settle(batch)
        return True

    def _next(self) -> None:
        """Run the next batch's works; commit them here or lend the connection to the thread."""
        self._scheduled = False
        if self._lent:
            return
        batch = self._take()
        if batch is None:
            self._end_when_drained()
            return
        if any(write.is_long for write in batch.writes) or not self._begin(batch):
            self._lend(batch)
            return
        rest = _run_all(self._connection, batch)
        if rest:
            self._waiting.extendleft(reversed(rest))
        if batch.failed or self._commit_on_loop:
            self._finish(batch)
        else:
            self._lend(batch)

    def _take(self) -> _Batch | None:
        writes: list[_Write] = []
        while self._waiting and len(writes) < self._batch_count_max:
            write = self._waiting.popleft()
            # Whoever waited has gone before it began; nothing was promised.
            if write.future.cancelled():
                self._unanswered_count -= 1
            else:
                writes.append(write)
        return _Batch(writes, self._monotonic()) if writes else None

    def _begin(self, batch: _Batch) -> bool:
        """Whether the transaction could begin without waiting for a lock."""
        try:
            roll_back(self._connection)
            self._connection.execute("BEGIN IMMEDIATE")
        except apsw.Error:
            # Busy, or something that will fail on the thread again and be told there.
            return False
        batch.begun = True
        return True

    def _lend(self, batch: _Batch) -> None:
        self._lent = True
        self._jobs.put(batch)

    def _finish(self, batch: _Batch) -> None:
        _commit(self._connection, batch)
        self._settle(batch)

    def _run(self) -> None:
        connection = self._connection
        try:
            while (batch := self._jobs.get()) is not None:
                rest: list[_Write] = []
                if not batch.begun:
                    rest = _begin_and_run_all(connection, batch)
                _commit(connection, batch)
                self._on_loop(self._returned, batch, rest)
        finally:
            try:
                connection.close()
            except apsw.Error:
                log.exception("the writer's connection did not close cleanly")

    def _returned(self, batch: _Batch, rest: list[_Write]) -> None:
        """The thread gave the connection back."""
        self._lent = False
        self._waiting.extendleft(reversed(rest))
        self._settle(batch)

    def _end_when_drained(self) -> None:
        if self._closing and not self._waiting and not self._lent and not self._drained.done():
            self._drained.set_result(None)

    def _count(self, committed_count: int, started: float) -> None:
        now = self._monotonic()
        self._busy_per_s.add(now - started, now)
        if committed_count:
            self._commits.add(now - started)
            self._writes_per_s.add(committed_count, now)
            self._batches_total += 1
            self._writes_total += committed_count
            self._last_commit = now

    def _on_loop(self, function: Callable[..., None], *arguments: Any) -> None:
        try:
            self._loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:
            # The loop is closed, and with it everyone who waited.
            log.warning("the loop closed before the writer's answers reached it")

    def _settle(self, batch: _Batch) -> None:
        committed_count = sum(write.error is None for write in batch.writes)
        self._count(committed_count, batch.started)
        if batch.failed:
            self._failed_batches_total += 1
            for forget in self.on_failure:
                forget()
        self._unanswered_count -= len(batch.writes)
        self._is_lone = len(batch.writes) == 1
        for write in batch.writes:
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
        if self._waiting and not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._next)
        else:
            self._end_when_drained()


def _begin_and_run_all(connection: apsw.Connection, batch: _Batch) -> list[_Write]:
    """On the thread, where waiting for another process's lock stops nobody."""
    try:
        connection.set_busy_timeout(BUSY_TIMEOUT_MS)
        try:
            roll_back(connection)
            connection.execute("BEGIN IMMEDIATE")
        finally:
            connection.set_busy_timeout(0)
    except apsw.Error as error:
        _lose(connection, batch, error)
        return []
    return _run_all(connection, batch)


def _run_all(connection: apsw.Connection, batch: _Batch) -> list[_Write]:
    """Run the works of an open transaction; returns those that did not get their turn."""
    writes = batch.writes
    for number, write in enumerate(writes, 1):
        try:
            if write.is_atomic:
                _run_atomic(connection, write)
            else:
                _run_in_savepoint(connection, write)
        except BaseException as error:
            batch.writes = writes[:number]
            _lose(connection, batch, error)
            return writes[number:]
    return []


def _commit(connection: apsw.Connection, batch: _Batch) -> None:
    if batch.failed:
        return
    try:
        connection.execute("COMMIT")
    except apsw.Error as error:
        _lose(connection, batch, error)


def _lose(connection: apsw.Connection, batch: _Batch, error: BaseException) -> None:
    """The whole transaction is lost: tell every write that ran in it."""
    log.error("a batch of %d writes was not committed: %s", len(batch.writes), error)
    batch.failed = True
    failure = _storage_failure(error)
    for write in batch.writes:
        write.error = failure
    _recover(connection)


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


def _run_atomic(connection: apsw.Connection, write: _Write) -> None:
    """Sets the write's value or error; raises only when the whole transaction is lost."""
    changed_count = connection.total_changes()
    try:
        write.value = write.work(connection)
    except BaseException as error:
        if not connection.in_transaction or connection.total_changes() != changed_count:
            raise
        write.error = _told(error)


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
