"""What webhooks need of a database, and of their streams."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from monolite.webhooks.webhook import Attempt, Definition, Secrets, Webhook

Also = Callable[[Any, Any], Awaitable[None] | None] | None


class WebhookEngine(Protocol):
    """Webhooks at rest, and the log of their attempts."""

    async def put(
        self,
        tenant_id: int,
        stream: str,
        name: str,
        definition: Definition,
        secrets: Secrets | None,
        now_ms: int,
    ) -> tuple[Webhook, bool]:
        """Store a webhook and enable it; returns it and whether it is new.

        `secrets` None keeps those it has; a new one must be given some.
        """
        ...

    async def get(self, tenant_id: int, stream: str, name: str) -> Webhook | None:
        """One webhook."""
        ...

    async def list(self, tenant_id: int, stream: str) -> Sequence[Webhook]:
        """The webhooks of a stream, by name."""
        ...

    async def enabled(self) -> Sequence[Webhook]:
        """Every tenant's enabled webhooks."""
        ...

    async def delete(self, tenant_id: int, stream: str, name: str | None) -> Sequence[str]:
        """Remove a webhook, or all of a stream; the names of those that went."""
        ...

    async def mark_failing(self, webhook: Webhook, since: int | None) -> None:
        """It began to fail, or works again."""
        ...

    async def disable(self, webhook: Webhook, reason: str, now_ms: int) -> bool:
        """Disable it as it was read; False where it has been changed since."""
        ...

    async def record(
        self, tenant_id: int, stream: str, name: str, attempts: Sequence[Attempt]
    ) -> None:
        """Add to the log; the attempts' ids are given by the engine."""
        ...

    def record_within(
        self,
        transaction: Any,
        tenant_id: int,
        stream: str,
        name: str,
        attempts: Sequence[Attempt],
    ) -> None:
        """The same in an open transaction of the same database."""
        ...

    async def attempts(
        self, tenant_id: int, stream: str, name: str, before: int | None, limit: int
    ) -> Sequence[Attempt]:
        """Attempts, the newest first, below an id."""
        ...

    async def expire_attempts(self, before_ms: int, kept_count: int) -> None:
        """Drop attempts from before a time, and all but the newest so many of each webhook."""
        ...
