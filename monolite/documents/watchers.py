"""Events for whoever follows a collection's changes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

LOOK_AGAIN_S = 1.0
"""How often a watcher looks without having been told, where `looks_again`."""


class Watchers:
    """Events by tenant and collection. `looks_again` sets each every LOOK_AGAIN_S too: for an
    engine whose news may be lost on their way.
    """

    def __init__(self, *, looks_again: bool = True) -> None:
        self._events: dict[tuple[int, int], set[asyncio.Event]] = {}
        self._looks_again = looks_again
        self._timer: asyncio.TimerHandle | None = None

    @contextmanager
    def watch(self, tenant_id: int, number: int) -> Iterator[asyncio.Event]:
        """An event that is set when the collection is told of."""
        key = (tenant_id, number)
        event = asyncio.Event()
        self._events.setdefault(key, set()).add(event)
        if self._looks_again and self._timer is None:
            self._look()
        try:
            yield event
        finally:
            self._events[key].discard(event)
            if not self._events[key]:
                del self._events[key]

    def tell(self, tenant_id: int, number: int) -> None:
        """Something may have changed in one collection."""
        for event in self._events.get((tenant_id, number), ()):
            event.set()

    def tell_of(self, touched: Iterable[tuple[int, int]]) -> None:
        """Something may have changed in these."""
        if self._events:
            for key in touched:
                self.tell(*key)

    def tell_all(self) -> None:
        """Something may have changed anywhere."""
        for events in self._events.values():
            for event in events:
                event.set()

    def _look(self) -> None:
        self.tell_all()
        self._timer = None
        if self._events:
            self._timer = asyncio.get_running_loop().call_later(LOOK_AGAIN_S, self._look)
