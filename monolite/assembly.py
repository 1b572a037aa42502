"""Settings become engines, engines cores, cores operations.

open:  directory ─► lock ─► (restore) ─► engines ─► secret ─► cores ─► app
close: live streams ─► requests in flight ─► engines ─► lock

Concrete engines are chosen here and made in assembly_sqlite.py or assembly_postgres.py: these three
files alone import any.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import cache
from typing import Any

import msgspec

from monolite import __version__, kernels
from monolite import assembly_routing as routing
from monolite.assembly_calls import JobCalls
from monolite.assembly_engines import Engines, Kept, KeptDocuments, Measures, Streaming
from monolite.assembly_locks import guarded_by, told_by
from monolite.assembly_models import adapter_operations, chat_of, models_of
from monolite.assembly_outbox import Outbox
from monolite.assembly_stores import settle_streams
from monolite.assembly_webhooks import make_webhooks
from monolite.clock import Identifiers, SystemClock
from monolite.documents import collection_endpoints
from monolite.documents import endpoints as document_endpoints
from monolite.documents.collections import Collections
from monolite.documents.core import Documents
from monolite.errors import Unauthenticated
from monolite.inference import endpoints as inference_endpoints
from monolite.inference.core import Embeddings
from monolite.inference.headroom import HeadroomReader
from monolite.inference.routing.router import Router
from monolite.jobs import endpoints as job_endpoints
from monolite.jobs import queue_endpoints, schedule_endpoints
from monolite.jobs.calling import Caller
from monolite.jobs.core import EXPIRY_INTERVAL_S as JOB_EXPIRY_INTERVAL_S
from monolite.jobs.core import RESCUE_INTERVAL_S, Jobs
from monolite.jobs.engine import JobEngine
from monolite.jobs.schedules import Schedules
from monolite.locks import endpoints as lock_endpoints
from monolite.locks.core import SWEEP_INTERVAL_S, Locks
from monolite.locks.lock import Waits
from monolite.models.embedding import Embedding
from monolite.models.threads import EncoderThreads
from monolite.operator import endpoints as operator_endpoints
from monolite.operator import triggers
from monolite.operator.health import Check, Readiness
from monolite.operator.metrics import Metrics
from monolite.search import endpoints as search_endpoints
from monolite.search.core import Search
from monolite.search.engine import SearchEngine
from monolite.search.following import Followers
from monolite.settings import Settings
from monolite.storage.data_directory import DataDirectory, DirectoryLock
from monolite.storage.disk import disk_space
from monolite.storage.errors import StorageError
from monolite.streams import endpoints as stream_endpoints
from monolite.streams import group_endpoints
from monolite.streams.groups import Groups
from monolite.streams.log import Streams
from monolite.sync import endpoints as sync_endpoints
from monolite.sync.channels import Channels
from monolite.sync.core import Place, Relay
from monolite.sync.entry import Limits
from monolite.sync.places import CursorPlaces
from monolite.tenancy import endpoints as tenancy_endpoints
from monolite.tenancy.authentication import Authenticator
from monolite.tenancy.core import Tenancy
from monolite.tenancy.installation import (
    InstallationFacts,
    find_secret,
    settle_operator_key,
    settle_secret,
)
from monolite.tenancy.news import KeyNews
from monolite.tenancy.portability import Portability
from monolite.tenancy.secret import RootSecret
from monolite.tenancy.tokens import TokenSigner
from monolite.waiting import Lines
from monolite.web import openapi
from monolite.web.application import Application
from monolite.web.call import Call
from monolite.web.cursors import Cursors
from monolite.web.endpoint import Pipeline
from monolite.web.idempotency import Idempotency
from monolite.web.live import LiveConnections
from monolite.web.operation import Operation
from monolite.web.outlets import IN_FLIGHT_BYTES_MAX, Budget, Outlets
from monolite.webhooks import endpoints as webhook_endpoints
from monolite.webhooks.dispatch import Dispatcher

log = logging.getLogger("monolite")

_PURGE_INTERVAL_S = 60.0
"""How often expired idempotent answers go."""

_USAGE_INTERVAL_S = 10.0
"""How often the use of indexes is written down."""

_EXPIRY_INTERVAL_S = 3600.0
"""How often old changes go."""


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
        self.outlets = Outlets()
        self.channels: Channels
        self.engines: Engines
        self.facts: InstallationFacts
        self.tenancy: Tenancy
        self.readiness: Readiness
        self.operator_key: str
        self.dispatcher: Dispatcher | None = None
        self._caller: Caller | None = None
        self.app: Application
        kernels.prefer(settings.kernels)
        self._encoders = EncoderThreads(models_of(settings, directory))
        self._embedding = Embedding(self._encoders)
        self._followers: Followers | None = None
        self.job_lines = Lines()
        self._jobs: Jobs | None = None
        self._schedules: Schedules | None = None
        self._locks: Locks | None = None
        self._router: Router | None = None
        self._headroom = HeadroomReader(time.monotonic)
        self._chat = chat_of(settings, directory, self._headroom)

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
        self.engines = await self._open_engines()
        try:
            await self._build_upon(self.engines, secret, may_rotate_secret)
        except BaseException:
            await self.engines.close()
            raise

    async def _build_upon(
        self, engines: Engines, secret: RootSecret | None, may_rotate_secret: bool
    ) -> None:
        self.facts = engines.facts
        settled = await settle_secret(
            self.directory, self.facts, secret, may_rotate=may_rotate_secret
        )
        tokens = TokenSigner(settled, self.clock, self.identifiers)
        pepper = settled.draw("key-pepper")
        authenticator = Authenticator(
            engines.tenancy, pepper, tokens, self.clock, self.settings.rate_limit
        )
        self.tenancy = Tenancy(
            engines.tenancy,
            tokens,
            pepper,
            self.clock,
            self.identifiers,
            changed=authenticator.forget,
            key_ended=self.live.end_key,
            tenant_ended=self.live.end_tenant,
            erase=None if engines.streams is None else engines.streams.erase_tenant,
        )
        self._idempotency = Idempotency(engines.idempotency, self.clock)
        await engines.begin(
            KeyNews(
                engines.tenancy,
                self.clock,
                forget=authenticator.forget,
                end_key=self.live.end_key,
                end_tenant=self.live.end_tenant,
                open_keys=self.live.key_ids,
            )
        )
        self.operator_key = await settle_operator_key(self.directory, self.facts, self.tenancy)
        await self.tenancy.recover()
        pipeline = Pipeline(
            authenticator=authenticator,
            idempotency=self._idempotency,
            live=self.live,
            clock=self.clock,
            barrier=engines.barrier if self.settings.replica_url else None,
            outlets=self.outlets,
            ride=Outbox(engines.streams).ride,
            guard=guarded_by(engines.locks, engines.streams, self.clock),
            log_requests=self.settings.log_requests,
        )
        operations = self._operations(
            authenticator,
            Portability(self.tenancy, engines.archives),
            Cursors(settled.draw("cursors")),
            settled,
        )
        self.app = Application(operations, pipeline, starts_at_once=engines.answers_at_once)

    async def _open_engines(self) -> Engines:
        if self.settings.database_url is not None:
            from monolite.assembly_postgres import open_engines

            engines: Any = await open_engines(self.settings, self.directory, self.clock)
        else:
            from monolite.assembly_sqlite import SqliteEngines

            engines = SqliteEngines(self.settings, self.directory, self.clock)
        try:
            await settle_streams(engines, self.settings.streams_url, self.clock)
        except BaseException:
            await engines.close()
            raise
        opened: Engines = engines
        return opened

    def _operations(
        self,
        authenticator: Authenticator,
        portability: Portability,
        cursors: Cursors,
        secret: RootSecret,
    ) -> list[Operation]:
        streams = self.engines.streams
        figures = [
            *self.engines.figures(),
            *([] if streams is None else streams.figures()),
            *triggers.shared_figures(),
        ]
        self.readiness = Readiness(
            {
                **self.engines.checks(),
                **({} if streams is None else streams.checks()),
                "disk": self._check_disk,
            }
        )

        async def is_trusted(call: Call) -> bool:
            if call.is_from_loopback:
                return True
            try:
                return (
                    await authenticator.authenticate(call.headers.get(b"authorization"))
                ).is_operator
            except (Unauthenticated, StorageError):
                return False

        operations: list[Operation] = []
        document = cache(lambda: msgspec.json.encode(openapi.document(operations)))
        operations += operator_endpoints.operations(
            readiness=self.readiness,
            metrics=Metrics(
                lambda: self.app.endpoints,
                self._gauges,
                self._counters,
                lambda: {} if self._router is None else self._router.routed,
            ),
            status=lambda: self._status(figures),
            triggers=lambda: triggers.read(figures),
            openapi=document,
            drill=self.engines.drill,
            is_trusted=is_trusted,
        )
        operations += self._document_operations(self.engines.documents, cursors)
        operations += self._search_operations(self.engines.search, cursors)
        operations += inference_endpoints.operations(Embeddings(self._encoders), self._chat.models)
        self._router = router = routing.make_router(
            self.settings,
            self.engines.budget,
            self._chat,
            secret,
            self.clock,
            self.identifiers,
            self._headroom,
            routing.budget_news(streams),
        )
        operations += tenancy_endpoints.operations(
            self.tenancy, portability, cursors, routing.key_classes(router.ledger)
        )
        operations += routing.operations(router, self._chat, cursors, self.clock, self.identifiers)
        operations += adapter_operations(
            self._chat, self.engines.adapters, self.clock, self.settings.adapter_bytes_max
        )
        operations += self._sync_operations(cursors)
        if (streams := self.engines.streams) is not None:
            operations += self._stream_operations(streams, cursors, secret)
        if self.engines.jobs is not None:
            operations += self._job_operations(self.engines.jobs, cursors, secret)
        if self.engines.locks is not None:
            self._locks = Locks(
                self.engines.locks,
                self.clock,
                alert_s=self.settings.lock_wait_alert_s,
                told=told_by(self.engines.streams),
            )
            operations += lock_endpoints.operations(self._locks, cursors, self.clock)
        return operations

    def _job_operations(
        self, engine: JobEngine, cursors: Cursors, secret: RootSecret
    ) -> list[Operation]:
        self._jobs = jobs = Jobs(
            engine,
            self.job_lines,
            self.clock,
            self.identifiers,
            secret=lambda: int.from_bytes(os.urandom(8)) >> 1,
            payload_bytes_max=self.settings.job_bytes_max,
        )
        self._schedules = schedules = Schedules(engine, self.clock, self.identifiers)
        engine.follow(jobs.changed, schedules.moved)
        calls = JobCalls(secret, self.clock, self.settings.allow_private_webhooks)
        self._caller = Caller(jobs, engine, calls.post)
        return [
            *job_endpoints.operations(jobs, calls.check, calls.secret_of),
            *queue_endpoints.operations(jobs, cursors),
            *schedule_endpoints.operations(schedules, jobs, cursors),
        ]

    def _sync_operations(self, cursors: Cursors) -> list[Operation]:
        settings, engine = self.settings, self.engines.sync
        places = CursorPlaces(cursors)
        self.channels = Channels(
            engine,
            Budget(IN_FLIGHT_BYTES_MAX),
            lambda key, epoch, floor: lambda seq: places.cursor(key, Place(epoch, seq, floor)),
        )
        limits = Limits(
            blob_bytes_max=settings.sync_blob_bytes_max,
            entry_count_max=settings.sync_entry_count_max,
            document_count_max=settings.sync_document_count_max,
            listener_count_max=settings.sync_listener_count_max,
        )
        return sync_endpoints.operations(
            Relay(engine, self.channels, places, self.clock, limits),
            cursors,
            blob_bytes_max=settings.sync_blob_bytes_max,
            ephemeral_bytes_max=settings.sync_ephemeral_bytes_max,
            grace_s=settings.sync_grace_s,
        )

    def _stream_operations(
        self, streams: Streaming, cursors: Cursors, secret: RootSecret
    ) -> list[Operation]:
        settings, clock = self.settings, self.clock
        log = Streams(streams.log)
        webhooks, self.dispatcher = make_webhooks(
            streams,
            self.engines.webhooks,
            secret,
            clock,
            self.identifiers,
            settings.allow_private_webhooks,
        )
        log.deleted.append(webhooks.stream_deleted)
        return [
            *stream_endpoints.operations(
                log,
                cursors,
                clock.now_ms,
                event_bytes_max=settings.event_bytes_max,
                append_bytes_max=settings.append_bytes_max,
            ),
            *group_endpoints.operations(
                Groups(streams.groups, clock),
                clock.now_ms,
                lambda call: self.live.registered(call.principal),
            ),
            *webhook_endpoints.operations(webhooks, cursors),
        ]

    def _document_operations(self, engine: KeptDocuments, cursors: Cursors) -> list[Operation]:
        settings = self.settings
        documents = Documents(
            engine, self.clock, self.identifiers, line_bytes_max=settings.document_bytes_max
        )
        return [
            *document_endpoints.operations(
                documents, cursors, settings.document_bytes_max, settings.import_bytes_max
            ),
            *collection_endpoints.operations(Collections(engine, self.clock), cursors, self.clock),
        ]

    def _search_operations(self, engine: SearchEngine, cursors: Cursors) -> list[Operation]:
        self._followers = Followers(engine, self._embedding, self.engines.documents, self.clock)
        search = Search(engine, self._embedding, self.clock, self._followers)
        return search_endpoints.operations(search, cursors, self.settings.import_bytes_max)

    # ── What the operator sees ─────────────────────────────────────────────────────────────────

    def _check_disk(self) -> Check:
        free = disk_space(self.directory.path).free_bytes
        least = self.settings.disk_bytes_min
        if free < least:
            return Check(False, f"{free} bytes are free, under {least}: free some space")
        return Check(True, f"{free} bytes are free")

    async def _status(self, figures: list[triggers.Figure]) -> operator_endpoints.Status:
        return operator_endpoints.Status(
            version=__version__,
            uptime_s=round(time.monotonic() - self.started_at, 3),
            engine={**self.engines.describe(), "live_connections": self.live.count},
            replication=self.engines.replication(),
            kernels=kernels.description(),
            headroom=round(self._headroom(), 3),
            triggers=triggers.read(figures),
            budget=await routing.cloud_budget(self._router),
        )

    def _gauges(self) -> Measures:
        streams = self.engines.streams
        waits = Waits(0, 0) if self._locks is None else self._locks.waits()
        return {
            **self.engines.gauges(),
            **({} if streams is None else streams.gauges()),
            "lock_waiters": ("Who waits for a lock.", waits.count),
            "lock_wait_seconds_max": ("The longest wait for a lock.", waits.longest_ms / 1000),
            "disk_free_bytes": ("Free space.", disk_space(self.directory.path).free_bytes),
            "live_connections": ("Open streams and sockets.", self.live.count),
            "job_claims_waiting": ("Workers that wait for a job.", self.job_lines.count),
            "headroom": ("What is left of the machine, of 1.", self._headroom()),
            "inference_running": ("Answers being decoded.", self._chat.running_count),
            "inference_waiting": ("Answers that wait to be decoded.", self._chat.waiting_count),
            "sync_listeners": ("Who follows a document.", self.channels.listener_count),
        }

    def _counters(self) -> Measures:
        streams = self.engines.streams
        return {
            **self.engines.counters(),
            **({} if streams is None else streams.counters()),
            "lock_long_waits": (
                "Waits for a lock past MONOLITE_LOCK_WAIT_ALERT_S.",
                0 if self._locks is None else self._locks.long_waits_total,
            ),
            "tokens_decoded": ("Tokens of answers.", self._chat.decoded_total),
            "sync_entries_delivered": (
                "Entries brought to listeners.",
                self.channels.delivered_total,
            ),
            "slow_clients": (
                "Streams ended since their client took nothing.",
                self.outlets.slow_total,
            ),
        }

    # ── Its life ───────────────────────────────────────────────────────────────────────────────

    def run_in_background(
        self, work: Callable[[], Awaitable[None]], every_s: float, *, at_once: bool = False
    ) -> None:
        """Repeat `work` until the installation closes, first after `every_s` or `at_once`; a
        failure is logged and tried again.
        """

        async def repeat() -> None:
            if not at_once:
                await asyncio.sleep(every_s)
            while True:
                try:
                    await work()
                except Exception:
                    log.exception("background work failed")
                await asyncio.sleep(every_s)

        self._tasks.append(asyncio.get_running_loop().create_task(repeat()))

    async def start_serving(self) -> None:
        """Begin what a serving process does beside serving: replication and upkeep."""
        await self.engines.start_serving(self.run_in_background)

        async def purge() -> None:
            while await self._idempotency.purge() > 0:  # noqa: ASYNC110
                await asyncio.sleep(0)

        self.run_in_background(purge, _PURGE_INTERVAL_S)
        if self.engines.streams is not None:
            self.engines.streams.start_serving(self.run_in_background)
        if self._caller is not None:
            self._tasks.append(asyncio.get_running_loop().create_task(self._caller.run()))
        if self.dispatcher is not None:
            self._tasks.append(asyncio.get_running_loop().create_task(self.dispatcher.run()))
        if (router := self._router) is not None:
            sweep = routing.sweep(router, self.settings)
            self.run_in_background(sweep, routing.SWEEP_INTERVAL_S, at_once=True)
        documents = self.engines.documents
        self.run_in_background(documents.flush_usage, _USAGE_INTERVAL_S)
        # At once, since a server may never live as long as the interval.
        self.run_in_background(documents.expire_changes, _EXPIRY_INTERVAL_S, at_once=True)
        sync = self.engines.sync
        self.run_in_background(sync.expire, _EXPIRY_INTERVAL_S, at_once=True)
        loop = asyncio.get_running_loop()
        for engine in (documents, sync, self.engines.search):
            self._tasks.append(loop.create_task(_keep_up(engine)))
        self._start_jobs(loop)
        if self._locks is not None:
            self.run_in_background(self._locks.sweep, SWEEP_INTERVAL_S, at_once=True)
        if self._followers is not None:
            self._tasks.append(loop.create_task(self._followers.run()))

    def _start_jobs(self, loop: asyncio.AbstractEventLoop) -> None:
        engine = self.engines.jobs
        if engine is None or self._jobs is None or self._schedules is None:
            return

        async def expire() -> None:
            retention_s = self.settings.job_retention_s
            while await engine.expire(self.clock.now_ms(), retention_s):  # noqa: ASYNC110
                await asyncio.sleep(0.01)

        self.run_in_background(self._jobs.rescue, RESCUE_INTERVAL_S)
        self.run_in_background(expire, JOB_EXPIRY_INTERVAL_S, at_once=True)
        self._tasks.append(loop.create_task(self._schedules.run()))

    def stop_waiting(self) -> None:
        """The server stops: whoever waits for something to come is answered now."""
        self.job_lines.close()
        self.channels.stop_waiting()
        if self._locks is not None:
            self._locks.close()

    async def _write_usage(self) -> None:
        try:
            await self.engines.documents.flush_usage()
        except StorageError as error:
            log.error("the last use of indexes was not written: %s", error)

    async def close(self) -> None:
        """Commit what was accepted, let the replica catch up, and give the directory back."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._tasks:
            await self._write_usage()
        self.channels.close()
        await self._chat.close()
        await self._encoders.close()
        await self.engines.close()
        self._lock.release()


async def _keep_up(engine: Kept) -> None:
    """Work off what an engine has put off, a slice at a time, leaving others half of the time.

    It begins with what a server before this one left.
    """
    while True:
        engine.work_waits.clear()
        try:
            started = time.monotonic()
            while await engine.upkeep():
                await asyncio.sleep(time.monotonic() - started)
                started = time.monotonic()
            # Another server on the same database may have left some behind.
            with suppress(TimeoutError):
                await asyncio.wait_for(engine.work_waits.wait(), _PURGE_INTERVAL_S)
        except Exception:
            log.exception("upkeep failed; it is tried again")
            await asyncio.sleep(_PURGE_INTERVAL_S)
