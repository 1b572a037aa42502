"""Those who wait for events: followers of a stream, and consumers in line at a group.

An append calls one consumer of each group, not all: a hundred that wait for one event would else
all ask, and ninety-nine in vain. Who was called and leaves something behind calls the next.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress

Key = tuple[int, str]
"""A tenant's stream."""


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


class Waiting:
    """Everyone who waits in this process."""

    def __init__(self) -> None:
        self._followers: dict[Key, set[asyncio.Event]] = {}
        self._lines: dict[Key, dict[str, dict[Place, None]]] = {}

    @contextmanager
    def follow(self, key: Key) -> Iterator[asyncio.Event]:
        """An event that is set with each append."""
        event = asyncio.Event()
        followers = self._followers.setdefault(key, set())
        followers.add(event)
        try:
            yield event
        finally:
            followers.discard(event)
            if not followers and self._followers.get(key) is followers:
                del self._followers[key]

    @contextmanager
    def stand(self, key: Key, group: str) -> Iterator[Place]:
        """A place at the end of a group's line."""
        place = Place()
        self._lines.setdefault(key, {}).setdefault(group, {})[place] = None
        try:
            yield place
        finally:
            groups = self._lines[key]
            line = groups[group]
            del line[place]
            if place.is_called:
                # It goes without having looked; what it was called for is another's.
                self.call_one(key, group)
            if not line:
                del groups[group]
                if not groups:
                    del self._lines[key]

    @property
    def count(self) -> int:
        """How many consumers stand in line."""
        return sum(len(line) for groups in self._lines.values() for line in groups.values())

    def appended(self, key: Key) -> None:
        """There is a new event: for every follower, and for one consumer of each group."""
        for event in self._followers.get(key, ()):
            event.set()
        for group in self._lines.get(key, ()):
            self.call_one(key, group)

    def call_one(self, key: Key, group: str) -> None:
        """The first of a line that has not been called yet."""
        for place in self._lines.get(key, {}).get(group, ()):
            if not place.is_called:
                place.call()
                return

    def call_all(self, key: Key, group: str) -> None:
        """Everyone in a line: the time to look again has changed."""
        for place in self._lines.get(key, {}).get(group, ()):
            place.call()

    def call_stream(self, key: Key) -> None:
        """All who wait at a stream: what happened there is not known, or it is gone."""
        for event in self._followers.get(key, ()):
            event.set()
        for group in self._lines.get(key, ()):
            self.call_all(key, group)

    def call_everyone(self) -> None:
        """Everyone: what happened where is not known."""
        for followers in self._followers.values():
            for event in followers:
                event.set()
        for groups in self._lines.values():
            for line in groups.values():
                for place in line:
                    place.call()
