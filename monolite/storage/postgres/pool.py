"""Connections to one database, and the two ways to use them: a statement, and a transaction.

    rows = await pool.fetch("SELECT … WHERE tenant_id = $1", number)
    made = await pool.transaction(work)     # async def work(connection): …

`work` is run again from its beginning where others got in its way, so it must do nothing that a
rollback doesn't undo. A connection has the search path `monolite` alone and ends any statement
after `statement_deadline_s`; what must take longer asks for `dedicated`.

Connections that come back are not reset, which would cost each use a round trip: change their
state with SET LOCAL and transaction-level locks only.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar
from urllib.parse import urlsplit

import asyncpg

from monolite.storage.errors import (
    QueueFull,
    StorageError,
    StorageUnavailable,
)
from monolite.storage.measures import Latencies, PerSecond
from monolite.storage.postgres.errors import CAUGHT, RETRIED, from_asyncpg, unreachable
from monolite.storage.postgres.sessions import require_sessions

T = TypeVar("T")

SCHEMA = "monolite"
VERSION_MIN = 16
ATTEMPTS_MAX = 8
"""How often a transaction runs before the caller is asked to repeat the request."""

_BACKOFF_S = 0.004
_NETWORK_S = 5.0
"""How much longer than PostgreSQL's own deadline an answer is waited for."""


@dataclass(frozen=True, slots=True)
class PoolStats:
    """What the pool did and does. `read_p99_s` is of statements outside transactions."""

    connection_count: int
    connection_count_max: int
    idle_count: int
    transactions_total: int
    retries_total: int
    failures_total: int
    deadlines_total: int
    read_p99_s: float
    sustained_transactions_per_s: float


class Pool:
    """At most `connection_count_max` connections, which `setting` says; `open` it before use."""

    def __init__(
        self,
        url: str,
        *,
        connection_count_max: int = 16,
        setting: str = "MONOLITE_DATABASE_CONNECTIONS",
        statement_deadline_s: float = 30.0,
        connect_timeout_s: float = 5.0,
        monotonic: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.url = url
        self.version = ""
        self._connection_count_max = connection_count_max
        self._setting = setting
        self._statement_deadline_s = statement_deadline_s
        self._connect_timeout_s = connect_timeout_s
        self._monotonic = monotonic
        self._jitter = jitter
        self._pool: Any = None
        self._reads = Latencies()
        self._rate = PerSecond(monotonic)
        self._transactions = self._retries = self._failures = self._deadlines = 0

    async def open(self) -> None:
        """Connect once, to learn whether this database will do.

        Raises:
            StorageError: it can't be reached, refuses the user, is older than PostgreSQL 16, or
                isn't in UTF-8, or a pooler lends sessions by the transaction; the message names the
                address and never the password.
        """
        async with self.dedicated() as connection, self.dedicated() as other:
            await require_sessions(connection, other, self.address)
            version = connection.get_server_version()
            shown = await connection.fetchval("SHOW server_version")
            encoding = await connection.fetchval("SHOW server_encoding")
        if version.major < VERSION_MIN:
            raise StorageUnavailable(
                f"{self.address} is PostgreSQL {version.major}, and {VERSION_MIN} or later is "
                "needed: upgrade it, or name another in MONOLITE_DATABASE_URL"
            )
        if encoding != "UTF8":
            raise StorageUnavailable(
                f"the database at {self.address} is encoded in {encoding}: make one with "
                "`createdb --encoding=UTF8 --template=template0` and name it in "
                "MONOLITE_DATABASE_URL"
            )
        self.version = shown.split()[0]
        self._pool = await asyncpg.create_pool(
            self.url,
            min_size=0,
            max_size=self._connection_count_max,
            max_inactive_connection_lifetime=300.0,
            timeout=self._connect_timeout_s,
            command_timeout=self._statement_deadline_s + _NETWORK_S,
            reset=_keep,
            init=partial(_settle, statement_deadline_s=self._statement_deadline_s),
        )

    async def close(self) -> None:
        """Wait shortly for what runs, then end every connection."""
        if self._pool is None:
            return
        try:
            async with asyncio.timeout(_NETWORK_S):
                await self._pool.close()
        except CAUGHT:
            self._pool.terminate()

    @property
    def address(self) -> str:
        """Host, port and database of the URL: what may be shown."""
        try:
            parts = urlsplit(self.url)
            return f"{parts.hostname or 'the local socket'}:{parts.port or 5432}{parts.path}"
        except ValueError:
            return "the address in MONOLITE_DATABASE_URL"

    # ── Statements ─────────────────────────────────────────────────────────────────────────────

    async def fetch(self, statement: str, *values: Any, deadline_s: float | None = None) -> Any:
        """Every row. Raises ReadDeadline after `deadline_s`, else after the pool's own."""
        started = self._monotonic()
        async with self.connection() as connection:
            rows = await connection.fetch(statement, *values, timeout=deadline_s)
        self._reads.add(self._monotonic() - started)
        return rows

    async def fetchrow(self, statement: str, *values: Any, deadline_s: float | None = None) -> Any:
        """The first row, or None. Raises as `fetch` does."""
        started = self._monotonic()
        async with self.connection() as connection:
            row = await connection.fetchrow(statement, *values, timeout=deadline_s)
        self._reads.add(self._monotonic() - started)
        return row

    async def fetchval(self, statement: str, *values: Any, deadline_s: float | None = None) -> Any:
        """The first row's first value, or None. Raises as `fetch` does."""
        row = await self.fetchrow(statement, *values, deadline_s=deadline_s)
        return None if row is None else row[0]

    # ── Transactions ───────────────────────────────────────────────────────────────────────────

    async def transaction(
        self, work: Callable[[Any], Awaitable[T]], *, isolation: str | None = None
    ) -> T:
        """Run `work` in a transaction and commit it; again, where it lost against others.

        `isolation` is asyncpg's word (`serializable`, `repeatable_read`), else read committed. An
        exception of `work` rolls back and is raised as it is.

        Raises:
            DatabaseUnavailable: the connection was lost, where a commit may have been carried out
                or not, or others won `ATTEMPTS_MAX` times.
            StorageError: any other failure of the database.
        """
        attempt = 1
        while True:
            try:
                async with self.connection() as connection:
                    async with connection.transaction(isolation=isolation):
                        result = await work(connection)
                    self._transactions += 1
                    self._rate.add(1)
                    return result
            except StorageError as error:
                if attempt >= ATTEMPTS_MAX or not isinstance(error.__cause__, RETRIED):
                    raise
            self._retries += 1
            await asyncio.sleep(_BACKOFF_S * 2**attempt * self._jitter())
            attempt += 1

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Any]:
        """One of the pool's connections; the database's failures come out as StorageError.

        Raises QueueFull where none comes free in time.
        """
        connection = await self._acquire()
        try:
            yield connection
        except CAUGHT as error:
            failure = self._failure(error, is_closed=connection.is_closed())
            if failure is None:
                raise
            raise failure from error
        finally:
            await self._give_back(connection)

    @asynccontextmanager
    async def dedicated(self, statement_deadline_s: float = 0.0) -> AsyncIterator[Any]:
        """A connection beside the pool, for what takes long or holds a session's lock; 0 is no
        deadline.
        """
        try:
            connection = await asyncpg.connect(self.url, timeout=self._connect_timeout_s)
            await _settle(connection, statement_deadline_s)
        except (*CAUGHT, ValueError) as error:
            raise self._cannot_connect(error) from error
        try:
            yield connection
        except CAUGHT as error:
            failure = self._failure(error, is_closed=connection.is_closed())
            if failure is None:
                raise
            raise failure from error
        finally:
            try:
                await connection.close(timeout=_NETWORK_S)
            except CAUGHT:
                connection.terminate()

    def stats(self) -> PoolStats:
        """Figures for the operator."""
        pool = self._pool
        return PoolStats(
            connection_count=0 if pool is None else pool.get_size(),
            connection_count_max=self._connection_count_max,
            idle_count=0 if pool is None else pool.get_idle_size(),
            transactions_total=self._transactions,
            retries_total=self._retries,
            failures_total=self._failures,
            deadlines_total=self._deadlines,
            read_p99_s=self._reads.snapshot().quantile_s(0.99),
            sustained_transactions_per_s=self._rate.sustained(),
        )

    async def _acquire(self) -> Any:
        pool = self._pool
        try:
            return await pool.acquire(timeout=self._connect_timeout_s)
        except TimeoutError as error:
            self._failures += 1
            if pool.get_idle_size() == 0 and pool.get_size() >= self._connection_count_max:
                raise QueueFull(
                    "every connection to PostgreSQL is at work: repeat the request, or raise "
                    f"{self._setting}"
                ) from error
            raise unreachable() from error
        except CAUGHT as error:
            failure = self._failure(error, is_closed=True)
            if failure is None:
                raise
            raise failure from error

    async def _give_back(self, connection: Any) -> None:
        try:
            await self._pool.release(connection)
        except CAUGHT:
            # asyncpg has ended it already; the next acquire makes another.
            self._failures += 1

    def _failure(self, error: BaseException, *, is_closed: bool) -> StorageError | None:
        failure = from_asyncpg(error, is_closed=is_closed)
        if failure is None:
            return None
        if isinstance(error, (asyncpg.QueryCanceledError, TimeoutError)):
            self._deadlines += 1
        elif not isinstance(error, RETRIED):
            self._failures += 1
        return failure

    def _cannot_connect(self, error: BaseException) -> StorageError:
        if isinstance(error, (ValueError, asyncpg.ClientConfigurationError)):
            return StorageUnavailable(
                f"MONOLITE_DATABASE_URL can't be used: {error}. It is like "
                "postgresql://user:password@host:5432/database"
            )
        failure = from_asyncpg(error, is_closed=True)
        if type(failure) is StorageUnavailable:
            return StorageUnavailable(f"{self.address}: {failure}")
        reason = str(error) or f"no answer in {self._connect_timeout_s:g} s"
        return StorageUnavailable(
            f"PostgreSQL at {self.address} can't be reached ({reason}): start it, or correct "
            "MONOLITE_DATABASE_URL"
        )


async def _keep(connection: Any) -> None:
    """Leave a connection's session as it is when it comes back."""


async def _settle(connection: Any, statement_deadline_s: float) -> None:
    """Make a new connection's session ours. Not by parameters of its start, which PgBouncer
    refuses.
    """
    # A server that hangs inside a transaction must not keep others' locks waiting; compiling
    # costs more than any statement of ours takes.
    await connection.execute(
        f"SET application_name = monolite; SET search_path = {SCHEMA};"
        f" SET statement_timeout = {round(statement_deadline_s * 1000)};"
        " SET idle_in_transaction_session_timeout = 60000; SET jit = off; SET timezone = 'UTC'"
    )
