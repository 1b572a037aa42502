"""Lines of those who wait: workers at a queue, owners at a lock.

What they wait for calls one of them, not all: a hundred that wait for one job would else all ask,
and ninety-nine in vain. Who was called and leaves something behind calls the next.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Iterator
from contextlib import contextmanager, suppress


class Place:
    """A place in a line."""

    __slots__ = ("_called",)

    def __init__(self) -> None:
        self._called = asyncio.Event()

    async def come(self, timeout_s: float) -> None:
        """Until this place is called, or the time is over."""
        if timeout_s > 0:
            with suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self._called.wait()
        self._called.clear()

    @property
    def is_called(self) -> bool:
        """Whether it was, and has not come yet."""
        return self._called.is_set()

    def call(self) -> None:
        """It is this one's turn."""
        self._called.set()


class Lines:
    """Everyone who waits in this process."""

    def __init__(self) -> None:
        self._lines: dict[Hashable, dict[Place, None]] = {}
        self.is_closed = False

    @property
    def count(self) -> int:
        """How many wait."""
        return sum(map(len, self._lines.values()))

    def keys(self) -> list[Hashable]:
        """Where someone waits."""
        return list(self._lines)

    @contextmanager
    def stand(self, key: Hashable) -> Iterator[Place]:
        """A place at the end of a line."""
        place = Place()
        line = self._lines.setdefault(key, {})
        line[place] = None
        try:
            yield place
        finally:
            del line[place]
            if not line:
                del self._lines[key]
            elif place.is_called:
                # It goes without having looked; what it was called for is another's.
                self.call(key, 1)

    def call(self, key: Hashable, count: int) -> None:
        """The first of a line that have not been called yet; everyone for 0."""
        line = self._lines.get(key)
        if line is None:
            return
        called = 0
        for place in line:
            if count and called >= count:
                return
            if not place.is_called:
                place.call()
                called += 1

    def call_everyone(self) -> None:
        """Everyone: what happened where is not known."""
        for line in self._lines.values():
            for place in line:
                place.call()

    def close(self) -> None:
        """The server stops: nobody waits any longer."""
        self.is_closed = True
        self.call_everyone()
