"""When a cron expression ticks, in a time zone.

Five fields, or six with seconds first; names of days and months, `L`, `#` and steps as in Debian's
cron, whose ways at a change of clocks are kept: a job at a time that is skipped runs right after
the gap, one at a time that comes twice runs once; `*` and steps of minutes run on through both.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from monolite.errors import FieldError, Invalid

YEAR_MAX = 9000

_ALIASES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}


def check(cron: str, timezone: str, now_ms: int) -> None:
    """Raise Invalid for nonsense, for an unknown zone, or where it never fires."""
    zone(timezone)
    if next_tick(cron, timezone, now_ms) is None:
        raise _invalid("never fires: no date matches all of its fields")


def next_tick(cron: str, timezone: str, after_ms: int) -> int | None:
    """The first tick after a time, both in ms since 1970; None where there is none in 50 years."""
    ticks = next_ticks(cron, timezone, after_ms, 1)
    return ticks[0] if ticks else None


def next_ticks(cron: str, timezone: str, after_ms: int, count: int) -> list[int]:
    """The first ticks after a time."""
    from cronsim import CronSim, CronSimError

    start = datetime.fromtimestamp(after_ms // 1000, UTC)
    if start.year >= YEAR_MAX:
        return []
    try:
        iterator = CronSim(
            _ALIASES.get(cron.strip().lower(), cron), start.astimezone(zone(timezone))
        )
    except CronSimError as error:
        raise _invalid(
            f"{error}; it takes five fields such as */5 * * * *, or six from seconds"
        ) from None
    found: list[int] = []
    while len(found) < count:
        try:
            tick = next(iterator)
        except (StopIteration, CronSimError, OverflowError):
            break
        found.append((tick.astimezone(UTC) - _EPOCH) // _MILLISECOND)
    return found


@lru_cache(maxsize=256)
def zone(name: str) -> ZoneInfo | type(UTC):  # type: ignore[valid-type]
    """A zone by its IANA name; Invalid where there is none."""
    if name == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        why = "no such time zone; it is like Europe/Berlin"
        raise Invalid(f"#/timezone: {why}.", [FieldError("#/timezone", why)]) from None


def _invalid(why: str) -> Invalid:
    return Invalid(f"#/cron: {why}.", [FieldError("#/cron", why)], code="invalid_cron")


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)
