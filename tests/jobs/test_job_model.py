"""Queues of either engine against a model, with a clock of its own: order, leases, tokens, keys."""

from __future__ import annotations

import asyncio
import itertools
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings, strategies
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from monolite.errors import Conflict
from monolite.jobs.engine import Claim
from monolite.jobs.job import FINAL, Held, NewJob
from monolite.jobs.postgres import PostgresJobEngine
from monolite.jobs.sqlite import SqliteJobEngine
from monolite.storage.postgres.migrate import migrate, shipped_migrations
from monolite.storage.postgres.notifications import Notifications
from monolite.storage.postgres.pool import Pool
from monolite.storage.sqlite.connection import open_reader, open_writer
from monolite.storage.sqlite.migrate import create_database
from monolite.storage.sqlite.readers import Readers
from monolite.storage.sqlite.schema import shipped_schema
from monolite.storage.sqlite.writer import Writer
from tests.postgres_server import PostgresServer

QUEUE = "q"
DELAY_MS = 1000
LIMITS = {"one": 1, "two": 2}


@dataclass
class Modelled:
    """A job as it should be."""

    id: str
    seq: int
    priority: int
    run_at: int
    max_attempts: int
    unique_key: str | None
    concurrency_key: str | None
    state: str
    attempt: int = 0
    secret: int | None = None
    lease_ends: int = 0
    deadline: int | None = None
    timeout_ms: int | None = None


class JobMachine(RuleBasedStateMachine):
    """Every verb, in any order, with tokens that stand and tokens that don't."""

    def __init__(self) -> None:
        super().__init__()
        self.tenant = 1
        self.loop = asyncio.new_event_loop()
        self.make()
        self.now = 1_000_000
        self.numbers = itertools.count(1)
        self.jobs: dict[str, Modelled] = {}
        self.tokens: list[tuple[str, int]] = []
        self.completions: Counter[str] = Counter()
        self.open()

    # ── The store ──────────────────────────────────────────────────────────────────────────────

    engine: Any

    def make(self) -> None:
        """A store that is empty."""
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "monolite.db"
        create_database(self.path, schema=shipped_schema(), now_ms=1)

    def open(self) -> None:
        async def opened() -> None:
            self.writer = Writer(
                lambda: open_writer(self.path, synchronous="normal", autocheckpoint=True),
                loop=self.loop,
                commit_on_loop=True,
            )
            self.writer.start()
            self.readers = Readers(lambda: open_reader(self.path), loop=self.loop)
            self.engine = SqliteJobEngine(self.writer, self.readers, delay=lambda _: DELAY_MS)

        self.loop.run_until_complete(opened())

    def close(self) -> None:
        self.loop.run_until_complete(self.writer.close())
        self.loop.run_until_complete(self.readers.close())

    def remove(self) -> None:
        """The store goes with the example."""
        self.folder.cleanup()

    def teardown(self) -> None:
        self.close()
        self.remove()
        self.loop.close()

    def run(self, awaitable: Any) -> Any:
        async def awaited() -> Any:
            return await awaitable

        return self.loop.run_until_complete(awaited())

    # ── Rules ──────────────────────────────────────────────────────────────────────────────────

    @rule(
        priority=strategies.integers(-2, 2),
        delay=strategies.sampled_from([-5000, 0, 0, 0, 500, 5000]),
        attempts=strategies.integers(1, 3),
        unique=strategies.sampled_from([None, None, None, "u1", "u2"]),
        key=strategies.sampled_from([None, "one", "one", "two"]),
        timeout=strategies.sampled_from([None, 60_000, 60_000, 1500]),
    )
    def add(
        self,
        priority: int,
        delay: int,
        attempts: int,
        unique: str | None,
        key: str | None,
        timeout: int | None,
    ) -> None:
        number = next(self.numbers)
        job = NewJob(
            *(f"job-{number}", str(number), priority, self.now + delay, attempts, timeout, None),
            *(unique, key, LIMITS.get(key or "", 1)),
        )
        (added,) = self.run(self.engine.add(self.tenant, QUEUE, [job], self.now))
        live = [j for j in self.live() if unique is not None and j.unique_key == unique]
        if live:
            assert (added.id, added.is_new) == (live[0].id, False)
            return
        assert (added.id, added.is_new) == (job.id, True)
        state = "scheduled" if delay > 0 else "available"
        self.jobs[job.id] = Modelled(
            *(job.id, number, priority, job.run_at, attempts, unique, key, state),
            timeout_ms=timeout,
        )

    @rule(limit=strategies.integers(1, 4), lease=strategies.sampled_from([100, 1000, 60_000]))
    def claim(self, limit: int, lease: int) -> None:
        self.rescue()
        secret = 1_000_000 + next(self.numbers)
        claimed = self.run(
            self.engine.claim(Claim(self.tenant, QUEUE, "w", limit, lease, self.now, secret))
        )
        expected = []
        running = Counter(j.concurrency_key for j in self.live() if j.state == "running")
        for job in sorted(self.live(), key=lambda j: (-j.priority, j.run_at, j.seq)):
            if len(expected) == limit:
                break
            if job.state == "running" or job.run_at > self.now:
                continue
            key = job.concurrency_key
            if key is not None and running[key] >= LIMITS[key]:
                continue
            running[key] += 1
            expected.append(job)
        assert [one.id for one in claimed.jobs] == [job.id for job in expected]
        for job, one in zip(expected, claimed.jobs, strict=True):
            job.attempt += 1
            job.state, job.secret = "running", secret
            job.deadline = None if job.timeout_ms is None else self.now + job.timeout_ms
            job.lease_ends = min(self.now + lease, job.deadline or self.now + lease)
            assert (one.attempt, one.lease_expires_at) == (job.attempt, job.lease_ends)
            assert one.attempt <= job.max_attempts or job.max_attempts >= job.attempt
            self.tokens.append((job.id, secret))

    @precondition(lambda self: self.tokens)
    @rule(data=strategies.data(), wrong=strategies.sampled_from([False, False, False, True]))
    def complete(self, data: Any, wrong: bool) -> None:
        held = self.held(data, wrong)
        stale = self.run(self.engine.complete(self.tenant, [held], self.now))
        job = self.jobs[held.id]
        if self.stands(held):
            assert list(stale) == []
            job.state, job.secret = "completed", None
            self.completions[job.id] += 1
        else:
            assert [one[0] for one in stale] == [held.id]

    @precondition(lambda self: self.tokens)
    @rule(data=strategies.data(), after=strategies.sampled_from([None, 0, 700]))
    def fail(self, data: Any, after: int | None) -> None:
        held = self.held(data, False)
        stood = self.stands(held)
        try:
            self.run(self.engine.fail(self.tenant, held, "no", after, self.now))
        except Conflict as error:
            assert (stood, error.code) == (False, "lease_lost")  # noqa: PT017
            return
        assert stood
        self.end(self.jobs[held.id], self.now + (DELAY_MS if after is None else after))

    @precondition(lambda self: self.tokens)
    @rule(data=strategies.data(), lease=strategies.sampled_from([200, 5000]))
    def extend(self, data: Any, lease: int) -> None:
        held = self.held(data, False)
        stood = self.stands(held)
        try:
            ends = self.run(self.engine.extend(self.tenant, held, lease, self.now))
        except Conflict:
            assert not stood
            return
        assert stood
        job = self.jobs[held.id]
        job.lease_ends = min(self.now + lease, job.deadline or self.now + lease)
        assert ends == job.lease_ends

    @precondition(lambda self: self.jobs)
    @rule(data=strategies.data())
    def cancel(self, data: Any) -> None:
        job = self.any_job(data)
        try:
            self.run(self.engine.cancel(self.tenant, job.id, self.now))
        except Conflict:
            assert job.state in ("completed", "discarded")
            return
        assert job.state not in ("completed", "discarded")
        job.state, job.secret = "cancelled", None

    @precondition(lambda self: self.jobs)
    @rule(data=strategies.data())
    def retry(self, data: Any) -> None:
        job = self.any_job(data)
        taken = job.state in FINAL and any(
            other.unique_key == job.unique_key is not None for other in self.live()
        )
        try:
            self.run(self.engine.retry(self.tenant, job.id, self.now))
        except Conflict as error:
            expected = "unique_key_taken" if taken else "job_running"
            assert error.code == expected  # noqa: PT017
            assert taken or job.state == "running"
            return
        assert not taken
        assert job.state != "running"
        if job.state in FINAL:
            self.completions[job.id] = 0
        if job.state != "available":
            job.run_at = self.now
            job.max_attempts = max(job.max_attempts, job.attempt + 1)
        job.state = "available"

    @rule(by=strategies.sampled_from([50, 150, 1100, 6000, 100_000]))
    def advance(self, by: int) -> None:
        self.now += by

    @rule()
    def restart(self) -> None:
        self.close()
        self.open()

    # ── The model ──────────────────────────────────────────────────────────────────────────────

    def live(self) -> list[Modelled]:
        return [job for job in self.jobs.values() if job.state not in FINAL]

    def any_job(self, data: Any) -> Modelled:
        return self.jobs[data.draw(strategies.sampled_from(sorted(self.jobs)))]

    def held(self, data: Any, wrong: bool) -> Held:
        job_id, secret = data.draw(strategies.sampled_from(self.tokens))
        return Held(job_id, secret + wrong, None)

    def stands(self, held: Held) -> bool:
        job = self.jobs[held.id]
        return job.state == "running" and job.secret == held.secret

    def end(self, job: Modelled, run_at: int) -> None:
        job.secret = None
        if job.attempt >= job.max_attempts:
            job.state = "discarded"
        else:
            job.run_at = run_at
            job.state = "available" if run_at <= self.now else "retryable"

    def rescue(self) -> None:
        while self.run(self.engine.rescue(self.now)):
            pass
        for job in self.live():
            if job.state == "running" and job.lease_ends <= self.now:
                self.end(job, min(job.run_at, self.now))

    @invariant()
    def states_and_counts_agree(self) -> None:
        found = Counter()  # type: ignore[var-annotated]
        for job in self.jobs.values():
            shown = self.run(self.engine.job(self.tenant, job.id, self.now))
            expected = job.state
            if expected in ("scheduled", "retryable") and job.run_at <= self.now:
                expected = "available"
            assert shown.state == expected, job
            found[job.state in FINAL or job.state == "running", job.state] += 1
        queue = self.run(self.engine.queue(self.tenant, QUEUE))
        if queue is None:
            assert not self.jobs
            return
        for state in (*FINAL, "running"):
            assert queue.counts[state] == found[True, state], state
        waiting = sum(queue.counts[s] for s in ("scheduled", "available", "retryable"))
        assert waiting == sum(n for (sure, _), n in found.items() if not sure)
        assert all(count <= 1 for count in self.completions.values())


def test_queues_in_sqlite() -> None:
    run_state_machine_as_test(JobMachine, settings=settings_of(60))


def test_queues_in_postgresql(postgres: PostgresServer) -> None:
    url = postgres.new_database()
    tenants = itertools.count(1)

    class PostgresMachine(JobMachine):
        """Each example has a tenant of its own in one database, as one of several servers."""

        def make(self) -> None:
            self.tenant = next(tenants)

        def open(self) -> None:
            async def opened() -> None:
                self.pool = Pool(url)
                await self.pool.open()
                await migrate(self.pool, migrations=shipped_migrations(), now_ms=1)
                name = f"t-{self.tenant}"
                await self.pool.fetch(
                    "INSERT INTO tenants (number, id, name, state, created_at) OVERRIDING SYSTEM"
                    " VALUE VALUES ($1, $2, $2, 'active', 1) ON CONFLICT (number) DO NOTHING",
                    *(self.tenant, name),
                )
                notifications = Notifications(self.pool)
                self.engine = PostgresJobEngine(
                    self.pool, self.pool, notifications, delay=lambda _: DELAY_MS
                )

            self.loop.run_until_complete(opened())

        def close(self) -> None:
            self.loop.run_until_complete(self.engine.stop())
            self.loop.run_until_complete(self.pool.close())

        def remove(self) -> None:
            pass

    run_state_machine_as_test(PostgresMachine, settings=settings_of(20))


def settings_of(examples: int) -> settings:
    return settings(
        max_examples=examples,
        stateful_step_count=40,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
