"""Readiness: the parts that must be in order before traffic should come."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec


class Check(msgspec.Struct, frozen=True):
    """One part's state; `detail` says what is wrong and what to do next, or the figure."""

    ok: bool
    detail: str


class Readiness:
    """Runs every check; each is a cheap look, made anew for every request."""

    def __init__(self, checks: Mapping[str, Callable[[], Check]]) -> None:
        self._checks = checks

    def read(self) -> dict[str, Check]:
        """Each check by name."""
        return {name: check() for name, check in self._checks.items()}
