"""Open streams and sockets that are pushed to, from the loop, without waking a task for each.

    free ──push──► free              the transport took it at once
         └──push──► busy ──push──► busy, in line ──taken──► free
    busy, with too much in line or for too long ──► ended: SLOW

Granian's `send` does its work when it is called. What it returns says whether the transport still
holds the message back, and has a callback for when it is through; so a thousand listeners get one
message in a loop of a thousand calls, while Granian's thread writes to the sockets. An awaited send
in a task of each cost seven times as much (docs/decisions/0011-sync.md).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any

Message = tuple[dict[str, Any], int]
"""An ASGI message, which many outlets may be given, and its size in bytes."""

Why = tuple[int, str]
"""A WebSocket's close code and reason; a stream just ends."""

LINE_BYTES_MAX = 256 * 1024
"""What may wait in line for one slow client, beside the up to four messages that Granian holds."""

SLOW = (4508, "slow")
"""Why an outlet ended by itself: a WebSocket's close code and reason."""

STALL_S = 30.0
"""How long a transport may take nothing before its client counts as gone."""

IN_FLIGHT_BYTES_MAX = 64 * 1024 * 1024
"""What the writes of all outlets that catch up may hold in memory together."""

PING_S = 15


class Outlet:
    """One client's end of a stream or socket. `end` is called once, with why."""

    __slots__ = (
        "_end",
        "_free",
        "_holding",
        "_in_line",
        "_in_line_bytes",
        "_send",
        "_since",
        "ping",
        "was_slow",
    )

    def __init__(
        self, send: Callable[[dict[str, Any]], Any], end: Callable[[Why], None], ping: Message
    ) -> None:
        self._send = send
        self._end: Callable[[Why], None] | None = end
        self._holding = False
        self._in_line: deque[Message] | None = None
        self._in_line_bytes = 0
        self._since = 0.0
        self._free: asyncio.Future[None] | None = None
        self.was_slow = False
        self.ping = ping

    @property
    def is_open(self) -> bool:
        """Whether it still takes messages."""
        return self._end is not None

    def push(self, message: Message, *, droppable: bool = False) -> None:
        """Send, or put in line; ends the outlet where the line is too long.

        What is `droppable` is dropped where it would have to wait.
        """
        if self._end is None:
            return
        if not self._holding:
            self._hand_over(message)
        elif not droppable:
            if self._in_line is None:
                self._in_line = deque()
            elif self._in_line and self._in_line_bytes + message[1] > LINE_BYTES_MAX:
                self.end(SLOW)
                return
            self._in_line.append(message)
            self._in_line_bytes += message[1]

    async def write(self, message: Message) -> None:
        """Send once everything before has gone, and come back when the transport took it."""
        await self.drained()
        if self._end is not None:
            self._hand_over(message)
            await self.drained()

    async def drained(self) -> None:
        """Come back when nothing waits, or it has ended."""
        while self._holding and self._end is not None:
            if self._free is None or self._free.done():
                self._free = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._free)

    def end(self, why: Why) -> None:
        """Take no more; tells the owner why, the first time."""
        self.was_slow = self.is_open and why == SLOW
        end, self._end = self._end, None
        self._in_line = None
        self._wake()
        if end is not None:
            end(why)

    def close(self) -> None:
        """The owner is done with it."""
        self._end = None
        self._in_line = None
        self._wake()

    def look(self, now: float) -> None:
        """Ping, or end what has taken nothing for long."""
        if self._holding and now - self._since > STALL_S:
            self.end(SLOW)
        else:
            self.push(self.ping, droppable=True)

    def _hand_over(self, message: Message) -> None:
        try:
            taken = self._send(message[0])
        except RuntimeError:
            # The transport was closed under it; its owner hears of that by itself.
            return
        wait = getattr(taken, "add_done_callback", None)
        if wait is not None:
            self._holding = True
            self._since = monotonic()
            wait(self._taken)

    def _taken(self, _: Any) -> None:
        self._holding = False
        line = self._in_line
        while line and not self._holding:
            message = line.popleft()
            self._in_line_bytes -= message[1]
            self._hand_over(message)
        if not self._holding:
            self._wake()

    def _wake(self) -> None:
        if self._free is not None and not self._free.done():
            self._free.set_result(None)


class Outlets:
    """All open outlets of a server: each is pinged every 15 s, a fifteenth of them a second."""

    def __init__(self) -> None:
        self._open: list[set[Outlet]] = [set() for _ in range(PING_S)]
        self._turn = 0
        self._timer: asyncio.TimerHandle | None = None
        self.slow_total = 0

    @contextmanager
    def open(self, outlet: Outlet) -> Iterator[None]:
        """Look after it; its first ping comes 15 s from now."""
        mine = self._open[self._turn]
        mine.add(outlet)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(1.0, self._look)
        try:
            yield
        finally:
            mine.discard(outlet)
            self.slow_total += outlet.was_slow

    def _look(self) -> None:
        self._timer = None
        self._turn = (self._turn + 1) % PING_S
        now = monotonic()
        for outlet in tuple(self._open[self._turn]):
            outlet.look(now)
        if any(self._open):
            self._timer = asyncio.get_running_loop().call_later(1.0, self._look)


class Budget:
    """Bytes that should not be exceeded by what is in flight together.

    Whoever wants more than is left waits in line, and goes on after `patience_s` all the same: the
    clients that hold the rest may be the slow ones.
    """

    def __init__(self, bytes_max: int, patience_s: float = 2.0) -> None:
        self._patience_s = patience_s
        self._left = self._most = bytes_max
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def take(self, size: int) -> None:
        """Wait for room."""
        if self._waiting or self._left < min(size, self._most):
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append((size, turn))
            try:
                async with asyncio.timeout(self._patience_s):
                    await turn
            except TimeoutError:
                pass
            finally:
                turn.cancel()
        self._left -= size

    def give_back(self, size: int) -> None:
        """Make room again."""
        self._left += size
        left = self._left
        while self._waiting:
            wanted, turn = self._waiting[0]
            if not turn.done():
                if left < min(wanted, self._most):
                    return
                left -= wanted
                turn.set_result(None)
            self._waiting.popleft()
