"""Time and randomness, passed in so that tests own them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Protocol

_POOL_BYTES = 4096


class Clock(Protocol):
    """Where the time comes from: wall time for people, monotonic time for intervals."""

    def now_ms(self) -> int:
        """Milliseconds since 1970-01-01T00:00:00Z; may jump back when the host's clock does."""
        ...

    def monotonic(self) -> float:
        """Seconds that never go back."""
        ...


class SystemClock:
    """The host's clocks."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic(self) -> float:
        return time.monotonic()


class SteadyClock:
    """Wall time as of the start, carried on by the monotonic clock: for instants whose distance
    counts, which a host's clock that is set anew must not stretch.
    """

    def __init__(self, clock: Clock) -> None:
        self._monotonic = clock.monotonic
        self._start_us = clock.now_ms() * 1000 - int(clock.monotonic() * 1e6)

    def now_us(self) -> int:
        """Microseconds since 1970-01-01T00:00:00Z; never goes back."""
        return self._start_us + int(self._monotonic() * 1e6)


class Identifiers:
    """Time-ordered UUIDs (RFC 9562 version 7) that only grow, even when the clock jumps back.

    The 12 bits after the version count within a millisecond (RFC 9562, 6.2 method 1), so ids made
    by one process sort in the order they were made. Random keys would dirty a page per insert.
    """

    def __init__(self, clock: Clock, random_bytes: Callable[[int], bytes] = os.urandom) -> None:
        self._clock = clock
        self._random_bytes = random_bytes
        self._last_ms = 0
        self._count = 0
        # One call for many ids: each gives the interpreter lock away and waits to get it back.
        self._pool = b""
        self._pool_offset = 0

    def new(self) -> str:
        """A lower-case UUIDv7 in its 36-character text form."""
        now_ms = self._clock.now_ms()
        if now_ms > self._last_ms:
            self._last_ms = now_ms
            # Starting low leaves room to count on within the millisecond.
            self._count = int.from_bytes(self._random(2)) & 0x3FF
        elif self._count < 0xFFF:
            self._count += 1
        else:
            self._last_ms += 1
            self._count = 0
        tail = self._random(8).hex()
        variant = "89ab"[int(tail[0], 16) & 3]
        stamp = f"{self._last_ms:012x}"
        return f"{stamp[:8]}-{stamp[8:]}-7{self._count:03x}-{variant}{tail[1:4]}-{tail[4:]}"

    def _random(self, size: int) -> bytes:
        if self._pool_offset + size > len(self._pool):
            self._pool = self._random_bytes(_POOL_BYTES)
            self._pool_offset = 0
        self._pool_offset += size
        return self._pool[self._pool_offset - size : self._pool_offset]
