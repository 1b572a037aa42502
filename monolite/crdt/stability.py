"""Which dots every active replica has seen, so that tombstones of them can be collected.

    active ──not heard of for a while: prune──► inactive ──heard of again──► active

Each replica reports its context: that of its whole state is its report. An inactive replica is
waited for no longer. What it has seen is forgotten, what others have seen of it is not.
"""

from __future__ import annotations

from monolite.crdt.dots import Dots
from monolite.crdt.wire import checked_name


class Stability:
    """The last report of each active replica, and when it came."""

    def __init__(self) -> None:
        self._reports: dict[str, tuple[Dots, int]] = {}
        self._pruned: set[str] = set()

    @property
    def active(self) -> list[str]:
        """Who is waited for."""
        return sorted(self._reports)

    def report(self, replica: str, context: Dots, now_ms: int) -> None:
        """Note what a replica has seen. An older report does not undo a newer one."""
        seen = context.copy()
        if checked_name(replica) in self._reports:
            seen.update(self._reports[replica][0])
        self._pruned.discard(replica)
        self._reports[replica] = (seen, now_ms)

    def prune(self, before_ms: int) -> list[str]:
        """Wait no longer for replicas that were last heard of before a moment; returns them."""
        inactive = sorted(name for name, (_, at) in self._reports.items() if at < before_ms)
        for name in inactive:
            del self._reports[name]
        self._pruned.update(inactive)
        return inactive

    def stable(self, own: Dots) -> Dots:
        """What every active replica has seen, and this one, whose context is `own`.

        Nothing, while this one lacks dots that a replica had made when it reported, or while a
        replica that has made dots and was not pruned has not reported yet.
        """
        reports = [seen for seen, _ in self._reports.values()]
        known = set(self._reports)
        if any(seen.prefix(name) > own.prefix(name) for name, (seen, _) in self._reports.items()):
            return Dots()
        if not reports or set(own.replicas()) - known - self._pruned:
            return Dots()
        made = Dots()
        for name in own.replicas():
            made.add_prefix(name, min(seen.prefix(name) for seen in [own, *reports]))
        return made
