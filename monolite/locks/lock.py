"""A lock's name, who holds it, and who waits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Name(NamedTuple):
    """A tenant's lock."""

    tenant_id: int
    namespace: str
    key: str


class Held(NamedTuple):
    """Who holds a lock, under which fencing number; times in ms."""

    owner: str
    token: int
    acquired_at: int
    expires_at: int


class Busy(NamedTuple):
    """Why a lock can't be had now. `retry_at` is when it may be, for the first in line."""

    owner: str | None
    retry_at: int | None


class Waiter(NamedTuple):
    """Who waits, since when in ms."""

    owner: str
    since: int


@dataclass(frozen=True, slots=True)
class Listed:
    """A lock as it stands."""

    namespace: str
    key: str
    held: Held
    waiters: Sequence[Waiter]


@dataclass(frozen=True, slots=True)
class Waits:
    """All who wait in this process: how many, and the longest in ms."""

    count: int
    longest_ms: int
