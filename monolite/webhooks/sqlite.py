"""Webhooks in SQLite."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import apsw

from monolite.storage.sqlite.readers import Readers
from monolite.storage.sqlite.writer import Writer
from monolite.webhooks.rows import ATTEMPT_COLUMNS, COLUMNS, types_text, webhook_of
from monolite.webhooks.webhook import DISABLED, ENABLED, Attempt, Definition, Secrets, Webhook

EXPIRED_AT_ONCE = 1000

_WHERE = "tenant_id = ? AND stream = ? AND name = ?"
_ONE = f"SELECT {COLUMNS} FROM webhooks WHERE {_WHERE}"
_INSERT = (
    f"INSERT INTO webhooks ({COLUMNS})"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, NULL, NULL, ?, ?)"
)
_UPDATE = (
    "UPDATE webhooks SET url = ?, types = ?, order_by = ?, concurrency = ?, rate_per_s = ?,"
    " secret = ?, previous_secret = ?, previous_until = ?, state = ?, reason = NULL,"
    f" failing_since = NULL, updated_at = max(?, updated_at + 1) WHERE {_WHERE}"
)
_RECORD = (
    f"INSERT INTO webhook_attempts (tenant_id, stream, webhook, {ATTEMPT_COLUMNS})"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)


class SqliteWebhookEngine:
    """The embedded WebhookEngine."""

    def __init__(self, writer: Writer, readers: Readers) -> None:
        self._writer = writer
        self._readers = readers

    async def put(
        self,
        tenant_id: int,
        stream: str,
        name: str,
        definition: Definition,
        secrets: Secrets | None,
        now_ms: int,
    ) -> tuple[Webhook, bool]:
        url, _, order_by, concurrency, rate_per_s = definition
        shape = (url, types_text(definition), order_by, concurrency, rate_per_s)
        where = (tenant_id, stream, name)

        def work(connection: apsw.Connection) -> tuple[Webhook, bool]:
            row = connection.execute(_ONE, where).fetchone()
            old = None if row is None else webhook_of(row)
            kept = secrets or (None if old is None else old.secrets)
            assert kept is not None  # a new one is given some
            if old is None:
                connection.execute(_INSERT, (*where, *shape, *kept, ENABLED, now_ms, now_ms))
            else:
                connection.execute(_UPDATE, (*shape, *kept, ENABLED, now_ms, *where))
            row = connection.execute(_ONE, where).fetchone()
            assert row is not None  # it was just written
            return webhook_of(row), old is None

        return await self._writer.submit(work)

    async def get(self, tenant_id: int, stream: str, name: str) -> Webhook | None:
        row = self._readers.inline.execute(_ONE, (tenant_id, stream, name)).fetchone()
        return None if row is None else webhook_of(row)

    async def list(self, tenant_id: int, stream: str) -> Sequence[Webhook]:
        rows = self._readers.inline.execute(
            f"SELECT {COLUMNS} FROM webhooks WHERE tenant_id = ? AND stream = ? ORDER BY name",
            (tenant_id, stream),
        )
        return [webhook_of(row) for row in rows]

    async def enabled(self) -> Sequence[Webhook]:
        rows = self._readers.inline.execute(
            f"SELECT {COLUMNS} FROM webhooks WHERE state = '{ENABLED}'"
        )
        return [webhook_of(row) for row in rows]

    async def delete(self, tenant_id: int, stream: str, name: str | None) -> Sequence[str]:
        def work(connection: apsw.Connection) -> Sequence[str]:
            where = (tenant_id, stream, name)
            gone: list[Any] = connection.execute(
                "DELETE FROM webhooks WHERE tenant_id = ?1 AND stream = ?2"
                " AND name = coalesce(?3, name) RETURNING name",
                where,
            ).fetchall()
            connection.execute(
                "DELETE FROM webhook_attempts WHERE tenant_id = ?1 AND stream = ?2"
                " AND webhook = coalesce(?3, webhook)",
                where,
            )
            return [name for (name,) in gone]

        return await self._writer.submit(work, is_long=True)

    async def mark_failing(self, webhook: Webhook, since: int | None) -> None:
        def work(connection: apsw.Connection) -> None:
            connection.execute(
                f"UPDATE webhooks SET failing_since = ? WHERE {_WHERE} AND updated_at = ?",
                (since, *webhook.key, webhook.updated_at),
            )

        await self._writer.submit(work)

    async def disable(self, webhook: Webhook, reason: str, now_ms: int) -> bool:
        def work(connection: apsw.Connection) -> bool:
            changed = connection.execute(
                "UPDATE webhooks SET state = ?, reason = ?, updated_at = max(?, updated_at + 1)"
                f" WHERE {_WHERE} AND updated_at = ? RETURNING 1",
                (DISABLED, reason, now_ms, *webhook.key, webhook.updated_at),
            ).fetchall()
            return bool(changed)

        return await self._writer.submit(work)

    async def record(
        self, tenant_id: int, stream: str, name: str, attempts: Sequence[Attempt]
    ) -> None:
        def work(connection: apsw.Connection) -> None:
            self.record_within(connection, tenant_id, stream, name, attempts)

        await self._writer.submit(work)

    def record_within(
        self,
        transaction: apsw.Connection,
        tenant_id: int,
        stream: str,
        name: str,
        attempts: Sequence[Attempt],
    ) -> None:
        transaction.executemany(
            _RECORD, [(tenant_id, stream, name, *attempt[1:]) for attempt in attempts]
        )

    async def attempts(
        self, tenant_id: int, stream: str, name: str, before: int | None, limit: int
    ) -> Sequence[Attempt]:
        def read(connection: apsw.Connection) -> Sequence[Attempt]:
            rows: list[Any] = connection.execute(
                f"SELECT id, {ATTEMPT_COLUMNS} FROM webhook_attempts WHERE tenant_id = ?"
                " AND stream = ? AND webhook = ? AND id < ? ORDER BY id DESC LIMIT ?",
                (tenant_id, stream, name, 2**62 if before is None else before, limit),
            ).fetchall()
            return [Attempt(*row) for row in rows]

        return await self._readers.run(read)

    async def expire_attempts(self, before_ms: int, kept_count: int) -> None:
        def work(connection: apsw.Connection) -> int:
            names: list[Any] = connection.execute(
                "SELECT tenant_id, stream, name FROM webhooks"
            ).fetchall()
            gone = 0
            for where in names:
                # The last that is kept by count; nothing at or above it goes but by age.
                floor = connection.execute(
                    "SELECT id FROM webhook_attempts WHERE tenant_id = ? AND stream = ?"
                    " AND webhook = ? ORDER BY id DESC LIMIT 1 OFFSET ?",
                    (*where, kept_count),
                ).fetchone()
                gone += len(
                    connection.execute(
                        "DELETE FROM webhook_attempts WHERE id IN (SELECT id FROM webhook_attempts"
                        " WHERE tenant_id = ? AND stream = ? AND webhook = ?"
                        " AND (id <= ? OR at < ?) ORDER BY id LIMIT ?) RETURNING 1",
                        (*where, -1 if floor is None else floor[0], before_ms, EXPIRED_AT_ONCE),
                    ).fetchall()
                )
            return gone

        while await self._writer.submit(work, is_long=True) >= EXPIRED_AT_ONCE:
            pass
