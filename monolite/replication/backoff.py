"""How long to wait before starting Litestream again."""

from __future__ import annotations

from collections.abc import Callable

FIRST_S = 0.25
LAST_S = 30.0


class Backoff:
    """Doubles from 0.25 s to 30 s; each wait is between half of that and all of it."""

    # A child that ran this long was well: its end starts the count anew.
    healthy_after_s = 60.0

    def __init__(self, random_bytes: Callable[[int], bytes]) -> None:
        self._random_bytes = random_bytes
        self._failures = 0
        self.delay_s = 0.0

    def next(self) -> float:
        """The seconds to wait now."""
        ceiling_s = min(LAST_S, FIRST_S * 2 ** min(self._failures, 10))
        self._failures += 1
        share = int.from_bytes(self._random_bytes(2)) / 0xFFFF
        self.delay_s = ceiling_s * (0.5 + 0.5 * share)
        return self.delay_s

    def reset(self) -> None:
        self._failures = 0
        self.delay_s = 0.0
