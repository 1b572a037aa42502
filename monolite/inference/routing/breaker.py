"""A circuit breaker (Nygard 2018, Release It!): after failures nobody waits for the next one.

closed ──failure that says enough, or several──► open ──its time──► half-open: one call tries
  ▲                                               ▲                        │ │
  └───────────────── success ─────────────────────┼────────────────────────┘ │
                                                  └──────── failure ─────────┘
"""

from __future__ import annotations

from typing import Literal

FAILURES_MAX = 3
OPEN_S = 15.0
OPEN_S_MAX = 300.0

State = Literal["closed", "open", "half_open"]


class Breaker:
    """Of one provider. Times are monotonic seconds, passed in."""

    def __init__(self) -> None:
        self._failures = 0
        self._opened = 0
        self._open_until: float | None = None
        self._probe_until = 0.0

    def state(self, now: float) -> State:
        """As of `now`."""
        if self._open_until is None:
            return "closed"
        return "open" if now < self._open_until else "half_open"

    def may_call(self, now: float) -> bool:
        """Whether a call would be let through."""
        return self._open_until is None or (now >= self._open_until and now >= self._probe_until)

    def begin(self, now: float, probe_s: float) -> bool:
        """Let a call through, if one may; a half-open circuit lets one through in `probe_s`."""
        if not self.may_call(now):
            return False
        if self._open_until is not None:
            self._probe_until = now + probe_s
        return True

    def succeeded(self) -> None:
        """A call got its answer."""
        self._failures = self._opened = 0
        self._open_until = None
        self._probe_until = 0.0

    def failed(self, now: float, *, is_certain: bool, retry_after_s: float | None = None) -> None:
        """A call failed. `is_certain` where the next one would too (no connection, no answer in
        time, a key that is refused): the circuit opens at once, for `retry_after_s` if the provider
        named it, else for 15 s, twice as long each time in a row, five minutes at most.
        """
        self._failures += 1
        says_enough = is_certain or retry_after_s is not None or self._failures >= FAILURES_MAX
        if not says_enough and self._open_until is None:
            return
        pause = retry_after_s
        if pause is None:
            pause = min(OPEN_S * 2 ** min(self._opened, 10), OPEN_S_MAX)
        self._opened += 1
        self._open_until = now + pause
        self._probe_until = 0.0
