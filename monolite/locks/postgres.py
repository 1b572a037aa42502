"""Locks in PostgreSQL.

Who looks at a lock first takes a transaction's advisory lock on its name's hash, which orders them,
works behind a pooler, and can't be left behind. Two names with one hash wait for each other for
that instant; what is compared is the whole name.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

import msgspec

from monolite.locks.engine import Freed
from monolite.locks.lock import Busy, Held, Listed, Name, Waiter
from monolite.locks.within import LockWish, check
from monolite.storage.errors import StorageError
from monolite.storage.postgres.notifications import Notifications
from monolite.storage.postgres.pool import Pool

TENANT_TABLES = ("lock_waiters", "locks", "lock_tokens")
CHANNEL = "monolite_locks"
TOKENS_PER_MS = 1000
ALIVE_MS = 12_000
"""How long a place in line is kept without a word from its server."""

log = logging.getLogger("monolite.locks")

_FIND = (
    "SELECT owner, token, acquired_at, expires_at FROM locks"
    " WHERE tenant_id = $1 AND namespace = $2 AND key = $3"
)
_ORDER = "SELECT pg_advisory_xact_lock(hashtextextended($1::bigint || ' ' || $2 || '/' || $3, 7))"


class PostgresLockEngine:
    """The LockEngine of several servers."""

    def __init__(self, pool: Pool, notifications: Notifications) -> None:
        self._pool = pool
        self._freed: Freed = lambda _: None
        self._telling: set[asyncio.Task[None]] = set()
        notifications.listen(CHANNEL, self._received, lambda: self._freed(None))

    async def stop(self) -> None:
        """Finish telling other servers."""
        await asyncio.gather(*self._telling, return_exceptions=True)

    async def acquire(
        self, name: Name, owner: str, ttl_ms: int, now_ms: int, ticket: int | None = None
    ) -> Held | Busy:
        async def work(connection: Any) -> Held | Busy:
            await connection.execute(_ORDER, *name)
            row = await connection.fetchrow(_FIND, *name)
            held = None if row is None else Held(*row)
            if held is not None and held.expires_at > now_ms and held.owner == owner:
                return await _hold(connection, name, held._replace(expires_at=now_ms + ttl_ms))
            first = await connection.fetchval(
                "SELECT min(ticket) FROM lock_waiters WHERE tenant_id = $1 AND namespace = $2"
                " AND key = $3 AND alive_until > $4",
                *name,
                now_ms,
            )
            if ticket is not None:
                await connection.execute(
                    "UPDATE lock_waiters SET alive_until = $2 WHERE ticket = $1",
                    *(ticket, now_ms + ALIVE_MS),
                )
            if held is not None and held.expires_at > now_ms:
                return Busy(held.owner, held.expires_at if first == ticket else None)
            if first not in (None, ticket):
                return Busy(None, None)
            token = await connection.fetchval(
                "INSERT INTO lock_tokens AS t VALUES ($1, $2) ON CONFLICT (tenant_id) DO UPDATE"
                " SET last = greatest(t.last + 1, excluded.last) RETURNING last",
                *(name.tenant_id, now_ms * TOKENS_PER_MS),
            )
            return await _hold(connection, name, Held(owner, token, now_ms, now_ms + ttl_ms))

        return await self._pool.transaction(work)

    async def within(self, transaction: Any, name: Name, wish: LockWish, now_ms: int) -> None:
        # Whoever wants the lock waits at the same advisory lock for the end of this transaction.
        await transaction.execute(_ORDER, *name)
        row = await transaction.fetchrow(_FIND, *name)
        check(wish, None if row is None else Held(*row), now_ms)

    async def renew(
        self, name: Name, owner: str, token: int, ttl_ms: int, now_ms: int
    ) -> Held | None:
        row = await self._pool.fetchrow(
            "UPDATE locks SET expires_at = $6 WHERE tenant_id = $1 AND namespace = $2 AND key = $3"
            " AND owner = $4 AND token = $5 AND expires_at > $7"
            " RETURNING owner, token, acquired_at, expires_at",
            *(*name, owner, token, now_ms + ttl_ms, now_ms),
        )
        return None if row is None else Held(*row)

    async def release(self, name: Name, owner: str, token: int, now_ms: int) -> bool:
        gone = await self._pool.fetchval(
            "DELETE FROM locks WHERE tenant_id = $1 AND namespace = $2 AND key = $3 AND owner = $4"
            " AND token = $5 AND expires_at > $6 RETURNING 1",
            *(*name, owner, token, now_ms),
        )
        if gone is not None:
            self._tell(name)
        return gone is not None

    async def stand(self, name: Name, waiter: Waiter, until_ms: int) -> int:
        ticket: int = await self._pool.fetchval(
            "INSERT INTO lock_waiters (tenant_id, namespace, key, owner, since, alive_until)"
            " VALUES ($1, $2, $3, $4, $5, $6) RETURNING ticket",
            *(*name, waiter.owner, waiter.since, waiter.since + ALIVE_MS),
        )
        return ticket

    async def leave(self, name: Name, ticket: int) -> None:
        others = await self._pool.fetchval(
            "WITH gone AS (DELETE FROM lock_waiters WHERE ticket = $4) SELECT count(*)"
            " FROM lock_waiters WHERE tenant_id = $1 AND namespace = $2 AND key = $3"
            " AND ticket <> $4",
            *(*name, ticket),
        )
        if others:
            self._tell(name)

    async def locks(
        self, tenant_id: int, namespace: str | None, after: tuple[str, str], limit: int, now_ms: int
    ) -> Sequence[Listed]:
        rows = await self._pool.fetch(
            "SELECT namespace, key, owner, token, acquired_at, expires_at FROM locks"
            " WHERE tenant_id = $1 AND (namespace, key) > ($2, $3) AND expires_at > $4"
            " AND ($5::text IS NULL OR namespace = $5) ORDER BY namespace, key LIMIT $6",
            *(tenant_id, *after, now_ms, namespace, limit),
        )
        waiters: dict[tuple[str, str], list[Waiter]] = {}
        for row in await self._pool.fetch(
            "SELECT w.namespace, w.key, w.owner, w.since FROM lock_waiters w"
            " JOIN unnest($2::text[], $3::text[]) AS l (namespace, key)"
            " ON w.namespace = l.namespace AND w.key = l.key"
            " WHERE w.tenant_id = $1 AND w.alive_until > $4 ORDER BY w.ticket",
            *(tenant_id, [row[0] for row in rows], [row[1] for row in rows], now_ms),
        ):
            waiters.setdefault((row[0], row[1]), []).append(Waiter(row[2], row[3]))
        return [
            Listed(row[0], row[1], Held(*tuple(row)[2:]), waiters.get((row[0], row[1]), ()))
            for row in rows
        ]

    async def sweep(self, before_ms: int) -> bool:
        await self._pool.fetch("DELETE FROM lock_waiters WHERE alive_until < $1", before_ms)
        await self._pool.fetch("DELETE FROM locks WHERE expires_at < $1", before_ms)
        return False

    def follow(self, freed: Freed) -> None:
        self._freed = freed

    def _tell(self, name: Name) -> None:
        self._freed(name)
        task = asyncio.get_running_loop().create_task(self._notify(name))
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)

    async def _notify(self, name: Name) -> None:
        try:
            payload = msgspec.json.encode(tuple(name)).decode()
            await self._pool.fetch("SELECT pg_notify($1, $2)", CHANNEL, payload)
        except StorageError as error:
            log.warning("other servers were not told, and look by themselves: %s", error)

    def _received(self, payload: str) -> None:
        tenant_id, namespace, key = msgspec.json.decode(payload)
        self._freed(Name(tenant_id, namespace, key))


async def _hold(connection: Any, name: Name, held: Held) -> Held:
    await connection.execute(
        "INSERT INTO locks VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (tenant_id, namespace,"
        " key) DO UPDATE SET owner = $4, token = $5, acquired_at = $6, expires_at = $7",
        *(*name, *held),
    )
    return held
