"""Reads: point reads on the loop's own connection, everything else on a small pool.

A point read by key takes less than the hop to a thread, so it runs where it is asked. Anything
that may scan gets a thread, a deadline, and is interrupted at it.
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

from monolite.storage.errors import QueueFull, ReadDeadline, StorageUnavailable, from_apsw
from monolite.storage.measures import Latencies, LatencySnapshot

log = logging.getLogger("monolite.storage")

T = TypeVar("T")
Read = Callable[[apsw.Connection], T]

# SQLite's virtual machine steps between two looks at the clock: about a tenth of a millisecond.
STEPS_BETWEEN_LOOKS = 10_000

STEPS_ON_LOOP = 10_000
"""What a read may take on the loop itself, once to twice: as much as a hop to a thread and back."""


@dataclass(frozen=True, slots=True)
class ReaderStats:
    """Pool reads since the start, their wait in the queue included."""

    reads_total: int
    deadlines_total: int
    queue_count: int
    thread_count: int
    latencies: LatencySnapshot
    p99_s: float


class _Read:
    __slots__ = ("deadline", "future", "read", "submitted")

    def __init__(
        self, read: Read[Any], future: asyncio.Future[Any], submitted: float, deadline: float
    ) -> None:
        self.read = read
        self.future = future
        self.submitted = submitted
        self.deadline = deadline


class Readers:
    """Read connections of one database. `inline` is for the loop's thread alone.

    At most `thread_count` pool threads, each with a connection, made when first needed;
    `queue_count_max` bounds the reads accepted and not yet answered.
    """

    def __init__(
        self,
        open_connection: Callable[[], apsw.Connection],
        *,
        loop: asyncio.AbstractEventLoop,
        thread_count: int = 2,
        queue_count_max: int = 1024,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._open_connection = open_connection
        self._loop = loop
        self._thread_count = thread_count
        self._queue: SimpleQueue[_Read | None] = SimpleQueue()
        self._queue_count_max = queue_count_max
        self._waiting_count = 0
        self._threads: list[threading.Thread] = []
        self._closing = False
        self._monotonic = monotonic
        self._latencies = Latencies()
        self._deadlines_total = 0
        self.inline = open_connection()

    def briefly(self, read: Read[T]) -> T | None:
        """What `read` gives, on the loop's own connection; None where that took STEPS_ON_LOOP, and
        it is for `run`.
        """
        connection = self.inline
        # SQLite counts the steps of a kept statement on from its last use: the first call says only
        # that it came past a multiple.
        calls = iter((False,))
        connection.set_progress_handler(lambda: next(calls, True), STEPS_ON_LOOP)
        try:
            return read(connection)
        except apsw.InterruptError:
            return None
        finally:
            connection.set_progress_handler(None)

    async def run(self, read: Read[T], *, deadline_s: float = 5.0) -> T:
        """What `read` gives, on a pool thread, or the error it raised.

        Raises ReadDeadline after `deadline_s` (waiting included), QueueFull when too many reads
        wait already, StorageUnavailable once `close` was called.
        """
        if self._closing:
            raise StorageUnavailable("the server is stopping and takes no more reads: try again")
        if self._waiting_count >= self._queue_count_max:
            raise QueueFull(
                f"{self._waiting_count} reads wait already: try again in a second",
                retry_after_s=1.0,
            )
        if self._waiting_count >= len(self._threads) < self._thread_count:
            self._add_thread()
        now = self._monotonic()
        future: asyncio.Future[T] = self._loop.create_future()
        self._waiting_count += 1
        self._queue.put(_Read(read, future, now, now + deadline_s))
        return await future

    async def close(self) -> None:
        """Finishes the reads accepted and closes every connection."""
        if self._closing:
            return
        self._closing = True
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            await asyncio.to_thread(thread.join)
        self.inline.close()

    def stats(self) -> ReaderStats:
        """How much was read, and how fast."""
        latencies = self._latencies.snapshot()
        return ReaderStats(
            reads_total=latencies.count,
            deadlines_total=self._deadlines_total,
            queue_count=self._waiting_count,
            thread_count=len(self._threads),
            latencies=latencies,
            p99_s=latencies.quantile_s(0.99),
        )

    def _add_thread(self) -> None:
        name = f"monolite-reader-{len(self._threads) + 1}"
        thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _run(self) -> None:
        connection: apsw.Connection | None = None
        while (request := self._queue.get()) is not None:
            value: Any = None
            error: Exception | None = None
            try:
                # The connection is made here, not in _add_thread: a failure belongs to a read.
                connection = connection or self._open_connection()
                if not request.future.cancelled():
                    value = self._answer(connection, request)
            except BaseException as raised:
                error = _told(raised)
            try:
                self._loop.call_soon_threadsafe(self._settle, request, value, error)
            except RuntimeError:
                log.warning("the loop closed before a read's answer reached it")
        if connection is not None:
            connection.close()

    def _answer(self, connection: apsw.Connection, request: _Read) -> Any:
        monotonic, deadline = self._monotonic, request.deadline
        if monotonic() >= deadline:
            raise _late()
        # SQLite asks this itself while it works and interrupts when told True; a timer calling
        # sqlite3_interrupt from outside could hit the connection's next read.
        connection.set_progress_handler(lambda: monotonic() >= deadline, STEPS_BETWEEN_LOOKS)
        try:
            return request.read(connection)
        except apsw.InterruptError:
            raise _late() from None
        finally:
            connection.set_progress_handler(None)
            # A read transaction left open would hold back every checkpoint.
            if connection.in_transaction:
                connection.execute("ROLLBACK")

    def _settle(self, request: _Read, value: Any, error: Exception | None) -> None:
        self._waiting_count -= 1
        self._latencies.add(self._monotonic() - request.submitted)
        if isinstance(error, ReadDeadline):
            self._deadlines_total += 1
        if request.future.cancelled():
            return
        if error is None:
            request.future.set_result(value)
        else:
            request.future.set_exception(error)


def _late() -> ReadDeadline:
    return ReadDeadline("the read took longer than it may: narrow it, or add an index")


def _told(error: BaseException) -> Exception:
    if isinstance(error, apsw.Error):
        failure = from_apsw(error)
        if failure is not None:
            failure.__cause__ = error
            return failure
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    # A future can't carry these: one would end the loop, the other asyncio refuses.
    failure = StorageUnavailable(f"the read was ended by {type(error).__name__}: repeat it")
    failure.__cause__ = error
    return failure
