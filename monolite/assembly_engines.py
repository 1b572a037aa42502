"""What the assembly needs of a database: one engine a subsystem, and what the operator sees of it.

assembly_sqlite.py and assembly_postgres.py each make one; nothing beyond them knows which it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from monolite.documents.engine import DocumentEngine
from monolite.inference.adapters.engine import AdapterEngine
from monolite.inference.routing.budget import BudgetEngine
from monolite.jobs.engine import JobEngine
from monolite.locks.engine import LockEngine
from monolite.operator.health import Check
from monolite.operator.triggers import Figure
from monolite.search.engine import SearchEngine
from monolite.streams.engine import GroupEngine, StreamEngine
from monolite.streams.within import Within
from monolite.sync.engine import SyncEngine
from monolite.tenancy.engine import TenancyEngine
from monolite.tenancy.installation import InstallationFacts
from monolite.tenancy.news import KeyNews
from monolite.tenancy.portability import ArchiveEngine
from monolite.web.idempotency import IdempotencyEngine
from monolite.webhooks.engine import WebhookEngine

Measures = dict[str, tuple[str, float]]
"""Prometheus' help text and value by metric."""

Repeat = Callable[[Callable[[], Awaitable[None]], float], None]
"""Runs work again and again, every so many seconds, until the installation closes."""


class Kept(Protocol):
    """An engine that puts off what takes long. Of several servers on one database each calls
    `upkeep`; the engine sees to it that only one works.
    """

    work_waits: asyncio.Event

    async def upkeep(self) -> bool:
        """Work off a slice; whether more is left. `work_waits` is set when there is some."""
        ...


class KeptSync(SyncEngine, Kept, Protocol):
    """A SyncEngine with its upkeep."""

    async def expire(self) -> None:
        """Drop what was superseded before the grace period."""
        ...


class KeptDocuments(DocumentEngine, Kept, Protocol):
    """A DocumentEngine with its upkeep; every server calls all of these."""

    async def flush_usage(self) -> None:
        """Write down the counted uses of indexes."""
        ...

    async def expire_changes(self) -> None:
        """Drop changes that are older than they are kept."""
        ...


class KeptSearch(SearchEngine, Protocol):
    """A SearchEngine that also does what it has put off, as KeptDocuments does."""

    work_waits: asyncio.Event

    async def upkeep(self) -> bool:
        """Work off a slice; whether more is left. `work_waits` is set when there is some."""
        ...


class Streaming(Protocol):
    """A store of streams, opened. `is_embedded` where it lies in the installation's own database,
    and so in its transactions.
    """

    is_embedded: bool

    @property
    def log(self) -> StreamEngine:
        """Streams as logs."""
        ...

    @property
    def groups(self) -> GroupEngine:
        """Consumer groups."""
        ...

    @property
    def within(self) -> Within | None:
        """Streams in the database's own transactions; None where they lie elsewhere."""
        ...

    async def has_streams(self) -> bool:
        """Whether there is one, of whichever tenant."""
        ...

    async def erase_tenant(self, tenant_id: int) -> None:
        """Remove a tenant's streams, where they are not removed with its rows."""
        ...

    def checks(self) -> Mapping[str, Callable[[], Check]]:
        """What /readyz looks at."""
        ...

    async def owns(self, tenant_id: int, stream: str, group: str) -> bool:
        """Whether this server, of several, is the one that consumes for a group, as of now."""
        ...

    def start_serving(self, repeat: Repeat) -> None:
        """Begin the chores."""
        ...

    async def stop(self) -> None:
        """Write down what is in memory; the store's database is still open."""
        ...

    def figures(self) -> list[Figure]:
        """The triggers' figures."""
        ...

    def gauges(self) -> Measures:
        """What goes up and down."""
        ...

    def counters(self) -> Measures:
        """What only goes up."""
        ...


class Engines(Protocol):
    """An open database. `answers_at_once` where no verb of it waits for a network."""

    answers_at_once: bool

    @property
    def tenancy(self) -> TenancyEngine:
        """Tenants and keys."""
        ...

    @property
    def facts(self) -> InstallationFacts:
        """What the database knows of its installation."""
        ...

    @property
    def idempotency(self) -> IdempotencyEngine:
        """Remembered answers."""
        ...

    @property
    def archives(self) -> ArchiveEngine:
        """All rows of a tenant."""
        ...

    @property
    def documents(self) -> KeptDocuments:
        """Documents."""
        ...

    @property
    def search(self) -> KeptSearch:
        """Search indexes."""
        ...

    @property
    def sync(self) -> KeptSync:
        """The relay's logs."""
        ...

    @property
    def streams(self) -> Streaming | None:
        """Streams in this database; None where it keeps none."""
        ...

    @property
    def webhooks(self) -> WebhookEngine:
        """Webhooks and the log of their attempts."""
        ...

    @property
    def jobs(self) -> JobEngine | None:
        """Queues and schedules; None where the database has no engine for them."""
        ...

    @property
    def budget(self) -> BudgetEngine:
        """What the cloud may cost, and did."""
        ...

    @property
    def adapters(self) -> AdapterEngine:
        """LoRA adapters."""
        ...

    @property
    def locks(self) -> LockEngine | None:
        """Locks; None where the database has no engine for them."""
        ...

    async def begin(self, news: KeyNews) -> None:
        """The root secret has been settled: from here on rows are written.

        `news` is what hears of keys and tenants that other servers change.
        """
        ...

    async def start_serving(self, repeat: Repeat) -> None:
        """Begin what a serving process does beside serving."""
        ...

    async def close(self) -> None:
        """Commit what was accepted and let go of the database."""
        ...

    async def barrier(self) -> None:
        """Come back when every commit so far is on a second machine."""
        ...

    async def drill(self) -> dict[str, Any]:
        """Restore the replica somewhere and compare."""
        ...

    def checks(self) -> Mapping[str, Callable[[], Check]]:
        """What must be in order before traffic should come."""
        ...

    def figures(self) -> list[Figure]:
        """The triggers' figures."""
        ...

    def describe(self) -> dict[str, Any]:
        """The engine for the operator's status."""
        ...

    def replication(self) -> dict[str, Any]:
        """Replication for the operator's status."""
        ...

    def gauges(self) -> Measures:
        """What goes up and down."""
        ...

    def counters(self) -> Measures:
        """What only goes up."""
        ...
