"""What webhooks need of streams; the assembly gives it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol


class Delivery(NamedTuple):
    """An event to be delivered, for the how-manyeth time."""

    id: str
    type: str | None
    data: bytes
    delivery: int
    token: str


class Line(Protocol):
    """A place among those who wait for a group's events."""

    async def come(self, timeout_s: float) -> None:
        """Until there may be something, or the time is over."""
        ...


class Feed(Protocol):
    """The groups of streams, as a webhook uses the one that is its own."""

    is_transactional: bool
    """Whether `also` runs in the transaction that settles."""

    async def make_group(
        self, tenant_id: int, stream: str, group: str, *, max_pending: int, max_deliveries: int
    ) -> None:
        """Make the group, from now on, where it is missing, and the stream too; else set its
        bounds.
        """
        ...

    async def remake_group(self, tenant_id: int, stream: str, group: str) -> bool:
        """Make a group that got lost, from the earliest event, where the stream is there."""
        ...

    async def delete_group(self, tenant_id: int, stream: str, group: str) -> None:
        """Remove it, where it is there."""
        ...

    async def read(
        self, tenant_id: int, stream: str, group: str, count: int, *, only_again: bool
    ) -> tuple[Sequence[Delivery], int | None]:
        """What is due, and new events unless `only_again`; and, where there is nothing, in how
        many milliseconds something may fall due. NotFound where there is no such group.
        """
        ...

    async def settle(
        self, tenant_id: int, stream: str, group: str, tokens: Sequence[str], also: Any
    ) -> None:
        """Acknowledge; stale tokens are nobody's loss."""
        ...

    async def give_back(
        self,
        tenant_id: int,
        stream: str,
        group: str,
        token: str,
        delay_ms: int,
        reason: str,
        *,
        counts: bool,
    ) -> bool:
        """Give an event back for a while; whether it is a dead letter now."""
        ...

    async def hasten(self, tenant_id: int, stream: str, group: str) -> None:
        """Let all that was given back be due now."""
        ...

    async def held(
        self, tenant_id: int, stream: str, group: str, count: int
    ) -> Sequence[tuple[str, bytes]]:
        """The earliest pending events by id, with their data."""
        ...

    async def redeliver(
        self, tenant_id: int, stream: str, group: str, first: str, last: str, limit: int
    ) -> int:
        """Deliver a range of events again; how many."""
        ...

    async def owns(self, tenant_id: int, stream: str, group: str) -> bool:
        """Whether this server, of several, is the one to deliver for a group, as of now."""
        ...

    async def tell(self, tenant_id: int, stream: str, kind: str, data: dict[str, Any]) -> None:
        """Append an event to the news of a stream's webhooks."""
        ...

    def waiting(self, tenant_id: int, stream: str, group: str) -> AbstractContextManager[Line]:
        """A place in line."""
        ...
