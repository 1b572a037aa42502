"""Hybrid logical clocks: physical time that never goes back and orders cause before effect.

Kulkarni, Demirbas, Madappa, Avva, Leone: "Logical Physical Clocks" (2014).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

from monolite.crdt.errors import AheadError, MalformedError
from monolite.crdt.wire import WHOLE_MAX, Reader, Writer, checked_name

AHEAD_MS_MAX = 5 * 60 * 1000
_COUNTER_MAX = 2**32 - 1


class Stamp(NamedTuple):
    """When and by whom; stamps compare by time, then counter, then node."""

    ms: int
    counter: int
    node: str

    def names(self, found: set[str]) -> None:
        if self.node:
            found.add(self.node)

    def write(self, writer: Writer) -> None:
        """Milliseconds, counter, and 0 for no node or 1 and the node."""
        writer.varint(self.ms)
        writer.varint(self.counter)
        writer.varint(1 if self.node else 0)
        if self.node:
            writer.name(self.node)

    @classmethod
    def read(cls, reader: Reader) -> Stamp:
        ms, counter, has_node = reader.varint(), reader.varint(), reader.varint()
        if has_node > 1 or counter > _COUNTER_MAX or (not has_node and (ms or counter)):
            raise MalformedError("a stamp without a node that is not the first of all")
        return cls(ms, counter, reader.name()) if has_node else NEVER


NEVER = Stamp(0, 0, "")
"""Before every other stamp."""


def system_ms() -> int:
    """Milliseconds since 1970 by this machine's clock."""
    return time.time_ns() // 1_000_000


def refuse_ahead(stamp: Stamp, now_ms: int | None) -> None:
    """Refuse a stamp more than five minutes ahead of now, or of the system's clock.

    Raises:
        AheadError: it is.
    """
    now = system_ms() if now_ms is None else now_ms
    if stamp.ms > now + AHEAD_MS_MAX:
        raise AheadError(f"a stamp of {stamp.node} is {(stamp.ms - now) // 1000} s ahead of now")


class HybridClock:
    """A replica's clock. `wall_ms` is where physical time comes from."""

    def __init__(self, node: str, wall_ms: Callable[[], int] = system_ms) -> None:
        self.node = checked_name(node)
        self._wall_ms = wall_ms
        self._last = (0, 0)

    def tick(self, after: Stamp = NEVER) -> Stamp:
        """A stamp after every one given before, and after `after`."""
        last = max(self._last, (after.ms, after.counter))
        wall = min(self._wall_ms(), WHOLE_MAX)
        ms, counter = (wall, 0) if wall > last[0] else (last[0], last[1] + 1)
        if counter > _COUNTER_MAX:
            ms, counter = ms + 1, 0
        self._last = (ms, counter)
        return Stamp(ms, counter, self.node)
