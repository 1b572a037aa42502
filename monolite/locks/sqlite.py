"""Locks in SQLite."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import partial
from typing import Any

import apsw

from monolite.locks.engine import Freed
from monolite.locks.lock import Busy, Held, Listed, Name, Waiter
from monolite.locks.within import LockWish, check
from monolite.storage.sqlite.readers import Readers
from monolite.storage.sqlite.writer import Writer

TENANT_TABLES = ("locks", "lock_tokens")

TOKENS_PER_MS = 1000
"""A number is at least the time in ms times this: a database restored from an older copy gives no
number twice.
"""

SWEPT_AT_ONCE = 1000

_FIND = (
    "SELECT owner, token, acquired_at, expires_at FROM locks"
    " WHERE tenant_id = ? AND namespace = ? AND key = ?"
)


class SqliteLockEngine:
    """The embedded LockEngine. Lines are in memory: no other process has waiters."""

    def __init__(self, writer: Writer, readers: Readers) -> None:
        self._writer = writer
        self._readers = readers
        self._tickets = itertools.count(1)
        self._lines: dict[Name, dict[int, Waiter]] = {}
        self._freed: Freed = lambda _: None
        self._let_go: list[Name] = []
        writer.on_commit.append(self._tell)

    async def acquire(
        self, name: Name, owner: str, ttl_ms: int, now_ms: int, ticket: int | None = None
    ) -> Held | Busy:
        found = _find(self._readers.inline, name)
        if found is not None and found.owner != owner and found.expires_at > now_ms:
            return self._busy(name, found, ticket)

        def work(connection: apsw.Connection) -> Held | Busy:
            held = _find(connection, name)
            if held is not None and held.expires_at > now_ms:
                if held.owner != owner:
                    return self._busy(name, held, ticket)
                return _hold(connection, name, held._replace(expires_at=now_ms + ttl_ms))
            if not self._is_first(name, ticket):
                return Busy(None, None)
            token = _next_token(connection, name.tenant_id, now_ms)
            return _hold(connection, name, Held(owner, token, now_ms, now_ms + ttl_ms))

        return await self._writer.submit(work, is_prompt=True)

    def within(self, transaction: Any, name: Name, wish: LockWish, now_ms: int) -> None:
        # There is one writer: nobody takes the lock before this transaction ends.
        check(wish, _find(transaction, name), now_ms)

    async def renew(
        self, name: Name, owner: str, token: int, ttl_ms: int, now_ms: int
    ) -> Held | None:
        def work(connection: apsw.Connection) -> Held | None:
            held = _find(connection, name)
            if held is None or (held.owner, held.token) != (owner, token):
                return None
            if held.expires_at <= now_ms:
                return None
            return _hold(connection, name, held._replace(expires_at=now_ms + ttl_ms))

        return await self._writer.submit(work, is_prompt=True)

    async def release(self, name: Name, owner: str, token: int, now_ms: int) -> bool:
        def work(connection: apsw.Connection) -> bool:
            connection.execute(
                "DELETE FROM locks WHERE tenant_id = ? AND namespace = ? AND key = ?"
                " AND owner = ? AND token = ? AND expires_at > ?",
                (*name, owner, token, now_ms),
            )
            released = connection.changes() > 0
            if released:
                self._let_go.append(name)
            return released

        return await self._writer.submit(work, is_prompt=True)

    async def stand(self, name: Name, waiter: Waiter, until_ms: int) -> int:
        ticket = next(self._tickets)
        self._lines.setdefault(name, {})[ticket] = waiter
        return ticket

    async def leave(self, name: Name, ticket: int) -> None:
        line = self._lines[name]
        del line[ticket]
        if not line:
            del self._lines[name]

    async def locks(
        self, tenant_id: int, namespace: str | None, after: tuple[str, str], limit: int, now_ms: int
    ) -> Sequence[Listed]:
        def read(connection: apsw.Connection) -> Sequence[tuple[Any, ...]]:
            return connection.execute(
                "SELECT namespace, key, owner, token, acquired_at, expires_at FROM locks"
                " WHERE tenant_id = ?1 AND (namespace, key) > (?2, ?3) AND expires_at > ?4"
                " AND (?5 IS NULL OR namespace = ?5) ORDER BY namespace, key LIMIT ?6",
                (tenant_id, *after, now_ms, namespace, limit),
            ).fetchall()

        found = []
        for in_namespace, key, *rest in await self._readers.run(read):
            line = self._lines.get(Name(tenant_id, in_namespace, key), {})
            found.append(Listed(in_namespace, key, Held(*rest), list(line.values())))
        return found

    async def sweep(self, before_ms: int) -> bool:
        return await self._writer.submit(partial(_sweep, before_ms=before_ms), is_long=True)

    def follow(self, freed: Freed) -> None:
        self._freed = freed

    def _busy(self, name: Name, held: Held, ticket: int | None) -> Busy:
        is_first = ticket is not None and self._is_first(name, ticket)
        return Busy(held.owner, held.expires_at if is_first else None)

    def _is_first(self, name: Name, ticket: int | None) -> bool:
        line = self._lines.get(name)
        return not line or next(iter(line)) == ticket

    def _tell(self, _: int) -> None:
        let_go, self._let_go = self._let_go, []
        for name in let_go:
            self._freed(name)


def _find(connection: apsw.Connection, name: Name) -> Held | None:
    row: Any = connection.execute(_FIND, name).fetchone()
    return None if row is None else Held(*row)


def _hold(connection: apsw.Connection, name: Name, held: Held) -> Held:
    connection.execute("INSERT OR REPLACE INTO locks VALUES (?, ?, ?, ?, ?, ?, ?)", (*name, *held))
    return held


def _next_token(connection: apsw.Connection, tenant_id: int, now_ms: int) -> int:
    token: Any = connection.execute(
        "INSERT INTO lock_tokens VALUES (?, ?) ON CONFLICT DO UPDATE"
        " SET last = max(last + 1, excluded.last) RETURNING last",
        (tenant_id, now_ms * TOKENS_PER_MS),
    ).fetchall()
    number: int = token[0][0]
    return number


def _sweep(connection: apsw.Connection, before_ms: int) -> bool:
    gone = connection.execute(
        "DELETE FROM locks WHERE (tenant_id, namespace, key) IN (SELECT tenant_id, namespace, key"
        " FROM locks WHERE expires_at < ? LIMIT ?) RETURNING 1",
        (before_ms, SWEPT_AT_ONCE),
    ).fetchall()
    return len(gone) == SWEPT_AT_ONCE
