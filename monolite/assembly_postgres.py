"""The engines that several servers share: one PostgreSQL database."""

from __future__ import annotations

import logging
import random
import socket
from collections.abc import Callable, Mapping
from typing import Any

from monolite.assembly_engines import Measures, Repeat, Streaming
from monolite.clock import Clock
from monolite.documents.postgres import TENANT_TABLES as DOCUMENT_TABLES
from monolite.documents.postgres import PostgresDocumentEngine
from monolite.documents.postgres_archive import PostgresDocumentArchive
from monolite.documents.postgres_changes import settle_cluster
from monolite.documents.usage import Usage
from monolite.documents.validation import SchemaChecks
from monolite.errors import Malformed
from monolite.inference.adapters.engine import TENANT_TABLES as ADAPTER_TABLES
from monolite.inference.adapters.postgres import PostgresAdapterEngine
from monolite.inference.adapters.postgres_archive import PostgresAdapterArchive
from monolite.inference.routing.postgres import PostgresBudgetEngine
from monolite.inference.routing.postgres_archive import PostgresRoutingArchive
from monolite.inference.routing.rows import TENANT_TABLES as ROUTING_TABLES
from monolite.jobs.core import backoff_ms
from monolite.jobs.postgres import TENANT_TABLES as JOB_TABLES
from monolite.jobs.postgres import PostgresJobEngine
from monolite.jobs.postgres_archive import PostgresJobArchive
from monolite.locks.postgres import TENANT_TABLES as LOCK_TABLES
from monolite.locks.postgres import PostgresLockEngine
from monolite.operator import triggers
from monolite.operator.health import Check
from monolite.search.postgres import TENANT_TABLES as SEARCH_TABLES
from monolite.search.postgres import PostgresSearchEngine
from monolite.search.postgres_archive import PostgresSearchArchive
from monolite.settings import Settings
from monolite.storage.data_directory import DataDirectory
from monolite.storage.postgres.migrate import MigrationReport, migrate, shipped_migrations
from monolite.storage.postgres.notifications import Notifications
from monolite.storage.postgres.pool import Pool
from monolite.sync.postgres import TENANT_TABLES as SYNC_TABLES
from monolite.sync.postgres import PostgresSyncEngine
from monolite.sync.postgres_archive import PostgresSyncArchive
from monolite.tenancy.installation_postgres import PostgresInstallationFacts
from monolite.tenancy.news import KeyNews
from monolite.tenancy.portability import ArchiveEngine
from monolite.tenancy.portability_postgres import PostgresArchiveEngine
from monolite.tenancy.postgres import CHANNEL, PostgresTenancyEngine
from monolite.web.idempotency_postgres import TENANT_TABLES as IDEMPOTENCY_TABLES
from monolite.web.idempotency_postgres import PostgresIdempotencyEngine
from monolite.webhooks.postgres import PostgresWebhookEngine
from monolite.webhooks.rows import TENANT_TABLES as WEBHOOK_TABLES

log = logging.getLogger("monolite")

_SIZE_INTERVAL_S = 60.0
"""How often PostgreSQL is asked how large the database is."""


class PostgresEngines:
    """Everything in the schema `monolite` of one database; made by `open_engines`."""

    answers_at_once = False

    def __init__(
        self,
        settings: Settings,
        directory: DataDirectory,
        clock: Clock,
        pool: Pool,
        workers: Pool,
        migration: MigrationReport,
    ) -> None:
        self._pool = pool
        self._workers = workers
        self._migration = migration
        self._database_bytes = 0
        self._news: KeyNews | None = None
        self.streams: Streaming | None = None
        self.notifications = Notifications(pool)
        self.facts = PostgresInstallationFacts(
            pool, f"{socket.gethostname()}:{directory.path.resolve()}"
        )
        self.webhooks = PostgresWebhookEngine(pool)
        self.idempotency = PostgresIdempotencyEngine(pool)
        self.documents = PostgresDocumentEngine(
            pool,
            self.notifications,
            validate=SchemaChecks(),
            usage=Usage(),
            now_ms=clock.now_ms,
            deadline_s=settings.query_deadline_s,
            changes_retention_s=settings.changes_retention_s,
        )
        self.sync = PostgresSyncEngine(
            pool, self.notifications, now_ms=clock.now_ms, grace_s=settings.sync_grace_s
        )
        self.search = PostgresSearchEngine(pool, self.notifications)
        self.tenancy = PostgresTenancyEngine(
            pool,
            (
                *WEBHOOK_TABLES,
                *DOCUMENT_TABLES,
                *SYNC_TABLES,
                *SEARCH_TABLES,
                *JOB_TABLES,
                *LOCK_TABLES,
                *ROUTING_TABLES,
                *ADAPTER_TABLES,
                *IDEMPOTENCY_TABLES,
            ),
            (self.documents.tenant_usage, self.sync.tenant_usage),
        )
        self.archives: ArchiveEngine = PostgresArchiveEngine(
            pool,
            [
                PostgresDocumentArchive(self.documents),
                PostgresSyncArchive(),
                PostgresSearchArchive(self.search.pgvector),
                PostgresJobArchive(),
                PostgresRoutingArchive(),
                PostgresAdapterArchive(),
            ],
        )
        self.jobs = PostgresJobEngine(
            pool,
            workers,
            self.notifications,
            delay=lambda attempt: backoff_ms(attempt, random.random()),  # noqa: S311  # a jitter
        )
        self.locks = PostgresLockEngine(pool, self.notifications)
        self.budget = PostgresBudgetEngine(pool)
        self.adapters = PostgresAdapterEngine(pool)

    # ── Its life ───────────────────────────────────────────────────────────────────────────────

    async def begin(self, news: KeyNews) -> None:
        self._news = news
        self.notifications.listen(CHANNEL, news.heard, news.missed)
        await self.search.begin()
        await self._measure()

    async def start_serving(self, repeat: Repeat) -> None:
        await self.notifications.start()
        await self.sync.begin()
        repeat(self._measure, _SIZE_INTERVAL_S)

    async def close(self) -> None:
        if self.streams is not None:
            await self.streams.stop()
        await self.sync.stop()
        await self.jobs.stop()
        await self.locks.stop()
        await self.notifications.close()
        if self._news is not None:
            self._news.stop()
        await self.tenancy.close()
        await self._workers.close()
        await self._pool.close()

    async def _measure(self) -> None:
        self._database_bytes = await self._pool.fetchval(
            "SELECT pg_database_size(current_database())"
        )

    # ── Replication ────────────────────────────────────────────────────────────────────────────

    async def barrier(self) -> None:
        raise _no_replica()

    async def drill(self) -> dict[str, Any]:
        raise _no_replica()

    # ── What the operator sees ─────────────────────────────────────────────────────────────────

    def checks(self) -> Mapping[str, Callable[[], Check]]:
        return {"schema": self._check_schema, "database": self._check_database}

    def _check_schema(self) -> Check:
        return Check(True, f"schema version {self._migration.version_after}")

    def _check_database(self) -> Check:
        if not self.notifications.is_connected:
            return Check(False, "PostgreSQL does not answer; see its log")
        stats = self._pool.stats()
        busy = stats.connection_count - stats.idle_count
        return Check(True, f"{busy} of {stats.connection_count_max} connections are at work")

    def figures(self) -> list[triggers.Figure]:
        return triggers.postgres_figures(
            connections=lambda: self._pool.stats().connection_count - self._pool.stats().idle_count,
            connection_count_max=self._pool.stats().connection_count_max,
            read_p99_ms=lambda: self._pool.stats().read_p99_s * 1000,
        )

    def describe(self) -> dict[str, Any]:
        stats = self._pool.stats()
        return {
            "name": "postgresql",
            "version": self._pool.version,
            "schema_version": self._migration.version_after,
            "database_bytes": self._database_bytes,
            "connected": self.notifications.is_connected,
            "connection_count": stats.connection_count,
            "connection_count_max": stats.connection_count_max,
            "idle_connection_count": stats.idle_count,
            "transactions_total": stats.transactions_total,
            "transaction_retries_total": stats.retries_total,
            "failures_total": stats.failures_total,
        }

    def replication(self) -> dict[str, Any]:
        return {"state": "not configured", "detail": "PostgreSQL has its own"}

    def gauges(self) -> Measures:
        stats = self._pool.stats()
        return {
            "database_up": ("PostgreSQL answers.", float(self.notifications.is_connected)),
            "database_bytes": ("Size of the database.", self._database_bytes),
            "database_connections": ("Open connections.", stats.connection_count),
            "database_connections_idle": ("Those that wait for work.", stats.idle_count),
            "database_worker_connections": (
                "Open connections of workers' calls.",
                self._workers.stats().connection_count,
            ),
            "read_p99_seconds": ("Statements, 99th percentile.", stats.read_p99_s),
        }

    def counters(self) -> Measures:
        stats, workers = self._pool.stats(), self._workers.stats()
        return {
            "writes": (
                "Transactions committed.",
                stats.transactions_total + workers.transactions_total,
            ),
            "transaction_retries": (
                "Run again, for others' sake.",
                stats.retries_total + workers.retries_total,
            ),
            "database_failures": (
                "Failures of PostgreSQL.",
                stats.failures_total + workers.failures_total,
            ),
            "read_deadlines": ("Statements broken off.", stats.deadlines_total),
            "notification_reconnects": (
                "The listening connection was made anew.",
                self.notifications.reconnects_total,
            ),
        }


async def open_engines(
    settings: Settings, directory: DataDirectory, clock: Clock
) -> PostgresEngines:
    """Connect and migrate. Raises StorageError where the database can't be used."""
    assert settings.database_url is not None  # callers look first
    pool = Pool(settings.database_url, connection_count_max=settings.database_connection_count_max)
    await pool.open()
    workers = Pool(
        settings.database_url,
        connection_count_max=settings.database_worker_connection_count_max,
        setting="MONOLITE_DATABASE_WORKER_CONNECTIONS",
    )
    try:
        await workers.open()
        report = await migrate(pool, migrations=shipped_migrations(), now_ms=clock.now_ms())
        await _settle_changes(pool)
        return PostgresEngines(settings, directory, clock, pool, workers, report)
    except BaseException:
        await workers.close()
        await pool.close()
        raise


async def _settle_changes(pool: Pool) -> None:
    # Without a deadline: after a restore from a dump every document is numbered anew.
    async with pool.dedicated() as connection, connection.transaction():
        if await settle_cluster(connection):
            log.info("the change logs came from another cluster, and were numbered anew")


def _no_replica() -> Malformed:
    return Malformed(
        "PostgreSQL has its own replication and backups; Litestream's is of SQLite alone.",
        code="no_replica",
    )
