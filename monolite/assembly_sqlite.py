"""The embedded engines: one file, one writer, and Litestream where a replica is configured."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Mapping
from typing import Any, Literal

import msgspec

from monolite.assembly_engines import Measures, Repeat, Streaming
from monolite.assembly_streams import SqliteStreaming
from monolite.clock import Clock
from monolite.documents.sqlite import TENANT_TABLES as DOCUMENT_TABLES
from monolite.documents.sqlite import SqliteDocumentEngine
from monolite.documents.sqlite_archive import SqliteDocumentArchive
from monolite.documents.usage import Usage
from monolite.documents.validation import SchemaChecks
from monolite.errors import Malformed, Unavailable
from monolite.inference.adapters.engine import TENANT_TABLES as ADAPTER_TABLES
from monolite.inference.adapters.sqlite import SqliteAdapterEngine
from monolite.inference.adapters.sqlite_archive import SqliteAdapterArchive
from monolite.inference.routing.rows import TENANT_TABLES as ROUTING_TABLES
from monolite.inference.routing.sqlite import SqliteBudgetEngine
from monolite.inference.routing.sqlite_archive import SqliteRoutingArchive
from monolite.jobs.core import backoff_ms
from monolite.jobs.sqlite import TENANT_TABLES as JOB_TABLES
from monolite.jobs.sqlite import SqliteJobEngine
from monolite.jobs.sqlite_archive import SqliteJobArchive
from monolite.locks.sqlite import TENANT_TABLES as LOCK_TABLES
from monolite.locks.sqlite import SqliteLockEngine
from monolite.operator import triggers
from monolite.operator.health import Check
from monolite.replication import manifest
from monolite.search.sqlite import TENANT_TABLES as SEARCH_TABLES
from monolite.search.sqlite import SqliteSearchEngine
from monolite.search.sqlite_archive import SqliteSearchArchive
from monolite.settings import Settings
from monolite.storage.data_directory import DataDirectory
from monolite.storage.errors import StorageError
from monolite.storage.sqlite.checkpoints import Checkpointer
from monolite.storage.sqlite.connection import open_reader, open_writer
from monolite.storage.sqlite.migrate import MigrationReport, create_database, migrate
from monolite.storage.sqlite.readers import Readers
from monolite.storage.sqlite.schema import shipped_schema
from monolite.storage.sqlite.writer import Writer
from monolite.streams.sqlite_archive import SqliteStreamArchive
from monolite.sync.sqlite import TENANT_TABLES as SYNC_TABLES
from monolite.sync.sqlite import SqliteSyncEngine
from monolite.sync.sqlite_archive import SqliteSyncArchive
from monolite.sync.sqlite_documents import tenant_usage
from monolite.tenancy.installation_sqlite import SqliteInstallationFacts
from monolite.tenancy.news import KeyNews
from monolite.tenancy.portability import ArchiveEngine
from monolite.tenancy.portability_sqlite import SqliteArchiveEngine
from monolite.tenancy.sqlite import SqliteTenancyEngine
from monolite.web.idempotency_sqlite import TENANT_TABLES as IDEMPOTENCY_TABLES
from monolite.web.idempotency_sqlite import SqliteIdempotencyEngine
from monolite.webhooks.rows import TENANT_TABLES as WEBHOOK_TABLES
from monolite.webhooks.sqlite import SqliteWebhookEngine

log = logging.getLogger("monolite")

_MANIFEST_INTERVAL_S = 3600.0
_MANIFEST_DEADLINE_S = 600.0
"""How often, and for how long at most, the rows of all tables are counted for the replica."""


class SqliteEngines:
    """Everything on one SQLite file, which this process alone has open."""

    answers_at_once = True

    def __init__(self, settings: Settings, directory: DataDirectory, clock: Clock) -> None:
        self._settings = settings
        self._directory = directory
        self._clock = clock
        self._replication: Any = None
        self._open()
        self.facts = SqliteInstallationFacts(self.writer, self.readers)
        self.webhooks = SqliteWebhookEngine(self.writer, self.readers)
        embedded = SqliteStreaming(self.writer, self.readers, clock, settings.event_bytes_max)
        self.streams: Streaming = embedded
        self.tenancy = SqliteTenancyEngine(
            self.writer,
            self.readers,
            (
                *SEARCH_TABLES,
                *WEBHOOK_TABLES,
                *DOCUMENT_TABLES,
                *SYNC_TABLES,
                *JOB_TABLES,
                *LOCK_TABLES,
                *ROUTING_TABLES,
                *ADAPTER_TABLES,
                *IDEMPOTENCY_TABLES,
            ),
            (tenant_usage,),
            (embedded.upkeep.erase_tenant,),
        )
        self.idempotency = SqliteIdempotencyEngine(self.writer, self.readers)
        self.documents = SqliteDocumentEngine(
            self.writer,
            self.readers,
            validate=SchemaChecks(),
            usage=Usage(),
            now_ms=clock.now_ms,
            deadline_s=settings.query_deadline_s,
            changes_retention_s=settings.changes_retention_s,
        )
        self.search = SqliteSearchEngine(self.writer, self.readers, self._directory.path / "search")
        self.sync = SqliteSyncEngine(
            self.writer, self.readers, now_ms=clock.now_ms, grace_s=settings.sync_grace_s
        )
        self.jobs = SqliteJobEngine(
            self.writer,
            self.readers,
            delay=lambda attempt: backoff_ms(attempt, random.random()),  # noqa: S311  # a jitter
        )
        self.locks = SqliteLockEngine(self.writer, self.readers)
        self.budget = SqliteBudgetEngine(self.writer, self.readers)
        self.adapters = SqliteAdapterEngine(self.writer, self.readers)
        self.archives: ArchiveEngine = SqliteArchiveEngine(
            self.writer,
            self._open_reader,
            [
                SqliteDocumentArchive(self.documents),
                SqliteSyncArchive(),
                SqliteSearchArchive(),
                SqliteJobArchive(),
                SqliteRoutingArchive(),
                SqliteAdapterArchive(),
                SqliteStreamArchive(),
            ],
        )

    def _open(self) -> None:
        path = self._directory.database
        settings, now_ms = self._settings, self._clock.now_ms()
        create_database(path, schema=shipped_schema(), now_ms=now_ms)
        owner: Literal["monolite", "litestream"] = (
            "litestream" if settings.replica_url else "monolite"
        )
        self._checkpointer = Checkpointer(path, owner=owner)
        report: list[MigrationReport] = []

        def connect() -> Any:
            connection = open_writer(path, synchronous=settings.synchronous, autocheckpoint=False)
            report.append(migrate(connection, schema=shipped_schema(), now_ms=now_ms))
            self._checkpointer.watch(connection)
            return connection

        loop = asyncio.get_running_loop()
        self.writer = Writer(
            connect,
            loop=loop,
            queue_count_max=settings.write_queue_count_max,
            commit_on_loop=settings.synchronous == "normal",
        )
        self.writer.start()
        self.readers = Readers(self._open_reader, loop=loop)
        self._checkpointer.start()
        self._migration = report[0]

    def _open_reader(self) -> Any:
        return open_reader(self._directory.database)

    # ── Its life ───────────────────────────────────────────────────────────────────────────────

    async def begin(self, news: KeyNews) -> None:
        # Whatever is written from now on makes the counts of the last stop untrue. There is no
        # news: no other process writes.
        now_ms = self._clock.now_ms()
        await self.writer.submit(lambda connection: manifest.record(connection, now_ms))
        await self.search.begin()

    async def start_serving(self, repeat: Repeat) -> None:
        if self._settings.replica_url is None:
            return
        from monolite.replication.core import Replication

        self._replication = Replication(
            self._settings.replica(),
            self._directory.database,
            self._directory.replica_state,
            clock=self._clock,
            log=logging.getLogger("monolite.replication"),
        )
        await self._replication.start()
        repeat(self._record_manifest, _MANIFEST_INTERVAL_S)

    async def close(self) -> None:
        await self.search.close()
        await self._stop_streams()
        if self._replication is not None:
            await self._record_last_manifest()
        await self.writer.close()
        if self._replication is not None:
            await self._replication.stop()
        await self.readers.close()
        await asyncio.to_thread(self._checkpointer.close)

    async def _stop_streams(self) -> None:
        try:
            await self.streams.stop()
        except StorageError as error:
            log.error("when consumers were last seen was not written: %s", error)

    # ── Replication ────────────────────────────────────────────────────────────────────────────

    async def barrier(self) -> None:
        if self._replication is None:
            raise Unavailable("Replication has not started yet.", code="replication_unavailable")
        await self._replication.barrier()

    async def drill(self) -> dict[str, Any]:
        if self._replication is None:
            raise Malformed(
                "No replica is configured; set MONOLITE_REPLICA_URL.", code="no_replica"
            )
        await self._record_manifest()
        report: dict[str, Any] = msgspec.to_builtins(await self._replication.drill())
        return report

    async def _record_manifest(self) -> None:
        """Store how many rows each table has, for a restore to be compared with."""
        counts = await self.readers.run(manifest.measure, deadline_s=_MANIFEST_DEADLINE_S)
        now_ms = self._clock.now_ms()
        await self.writer.submit(lambda connection: manifest.record(connection, now_ms, counts))

    async def _record_last_manifest(self) -> None:
        now_ms = self._clock.now_ms()
        try:
            await self.writer.submit(
                lambda connection: manifest.record(connection, now_ms, final=True), is_long=True
            )
        except StorageError as error:
            # A full disk must not keep the server from stopping; the restore says it has no counts.
            log.error("the last manifest was not recorded: %s", error)

    # ── What the operator sees ─────────────────────────────────────────────────────────────────

    def checks(self) -> Mapping[str, Callable[[], Check]]:
        return {
            "schema": self._check_schema,
            "writer": self._check_writer,
            "replica": self._check_replica,
        }

    def _check_schema(self) -> Check:
        return Check(True, f"schema version {self._migration.version_after}")

    def _check_writer(self) -> Check:
        stats = self.writer.stats()
        full = stats.queue_count >= self._settings.write_queue_count_max
        return Check(self.writer.is_running and not full, f"{stats.queue_count} writes wait")

    def _check_replica(self) -> Check:
        if self._settings.replica_url is None:
            return Check(True, "no replica is configured; set MONOLITE_REPLICA_URL")
        if self._replication is None:
            return Check(False, "replication has not started")
        status = self._replication.status()
        if status.state != "running":
            return Check(False, f"Litestream is {status.state}: {status.last_error or 'no error'}")
        if status.last_drill_ok is False:
            return Check(False, f"the last restore drill failed: {status.last_drill_detail}")
        return Check(True, f"running, {status.lag_ms} ms behind")

    def figures(self) -> list[triggers.Figure]:
        return triggers.sqlite_figures(
            writes_per_second=lambda: self.writer.stats().sustained_writes_per_s,
            write_threshold=lambda: triggers.write_threshold(
                self._settings.trigger_writes_per_second, self._writes_capacity()
            ),
            database_bytes=lambda: self._directory.database.stat().st_size,
            read_p99_ms=lambda: self.readers.stats().p99_s * 1000,
        )

    def _writes_capacity(self) -> float | None:
        """Writes per second that `doctor` measured here, or None before it did."""
        try:
            measured = msgspec.json.decode(self._directory.capacity.read_bytes())
            return float(measured["writes_per_s"])
        except (OSError, msgspec.DecodeError, KeyError, TypeError, ValueError):
            return None

    def describe(self) -> dict[str, Any]:
        writer, checkpoints = self.writer.stats(), self._checkpointer.stats()
        return {
            "name": "sqlite",
            "synchronous": self._settings.synchronous,
            "schema_version": self._migration.version_after,
            "database_bytes": self._directory.database.stat().st_size,
            "wal_bytes": checkpoints.wal_bytes,
            "writes_total": writer.writes_total,
            "write_batches_total": writer.batches_total,
            "write_queue_count": writer.queue_count,
            "writer_busy_fraction": round(writer.busy_fraction_1m, 4),
        }

    def replication(self) -> dict[str, Any]:
        if self._replication is None:
            return {"state": "not configured"}
        status: dict[str, Any] = msgspec.to_builtins(self._replication.status())
        return status

    def gauges(self) -> Measures:
        writer, checkpoints = self.writer.stats(), self._checkpointer.stats()
        gauges: Measures = {
            "write_queue": ("Writes that wait.", writer.queue_count),
            "writer_busy_ratio": ("Time the writer was at work.", writer.busy_fraction_1m),
            "read_p99_seconds": ("Pool reads, 99th percentile.", self.readers.stats().p99_s),
            "database_bytes": ("Size of the file.", self._directory.database.stat().st_size),
            "wal_bytes": ("Size of the write-ahead log.", checkpoints.wal_bytes),
            **self.search.gauges(),
        }
        if self._replication is None:
            return gauges
        status = self._replication.status()
        gauges["replica_up"] = ("Litestream runs.", float(status.state == "running"))
        gauges["replica_lag_seconds"] = (
            "Age of the oldest commit that is not in S3.",
            (status.lag_ms or 0) / 1000,
        )
        gauges["replica_shadow_bytes"] = ("Litestream's own directory.", status.shadow_bytes or 0)
        if status.last_drill_at_ms is not None:
            gauges["replica_drill_timestamp_seconds"] = (
                "When a restore was last drilled.",
                status.last_drill_at_ms / 1000,
            )
            gauges["replica_drill_ok"] = (
                "Whether it succeeded.",
                float(bool(status.last_drill_ok)),
            )
        return gauges

    def counters(self) -> Measures:
        writer = self.writer.stats()
        counters: Measures = {
            "writes": ("Writes committed.", writer.writes_total),
            "write_batches": ("Commits.", writer.batches_total),
            "commit_seconds": ("Time in commits.", writer.commits.sum_s),
            "read_deadlines": (
                "Reads interrupted at their deadline.",
                self.readers.stats().deadlines_total,
            ),
            **self.search.counters(),
        }
        if self._replication is not None:
            counters["replica_restarts"] = (
                "Litestream was started again.",
                self._replication.status().restarts_total,
            )
        return counters
