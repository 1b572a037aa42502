"""RFC 3339 UTC with milliseconds, as every JSON answer writes time."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache


@lru_cache(maxsize=4096)
def _to_second(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def rfc3339(ms: int) -> str:
    """Milliseconds since 1970 as `2026-11-23T08:00:00.123Z`."""
    return f"{_to_second(ms // 1000)}.{ms % 1000:03d}Z"


def parse_rfc3339(text: str) -> int:
    """The milliseconds since 1970 of an RFC 3339 time with an offset.

    Raises:
        ValueError: it is not one, or has no offset.
    """
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("a time needs an offset, for example a Z at its end")
    return int(moment.timestamp() * 1000)
