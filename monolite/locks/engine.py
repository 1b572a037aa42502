"""What locks need of a database."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from monolite.locks.lock import Busy, Held, Listed, Name, Waiter
from monolite.locks.within import LockWish

Freed = Callable[[Name | None], None]
"""Told of a lock that may be had now; None where it may be any."""


class LockEngine(Protocol):
    """Locks at rest, and the lines before them."""

    async def acquire(
        self, name: Name, owner: str, ttl_ms: int, now_ms: int, ticket: int | None = None
    ) -> Held | Busy:
        """Take the lock, if it is free and nobody stands before `ticket`; or find it held by the
        same owner, and hold it from now for `ttl_ms`.
        """
        ...

    def within(
        self, transaction: Any, name: Name, wish: LockWish, now_ms: int
    ) -> Awaitable[None] | None:
        """Hold the lock until the end of this transaction of the same database, which is to be
        taken back where this raises Conflict (`lock_held`, `lock_lost`). To be awaited where it
        answers something.
        """
        ...

    async def renew(
        self, name: Name, owner: str, token: int, ttl_ms: int, now_ms: int
    ) -> Held | None:
        """Hold it from now for `ttl_ms`; None where owner and token don't hold it."""
        ...

    async def release(self, name: Name, owner: str, token: int, now_ms: int) -> bool:
        """Let it go; whether owner and token held it."""
        ...

    async def stand(self, name: Name, waiter: Waiter, until_ms: int) -> int:
        """A ticket at the end of the line, given up at last by `leave`."""
        ...

    async def leave(self, name: Name, ticket: int) -> None:
        """Give up a place."""
        ...

    async def locks(
        self, tenant_id: int, namespace: str | None, after: tuple[str, str], limit: int, now_ms: int
    ) -> Sequence[Listed]:
        """Held locks by name, beyond `after`, with who waits."""
        ...

    async def sweep(self, before_ms: int) -> bool:
        """Drop a slice of what expired before; whether there may be more."""
        ...

    def follow(self, freed: Freed) -> None:
        """Call this on the loop soon after a lock is let go, by this server or another."""
        ...
