"""When a failed event is tried again: Standard Webhooks' schedule, each delay spread by a fifth."""

from __future__ import annotations

from collections.abc import Callable
from email.utils import parsedate_to_datetime

DELAYS_S = (5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400)
ATTEMPTS_MAX = len(DELAYS_S) + 1
_SPREAD = 0.2


def delay_s(number: int, retry_after_s: float | None, chance: Callable[[], float]) -> float:
    """How long after the attempt `number`, from 1, the next may come.

    `chance` gives a number from 0 to 1. A receiver that asks for more time gets it, up to the
    greatest delay.
    """
    planned = DELAYS_S[min(number, len(DELAYS_S)) - 1]
    spread = planned * (1 + _SPREAD * chance())
    return spread if retry_after_s is None else max(spread, min(retry_after_s, DELAYS_S[-1]))


def retry_after_s(header: str | None, now_ms: int) -> float | None:
    """The seconds of a `Retry-After` (RFC 9110, 10.2.3), given as such or as a date."""
    if header is None:
        return None
    header = header.strip()
    if header.isascii() and header.isdecimal():
        return float(header[:9])
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - now_ms / 1000)
    except (TypeError, ValueError, OverflowError):
        return None
