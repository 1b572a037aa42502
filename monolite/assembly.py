"""Settings become engines, engines cores, cores operations: the only importer of engines.

open:  directory ─► lock ─► (restore) ─► secret ─► database ─► writer, readers ─► cores ─► app
close: live streams ─► requests in flight ─► writer ─► replica ─► readers ─► lock
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import msgspec

from monolite import __version__
from monolite.clock import Identifiers, SystemClock
from monolite.documents import collection_endpoints
from monolite.documents import endpoints as document_endpoints
from monolite.documents.collections import Collections
from monolite.documents.core import Documents
from monolite.documents.sqlite import TENANT_TABLES as DOCUMENT_TABLES
from monolite.documents.sqlite import SqliteDocumentEngine
from monolite.documents.sqlite_archive import SqliteDocumentArchive
from monolite.documents.usage import Usage
from monolite.documents.validation import SchemaChecks
from monolite.errors import Malformed, Unauthenticated, Unavailable
from monolite.operator import endpoints as operator_endpoints
from monolite.operator import triggers
from monolite.operator.health import Check, Readiness
from monolite.operator.metrics import Metrics
from monolite.replication import manifest
from monolite.settings import Settings
from monolite.storage.data_directory import DataDirectory, DirectoryLock
from monolite.storage.disk import disk_space
from monolite.storage.errors import StorageError
from monolite.storage.sqlite.checkpoints import Checkpointer
from monolite.storage.sqlite.connection import open_reader, open_writer
from monolite.storage.sqlite.migrate import MigrationReport, create_database, migrate
from monolite.storage.sqlite.readers import Readers
from monolite.storage.sqlite.schema import shipped_schema
from monolite.storage.sqlite.writer import Writer
from monolite.tenancy import endpoints as tenancy_endpoints
from monolite.tenancy.authentication import Authenticator
from monolite.tenancy.core import Tenancy
from monolite.tenancy.installation import find_secret, settle_operator_key, settle_secret
from monolite.tenancy.installation_sqlite import SqliteInstallationFacts
from monolite.tenancy.portability import Portability
from monolite.tenancy.portability_sqlite import SqliteArchiveEngine
from monolite.tenancy.sqlite import SqliteTenancyEngine
from monolite.tenancy.tokens import TokenSigner
from monolite.web import openapi
from monolite.web.application import Application
from monolite.web.call import Call
from monolite.web.cursors import Cursors
from monolite.web.endpoint import Pipeline
from monolite.web.idempotency import Idempotency
from monolite.web.idempotency_sqlite import TENANT_TABLES as IDEMPOTENCY_TABLES
from monolite.web.idempotency_sqlite import SqliteIdempotencyEngine
from monolite.web.live import LiveConnections
from monolite.web.operation import Operation

log = logging.getLogger("monolite")

_PURGE_INTERVAL_S = 60.0
"""How often expired idempotent answers go."""

_USAGE_INTERVAL_S = 10.0
"""How often the use of indexes is written down."""

_EXPIRY_INTERVAL_S = 3600.0
"""How often old changes go."""

_MANIFEST_INTERVAL_S = 3600.0
_MANIFEST_DEADLINE_S = 600.0
"""How often, and for how long at most, the rows of all tables are counted for the replica."""


@dataclass(slots=True)
class _Storage:
    """The open database of an installation."""

    writer: Writer
    readers: Readers
    checkpointer: Checkpointer
    migration: MigrationReport


class Installation:
    """One data directory, opened by this process alone. `app` answers its requests."""

    def __init__(self, settings: Settings, directory: DataDirectory, lock: DirectoryLock) -> None:
        self.settings = settings
        self.directory = directory
        self.clock = SystemClock()
        self.identifiers = Identifiers(self.clock)
        self.started_at = time.monotonic()
        self._lock = lock
        self._tasks: list[asyncio.Task[Any]] = []
        self.live = LiveConnections(self.clock)
        self.replication: Any = None
        self.storage: _Storage
        self.facts: SqliteInstallationFacts
        self.tenancy: Tenancy
        self.document_engine: SqliteDocumentEngine
        self.documents: Documents
        self.collections: Collections
        self.readiness: Readiness
        self.operator_key: str
        self.app: Application

    @classmethod
    async def open(
        cls,
        settings: Settings,
        *,
        lock: DirectoryLock | None = None,
        may_rotate_secret: bool = False,
    ) -> Installation:
        """Make or migrate the directory's database, and build everything on it.

        Takes the directory's lock, or `lock` where the caller has it already; `close` releases it.

        Raises:
            StorageError: the directory or its database can't be used; DataDirectoryInUse where
                another process has it.
            SecretMismatch: the root secret is not the one the keys were made with.
        """
        directory = DataDirectory(settings.data)
        if lock is None:
            directory.prepare()
            lock = directory.lock()
        installation = cls(settings, directory, lock)
        try:
            await installation._build(may_rotate_secret)
        except BaseException:
            lock.release()
            raise
        return installation

    async def _build(self, may_rotate_secret: bool) -> None:
        secret = find_secret(self.directory, self.settings.root_secret)
        self.storage = await self._open_storage()
        writer, readers = self.storage.writer, self.storage.readers
        self.facts = SqliteInstallationFacts(writer, readers)
        secret = await settle_secret(
            self.directory, self.facts, secret, may_rotate=may_rotate_secret
        )
        tokens = TokenSigner(secret, self.clock, self.identifiers)
        tenancy_engine = SqliteTenancyEngine(
            writer, readers, (*DOCUMENT_TABLES, *IDEMPOTENCY_TABLES)
        )
        pepper = secret.draw("key-pepper")
        authenticator = Authenticator(
            tenancy_engine, pepper, tokens, self.clock, self.settings.rate_limit
        )
        self.tenancy = Tenancy(
            tenancy_engine,
            tokens,
            pepper,
            self.clock,
            self.identifiers,
            changed=authenticator.forget,
            key_ended=self.live.end_key,
            tenant_ended=self.live.end_tenant,
        )
        self.document_engine = SqliteDocumentEngine(
            writer,
            readers,
            validate=SchemaChecks(),
            usage=Usage(),
            now_ms=self.clock.now_ms,
            deadline_s=self.settings.query_deadline_s,
            changes_retention_s=self.settings.changes_retention_s,
        )
        self.documents = Documents(
            self.document_engine,
            self.clock,
            self.identifiers,
            line_bytes_max=self.settings.document_bytes_max,
        )
        self.collections = Collections(self.document_engine, self.clock)
        self._idempotency = Idempotency(SqliteIdempotencyEngine(writer, readers), self.clock)
        # Whatever is written from now on makes the counts of the last stop untrue.
        await writer.submit(lambda connection: manifest.record(connection, self.clock.now_ms()))
        self.operator_key = await settle_operator_key(self.directory, self.facts, self.tenancy)
        await self.tenancy.recover()
        pipeline = Pipeline(
            authenticator=authenticator,
            idempotency=self._idempotency,
            live=self.live,
            clock=self.clock,
            barrier=self._barrier if self.settings.replica_url else None,
            log_requests=self.settings.log_requests,
        )
        archives = SqliteArchiveEngine(
            writer, self._open_reader, [SqliteDocumentArchive(self.document_engine)]
        )
        operations = self._operations(
            authenticator,
            Portability(self.tenancy, archives),
            Cursors(secret.draw("cursors")),
        )
        self.app = Application(operations, pipeline)

    async def _open_storage(self) -> _Storage:
        path = self.directory.database
        create_database(path, schema=shipped_schema(), now_ms=self.clock.now_ms())
        owner: Literal["monolite", "litestream"] = (
            "litestream" if self.settings.replica_url else "monolite"
        )
        checkpointer = Checkpointer(path, owner=owner)
        report: list[MigrationReport] = []

        def connect() -> Any:
            connection = open_writer(
                path, synchronous=self.settings.synchronous, autocheckpoint=False
            )
            report.append(migrate(connection, schema=shipped_schema(), now_ms=self.clock.now_ms()))
            checkpointer.watch(connection)
            return connection

        loop = asyncio.get_running_loop()
        writer = Writer(
            connect,
            loop=loop,
            queue_count_max=self.settings.write_queue_count_max,
            commit_on_loop=self.settings.synchronous == "normal",
        )
        writer.start()
        readers = Readers(self._open_reader, loop=loop)
        checkpointer.start()
        return _Storage(writer, readers, checkpointer, report[0])

    def _open_reader(self) -> Any:
        return open_reader(self.directory.database)

    def _operations(
        self, authenticator: Authenticator, portability: Portability, cursors: Cursors
    ) -> list[Operation]:
        figures = triggers.figures(
            writes_per_second=lambda: self.storage.writer.stats().sustained_writes_per_s,
            write_threshold=lambda: triggers.write_threshold(
                self.settings.trigger_writes_per_second, self._writes_capacity()
            ),
            database_bytes=lambda: self.directory.database.stat().st_size,
            read_p99_ms=lambda: self.storage.readers.stats().p99_s * 1000,
        )
        self.readiness = Readiness(
            {
                "schema": self._check_schema,
                "writer": self._check_writer,
                "disk": self._check_disk,
                "replica": self._check_replica,
            }
        )

        async def is_trusted(call: Call) -> bool:
            if call.is_from_loopback:
                return True
            try:
                return (
                    await authenticator.authenticate(call.headers.get(b"authorization"))
                ).is_operator
            except Unauthenticated:
                return False

        operations: list[Operation] = []
        document = cache(lambda: msgspec.json.encode(openapi.document(operations)))
        operations += operator_endpoints.operations(
            readiness=self.readiness,
            metrics=Metrics(lambda: self.app.endpoints, self._gauges, self._counters),
            status=lambda: self._status(figures),
            triggers=lambda: triggers.read(figures),
            openapi=document,
            drill=self._drill,
            is_trusted=is_trusted,
        )
        operations += tenancy_endpoints.operations(self.tenancy, portability, cursors)
        operations += document_endpoints.operations(
            self.documents,
            cursors,
            self.settings.document_bytes_max,
            self.settings.import_bytes_max,
        )
        operations += collection_endpoints.operations(self.collections, cursors, self.clock)
        return operations

    def _writes_capacity(self) -> float | None:
        """Writes per second that `doctor` measured here, or None before it did."""
        try:
            measured = msgspec.json.decode(self.directory.capacity.read_bytes())
            return float(measured["writes_per_s"])
        except (OSError, msgspec.DecodeError, KeyError, TypeError, ValueError):
            return None

    # ── Replication ────────────────────────────────────────────────────────────────────────────

    async def _barrier(self) -> None:
        if self.replication is None:
            raise Unavailable("Replication has not started yet.", code="replication_unavailable")
        await self.replication.barrier()

    async def _drill(self) -> dict[str, Any]:
        if self.replication is None:
            raise Malformed(
                "No replica is configured; set MONOLITE_REPLICA_URL.", code="no_replica"
            )
        await self._record_manifest()
        report: dict[str, Any] = msgspec.to_builtins(await self.replication.drill())
        return report

    async def _record_manifest(self) -> None:
        """Store how many rows each table has, for a restore to be compared with."""
        counts = await self.storage.readers.run(manifest.measure, deadline_s=_MANIFEST_DEADLINE_S)
        now_ms = self.clock.now_ms()
        await self.storage.writer.submit(
            lambda connection: manifest.record(connection, now_ms, counts)
        )

    # ── What the operator sees ─────────────────────────────────────────────────────────────────

    def _check_schema(self) -> Check:
        report = self.storage.migration
        return Check(True, f"schema version {report.version_after}")

    def _check_writer(self) -> Check:
        stats = self.storage.writer.stats()
        full = stats.queue_count >= self.settings.write_queue_count_max
        alive = self.storage.writer.is_running
        return Check(alive and not full, f"{stats.queue_count} writes wait")

    def _check_disk(self) -> Check:
        free = disk_space(self.directory.path).free_bytes
        least = self.settings.disk_bytes_min
        if free < least:
            return Check(False, f"{free} bytes are free, under {least}: free some space")
        return Check(True, f"{free} bytes are free")

    def _check_replica(self) -> Check:
        if self.settings.replica_url is None:
            return Check(True, "no replica is configured; set MONOLITE_REPLICA_URL")
        if self.replication is None:
            return Check(False, "replication has not started")
        status = self.replication.status()
        if status.state != "running":
            return Check(False, f"Litestream is {status.state}: {status.last_error or 'no error'}")
        if status.last_drill_ok is False:
            return Check(False, f"the last restore drill failed: {status.last_drill_detail}")
        return Check(True, f"running, {status.lag_ms} ms behind")

    def _status(self, figures: list[triggers.Figure]) -> operator_endpoints.Status:
        storage = self.storage
        writer, checkpoints = storage.writer.stats(), storage.checkpointer.stats()
        return operator_endpoints.Status(
            version=__version__,
            uptime_s=round(time.monotonic() - self.started_at, 3),
            engine={
                "name": "sqlite",
                "synchronous": self.settings.synchronous,
                "schema_version": storage.migration.version_after,
                "database_bytes": self.directory.database.stat().st_size,
                "wal_bytes": checkpoints.wal_bytes,
                "writes_total": writer.writes_total,
                "write_batches_total": writer.batches_total,
                "write_queue_count": writer.queue_count,
                "writer_busy_fraction": round(writer.busy_fraction_1m, 4),
                "live_connections": self.live.count,
            },
            replication=(
                {"state": "not configured"}
                if self.replication is None
                else msgspec.to_builtins(self.replication.status())
            ),
            triggers=triggers.read(figures),
            budget=None,
        )

    def _gauges(self) -> dict[str, tuple[str, float]]:
        storage = self.storage
        writer, checkpoints = storage.writer.stats(), storage.checkpointer.stats()
        gauges: dict[str, tuple[str, float]] = {
            "write_queue": ("Writes that wait.", writer.queue_count),
            "writer_busy_ratio": ("Time the writer was at work.", writer.busy_fraction_1m),
            "read_p99_seconds": ("Pool reads, 99th percentile.", storage.readers.stats().p99_s),
            "database_bytes": ("Size of the file.", self.directory.database.stat().st_size),
            "wal_bytes": ("Size of the write-ahead log.", checkpoints.wal_bytes),
            "disk_free_bytes": ("Free space.", disk_space(self.directory.path).free_bytes),
            "live_connections": ("Open streams and sockets.", self.live.count),
        }
        if self.replication is not None:
            status = self.replication.status()
            gauges["replica_up"] = ("Litestream runs.", float(status.state == "running"))
            gauges["replica_lag_seconds"] = (
                "Age of the oldest commit that is not in S3.",
                (status.lag_ms or 0) / 1000,
            )
            gauges["replica_shadow_bytes"] = (
                "Litestream's own directory.",
                status.shadow_bytes or 0,
            )
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

    def _counters(self) -> dict[str, tuple[str, float]]:
        writer = self.storage.writer.stats()
        counters: dict[str, tuple[str, float]] = {
            "writes": ("Writes committed.", writer.writes_total),
            "write_batches": ("Commits.", writer.batches_total),
            "commit_seconds": ("Time in commits.", writer.commits.sum_s),
            "read_deadlines": (
                "Reads interrupted at their deadline.",
                self.storage.readers.stats().deadlines_total,
            ),
        }
        if self.replication is not None:
            counters["replica_restarts"] = (
                "Litestream was started again.",
                self.replication.status().restarts_total,
            )
        return counters

    # ── Its life ───────────────────────────────────────────────────────────────────────────────

    def run_in_background(self, work: Callable[[], Awaitable[None]], every_s: float) -> None:
        """Repeat `work` until the installation closes; a failure is logged and tried again."""

        async def repeat() -> None:
            while True:
                await asyncio.sleep(every_s)
                try:
                    await work()
                except Exception:
                    log.exception("background work failed")

        self._tasks.append(asyncio.get_running_loop().create_task(repeat()))

    async def start_serving(self) -> None:
        """Begin what a serving process does beside serving: replication and upkeep."""
        if self.settings.replica_url is not None:
            from monolite.replication.core import Replication

            self.replication = Replication(
                self.settings.replica(),
                self.directory.database,
                self.directory.replica_state,
                clock=self.clock,
                log=logging.getLogger("monolite.replication"),
            )
            await self.replication.start()

        async def purge() -> None:
            while await self._idempotency.purge() > 0:  # noqa: ASYNC110
                await asyncio.sleep(0)

        self.run_in_background(purge, _PURGE_INTERVAL_S)
        self.run_in_background(self.document_engine.flush_usage, _USAGE_INTERVAL_S)
        self.run_in_background(self.document_engine.expire_changes, _EXPIRY_INTERVAL_S)
        self._tasks.append(asyncio.get_running_loop().create_task(self._keep_up()))
        if self.replication is not None:
            self.run_in_background(self._record_manifest, _MANIFEST_INTERVAL_S)

    async def _keep_up(self) -> None:
        """Work off what documents' upkeep has, a slice at a time, leaving others half of the time.

        It begins with what a server before this one left.
        """
        engine = self.document_engine
        while True:
            engine.work_waits.clear()
            try:
                started = time.monotonic()
                while await engine.upkeep():
                    await asyncio.sleep(time.monotonic() - started)
                    started = time.monotonic()
                await engine.work_waits.wait()
            except Exception:
                log.exception("upkeep of documents failed; it is tried again")
                await asyncio.sleep(_PURGE_INTERVAL_S)

    async def _write_usage(self) -> None:
        try:
            await self.document_engine.flush_usage()
        except StorageError as error:
            log.error("the last use of indexes was not written: %s", error)

    async def _record_last_manifest(self) -> None:
        now_ms = self.clock.now_ms()
        try:
            await self.storage.writer.submit(
                lambda connection: manifest.record(connection, now_ms, final=True), is_long=True
            )
        except StorageError as error:
            # A full disk must not keep the server from stopping; the restore says it has no counts.
            log.error("the last manifest was not recorded: %s", error)

    async def close(self) -> None:
        """Commit what was accepted, let the replica catch up, and give the directory back."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._tasks:
            await self._write_usage()
        if self.replication is not None:
            await self._record_last_manifest()
        await self.storage.writer.close()
        if self.replication is not None:
            await self.replication.stop()
        await self.storage.readers.close()
        await asyncio.to_thread(self.storage.checkpointer.close)
        self._lock.release()
