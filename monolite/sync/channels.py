"""Who listens to a document, and how news reach all of them: the one fan-out path.

    listener  behind ──caught up──► live ──a batch too large to push──► behind ──► live …
              any ──too slow, right ended, gone──► away

A commit says only that there is more. The channel then reads on behind its position once, encodes
what it read once for each format in use, and pushes it to every live listener. One that is behind
reads for itself, at its own pace, and is live when it has come to the channel's position: what it
read that the channel is still to bring is skipped by number. So nobody misses an entry and nobody
waits for another.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from monolite.errors import RateLimited
from monolite.sync.engine import Read, SyncEngine
from monolite.sync.entry import FIRST_EPOCH, Entry

log = logging.getLogger("monolite.sync")

BATCH_COUNT = 256
BATCH_BYTES = 1024 * 1024
"""What is read and sent at once, one entry at least."""

PUSHED_BYTES_MAX = 256 * 1024
"""A larger message is not pushed to all at once, which would hold as many copies: each listener
reads it for itself, and together they hold what the budget allows.
"""

_YIELD_EVERY = 512
_RETRY_S = 1.0

DELETED = (4410, "epoch_ended")
FAILED = (4503, "unavailable")
"""Why a listener is let go: a WebSocket's close code and reason."""

Message = tuple[dict[str, Any], int]
CursorAt = Callable[[int], str]


class Outlet(Protocol):
    """Where a listener's messages go; see web/outlets.py."""

    def push(self, message: Message, *, droppable: bool = False) -> None:
        """Send, or put in line."""
        ...

    async def write(self, message: Message) -> None:
        """Send, and come back when it was taken."""
        ...

    def end(self, why: tuple[int, str]) -> None:
        """Let go of the client."""
        ...


class Budget(Protocol):
    """Bytes that may be in flight together."""

    async def take(self, size: int) -> None:
        """Wait for room."""
        ...

    def give_back(self, size: int) -> None:
        """Make room."""
        ...


class Format(Protocol):
    """How a kind of listener is told; one value for all of the kind."""

    blobs: bool

    def entries(self, batch: Batch) -> Message:
        """Some entries."""
        ...

    def up_to_date(self, cursor: str) -> Message:
        """Everything there was has been sent."""
        ...

    def presence(self, blob: bytes) -> Message:
        """Someone's presence."""
        ...

    def deleted(self, epoch: int) -> Message:
        """The document is gone; what comes after is another epoch."""
        ...


class Batch:
    """Entries on their way to many, encoded once for each format."""

    __slots__ = ("_encoded", "cursor_at", "entries", "is_whole")

    def __init__(self, entries: Sequence[Entry], cursor_at: CursorAt, is_whole: bool) -> None:
        self.entries = entries
        self.cursor_at = cursor_at
        self.is_whole = is_whole
        self._encoded: dict[int, Message] = {}

    def encoded(self, format: Format) -> Message:
        """The message of a format."""
        message = self._encoded.get(id(format))
        if message is None:
            message = self._encoded[id(format)] = format.entries(self)
        return message

    def beyond(self, position: int) -> Batch:
        """The entries behind a number."""
        if self.entries[0].seq > position:
            return self
        rest = [entry for entry in self.entries if entry.seq > position]
        return Batch(rest, self.cursor_at, self.is_whole)


class Listener:
    """One client that follows a document from a position on. `key` is tenant and document."""

    __slots__ = ("epoch", "format", "is_live", "key", "outlet", "position", "sender")

    def __init__(self, key: tuple[int, str], format: Format, epoch: int, position: int) -> None:
        self.key = key
        self.format = format
        self.epoch = epoch
        self.position = position
        self.is_live = False
        self.outlet: Outlet
        # What its own presence is known by, so that it doesn't come back to it.
        self.sender: object = self

    def bring(self, batch: Batch, last: int) -> bool:
        """Push what it has not got; False where it is to read that for itself."""
        message = batch.beyond(self.position).encoded(self.format)
        if message[1] > PUSHED_BYTES_MAX:
            self.is_live = False
            return False
        self.outlet.push(message)
        self.position = last
        return True


class Waiter:
    """A long poll: `done` when there is something behind its position."""

    __slots__ = ("done", "key", "position")

    def __init__(self, key: tuple[int, str], position: int) -> None:
        self.key = key
        self.position = position
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def wake(self) -> None:
        """There is, or the document is gone, or its time is over."""
        if not self.done.done():
            self.done.set_result(None)


class Channel:
    """Everyone who follows one document. `position` is what all who are live have been sent, and
    never goes back: a batch that is being read begins at one it had.
    """

    __slots__ = ("epoch", "is_woken", "listeners", "position", "pumping", "waiters")

    def __init__(self, epoch: int, position: int) -> None:
        self.epoch = epoch
        self.position = position
        self.listeners: set[Listener] = set()
        self.waiters: set[Waiter] = set()
        self.is_woken = False
        self.pumping: asyncio.Task[None] | None = None


class Channels:
    """All channels of this server. `cursors` makes those of a document, given key, epoch, floor."""

    def __init__(
        self,
        engine: SyncEngine,
        budget: Budget,
        cursors: Callable[[tuple[int, str], int, int], CursorAt],
    ) -> None:
        self._engine = engine
        self._budget = budget
        self._cursors = cursors
        self._open: dict[tuple[int, str], Channel] = {}
        self._counts: dict[int, int] = {}
        self._reading: set[asyncio.Task[None]] = set()
        self._is_stopping = False
        self.delivered_total = 0

    @property
    def listener_count(self) -> int:
        """How many listen now, long polls included."""
        return sum(self._counts.values())

    def followed(self) -> Sequence[tuple[int, str]]:
        """The documents that someone follows."""
        return list(self._open)

    # ── Coming and going ───────────────────────────────────────────────────────────────────────

    def join(self, listener: Listener, listener_count_max: int) -> None:
        """Take it in, still behind. Raises RateLimited where the tenant has too many."""
        self._count(listener.key[0], listener_count_max)
        self._channel(listener.key, listener.epoch, listener.position).listeners.add(listener)

    def leave(self, listener: Listener) -> None:
        """It is gone."""
        channel = self._open.get(listener.key)
        if channel is not None:
            channel.listeners.discard(listener)
        self._leave(listener.key, channel)

    async def wait(
        self, waiter: Waiter, epoch: int, listener_count_max: int, time_s: float
    ) -> None:
        """Come back when something was committed behind its position, or after a time."""
        self._count(waiter.key[0], listener_count_max)
        channel = self._channel(waiter.key, epoch, waiter.position)
        channel.waiters.add(waiter)
        # Not asyncio.timeout: a hot operation runs in no task before it waits.
        timer = asyncio.get_running_loop().call_later(time_s, waiter.wake)
        try:
            # What was committed since the caller looked is seen by this look.
            if waiter.position >= channel.position and not self._is_stopping:
                self.changed(*waiter.key)
                await waiter.done
        finally:
            timer.cancel()
            channel.waiters.discard(waiter)
            self._leave(waiter.key, channel)

    async def catch_up(self, listener: Listener) -> None:
        """Bring a listener all there is, and make it live. It comes back where it has ended."""
        tenant_id, name = listener.key
        while True:
            read = await self._engine.entries(
                tenant_id,
                name,
                listener.position,
                limit=BATCH_COUNT,
                bytes_max=BATCH_BYTES,
                blobs=listener.format.blobs,
            )
            channel = self._open.get(listener.key)
            if channel is None or listener not in channel.listeners:
                return
            if _epoch_of(read) != listener.epoch:
                self._end_epoch(channel, listener.key, _epoch_of(read))
                return
            if read is not None and read.entries:
                batch = Batch(read.entries, self._cursor_at(listener.key, read), read.is_whole)
                message = batch.encoded(listener.format)
                await self._budget.take(message[1])
                try:
                    await listener.outlet.write(message)
                finally:
                    self._budget.give_back(message[1])
                listener.position = read.entries[-1].seq
                self.delivered_total += len(read.entries)
            if read is None or read.is_whole:
                seq = 0 if read is None else read.document.seq
                listener.position = max(listener.position, seq)
                # A read that was overtaken by the channel's ends before its position: behind that,
                # and in no batch to come, would be a gap.
                if listener.position >= channel.position:
                    break
        if not _any_live(channel):
            channel.position = listener.position
        listener.is_live = True
        cursor_at = self._cursor_at(listener.key, read, listener.epoch)
        listener.outlet.push(listener.format.up_to_date(cursor_at(listener.position)))
        # What was committed since the read is between the channel's position and the log's end.
        self._wake(listener.key, channel)

    def read_on(self, listener: Listener) -> None:
        """Catch up beside the caller; a failure ends the listener."""
        task = asyncio.get_running_loop().create_task(self._catch_up_again(listener))
        self._reading.add(task)
        task.add_done_callback(self._reading.discard)

    # ── News ───────────────────────────────────────────────────────────────────────────────────

    def changed(self, tenant_id: int, name: str) -> None:
        """Something may have been committed there."""
        key = (tenant_id, name)
        channel = self._open.get(key)
        if channel is not None:
            self._wake(key, channel)

    def heard(self, tenant_id: int, name: str, blob: bytes, sender: object) -> None:
        """Push someone's presence to everyone else; to a listener that is busy it is not sent."""
        channel = self._open.get((tenant_id, name))
        if channel is None:
            return
        messages: dict[int, Message] = {}
        for listener in channel.listeners:
            if listener.is_live and listener.sender is not sender:
                format = listener.format
                message = messages.get(id(format))
                if message is None:
                    message = messages[id(format)] = format.presence(blob)
                listener.outlet.push(message, droppable=True)

    def stop_waiting(self) -> None:
        """The server stops: long polls are answered with what there is."""
        self._is_stopping = True
        for channel in self._open.values():
            for waiter in channel.waiters:
                waiter.wake()

    def close(self) -> None:
        """Read no more."""
        for channel in self._open.values():
            if channel.pumping is not None:
                channel.pumping.cancel()
        for task in self._reading:
            task.cancel()

    # ── The pump ───────────────────────────────────────────────────────────────────────────────

    def _wake(self, key: tuple[int, str], channel: Channel) -> None:
        channel.is_woken = True
        if channel.pumping is None:
            channel.pumping = asyncio.get_running_loop().create_task(self._pump(key, channel))

    async def _pump(self, key: tuple[int, str], channel: Channel) -> None:
        try:
            while channel.is_woken and self._open.get(key) is channel:
                channel.is_woken = False
                try:
                    await self._bring(key, channel)
                except Exception as error:
                    # The log is whole and the position stands: reading is tried again, by itself.
                    log.warning("what is new could not be read: %s", error)
                    channel.is_woken = True
                    await asyncio.sleep(_RETRY_S)
        finally:
            channel.pumping = None

    async def _bring(self, key: tuple[int, str], channel: Channel) -> None:
        while True:
            blobs = any(one.is_live and one.format.blobs for one in channel.listeners)
            read = await self._engine.entries(
                *key, channel.position, limit=BATCH_COUNT, bytes_max=BATCH_BYTES, blobs=blobs
            )
            if _epoch_of(read) != channel.epoch:
                self._end_epoch(channel, key, _epoch_of(read))
                return
            if read is None or not read.entries:
                return
            batch = Batch(read.entries, self._cursor_at(key, read), read.is_whole)
            last = read.entries[-1].seq
            channel.position = max(channel.position, last)
            for waiter in channel.waiters:
                if waiter.position < last:
                    waiter.wake()
            await self._bring_to_all(channel, batch, last)
            if read.is_whole:
                return

    async def _bring_to_all(self, channel: Channel, batch: Batch, last: int) -> None:
        for count, listener in enumerate(tuple(channel.listeners), 1):
            if listener.is_live and listener.position < last:
                if listener.bring(batch, last):
                    self.delivered_total += len(batch.entries)
                else:
                    self.read_on(listener)
            if count % _YIELD_EVERY == 0:
                await asyncio.sleep(0)

    async def _catch_up_again(self, listener: Listener) -> None:
        try:
            await self.catch_up(listener)
        except Exception as error:
            log.warning("a listener could not be brought what is new: %s", error)
            listener.outlet.end(FAILED)

    # ── Inside ─────────────────────────────────────────────────────────────────────────────────

    def _channel(self, key: tuple[int, str], epoch: int, position: int) -> Channel:
        channel = self._open.get(key)
        if channel is None:
            channel = self._open[key] = Channel(epoch, position)
        elif channel.epoch < epoch:
            self._end_epoch(channel, key, epoch)
            channel = self._open[key] = Channel(epoch, position)
        return channel

    def _end_epoch(self, channel: Channel, key: tuple[int, str], epoch: int) -> None:
        """Tell everyone of the epoch that it is over, and let them go."""
        if self._open.get(key) is channel:
            del self._open[key]
        for waiter in channel.waiters:
            waiter.wake()
        for listener in tuple(channel.listeners):
            if hasattr(listener, "outlet"):
                listener.outlet.push(listener.format.deleted(epoch))
                listener.outlet.end(DELETED)
        channel.listeners.clear()

    def _count(self, tenant_id: int, most: int) -> None:
        count = self._counts.get(tenant_id, 0)
        if count >= most:
            raise RateLimited(
                f"The tenant has {count} open listeners here, the most it may.",
                retry_after_s=5.0,
                code="too_many_listeners",
            )
        self._counts[tenant_id] = count + 1

    def _leave(self, key: tuple[int, str], channel: Channel | None) -> None:
        count = self._counts[key[0]] - 1
        if count:
            self._counts[key[0]] = count
        else:
            del self._counts[key[0]]
        is_empty = channel is not None and not channel.listeners and not channel.waiters
        if is_empty and self._open.get(key) is channel:
            del self._open[key]

    def _cursor_at(
        self, key: tuple[int, str], read: Read | None, epoch: int = FIRST_EPOCH
    ) -> CursorAt:
        if read is None:
            return self._cursors(key, epoch, 0)
        return self._cursors(key, read.document.epoch, read.document.floor)


def _epoch_of(read: Read | None) -> int:
    return FIRST_EPOCH if read is None else read.document.epoch


def _any_live(channel: Channel) -> bool:
    return any(listener.is_live for listener in channel.listeners)
