"""The answers that are still open: streams and sockets, ended when what let them in ends.

A connection belongs to the key (or the key behind the token) that opened it. Revoking the key,
deleting the tenant, a token's expiry and the server's stop all end it by cancelling its task.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from monolite.clock import Clock
from monolite.tenancy.principal import Principal

_ENDED_COUNT_MAX = 1000


class LiveConnections:
    """Every open stream of this process, by key and tenant."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._open: dict[asyncio.Task[object], Principal] = {}
        # Ids and numbers are never given out again, so what ended stays ended: one that was let in
        # just before, and opens its stream just after, is found here.
        self._ended: dict[str | int, None] = {}
        self._closing = False

    @property
    def count(self) -> int:
        """How many are open."""
        return len(self._open)

    @property
    def is_closing(self) -> bool:
        """Whether the server stops."""
        return self._closing

    @contextmanager
    def registered(self, principal: Principal) -> Iterator[None]:
        """Hold the current task as a live connection; it is cancelled when its right ends."""
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a live connection needs a task of its own")
        expiry = None
        if principal.expires_at_ms is not None:
            left_s = max(0.0, (principal.expires_at_ms - self._clock.now_ms()) / 1000)
            expiry = asyncio.get_running_loop().call_later(left_s, task.cancel)
        self._open[task] = principal
        if self._closing or principal.key_id in self._ended or principal.tenant_id in self._ended:
            task.cancel()
        try:
            yield
        finally:
            del self._open[task]
            if expiry is not None:
                expiry.cancel()

    def end_key(self, key_id: str) -> None:
        """End what a key, or a token it minted, has open."""
        self._note_ended(key_id)
        self._end(lambda principal: principal.key_id == key_id)

    def end_tenant(self, tenant_id: int) -> None:
        """End all that a tenant has open."""
        self._note_ended(tenant_id)
        self._end(lambda principal: principal.tenant_id == tenant_id)

    def end_all(self) -> None:
        """End everything, and whatever is still to come: the server stops."""
        self._closing = True
        self._end(lambda _: True)

    def key_ids(self) -> set[str]:
        """The keys of everything that is open."""
        return {principal.key_id for principal in self._open.values()}

    def _note_ended(self, identity: str | int) -> None:
        self._ended[identity] = None
        if len(self._ended) > _ENDED_COUNT_MAX:
            del self._ended[next(iter(self._ended))]

    def _end(self, matches: Callable[[Principal], bool]) -> None:
        for task, principal in list(self._open.items()):
            if matches(principal):
                task.cancel()
