"""Webhooks in PostgreSQL, of several servers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from monolite.storage.postgres.pool import Pool
from monolite.webhooks.rows import ATTEMPT_COLUMNS, COLUMNS, types_text, webhook_of
from monolite.webhooks.webhook import DISABLED, ENABLED, Attempt, Definition, Secrets, Webhook

_WHERE = "tenant_id = $1 AND stream = $2 AND name = $3"


class PostgresWebhookEngine:
    """The shared WebhookEngine."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

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

        async def work(connection: Any) -> tuple[Webhook, bool]:
            row = await connection.fetchrow(
                f"SELECT {COLUMNS} FROM webhooks WHERE {_WHERE} FOR UPDATE", *where
            )
            old = None if row is None else webhook_of(tuple(row))
            kept = secrets or (None if old is None else old.secrets)
            assert kept is not None  # a new one is given some
            stored = await connection.fetchrow(
                f"INSERT INTO webhooks AS w ({COLUMNS}) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9,"
                f" $10, $11, '{ENABLED}', NULL, NULL, $12, $12)"
                " ON CONFLICT (tenant_id, stream, name) DO UPDATE SET url = $4, types = $5,"
                " order_by = $6, concurrency = $7, rate_per_s = $8, secret = $9,"
                f" previous_secret = $10, previous_until = $11, state = '{ENABLED}', reason = NULL,"
                " failing_since = NULL, updated_at = greatest($12, w.updated_at + 1)"
                f" RETURNING {COLUMNS}",
                *(*where, *shape, *kept, now_ms),
            )
            return webhook_of(tuple(stored)), old is None

        return await self._pool.transaction(work)

    async def get(self, tenant_id: int, stream: str, name: str) -> Webhook | None:
        row = await self._pool.fetchrow(
            f"SELECT {COLUMNS} FROM webhooks WHERE {_WHERE}", tenant_id, stream, name
        )
        return None if row is None else webhook_of(tuple(row))

    async def list(self, tenant_id: int, stream: str) -> Sequence[Webhook]:
        rows = await self._pool.fetch(
            f"SELECT {COLUMNS} FROM webhooks WHERE tenant_id = $1 AND stream = $2 ORDER BY name",
            tenant_id,
            stream,
        )
        return [webhook_of(tuple(row)) for row in rows]

    async def enabled(self) -> Sequence[Webhook]:
        rows = await self._pool.fetch(f"SELECT {COLUMNS} FROM webhooks WHERE state = '{ENABLED}'")
        return [webhook_of(tuple(row)) for row in rows]

    async def delete(self, tenant_id: int, stream: str, name: str | None) -> Sequence[str]:
        async def work(connection: Any) -> Sequence[str]:
            where = (tenant_id, stream, name)
            await connection.execute(
                "DELETE FROM webhook_attempts WHERE tenant_id = $1 AND stream = $2"
                " AND webhook = coalesce($3, webhook)",
                *where,
            )
            gone = await connection.fetch(
                "DELETE FROM webhooks WHERE tenant_id = $1 AND stream = $2"
                " AND name = coalesce($3, name) RETURNING name",
                *where,
            )
            return [row["name"] for row in gone]

        return await self._pool.transaction(work)

    async def mark_failing(self, webhook: Webhook, since: int | None) -> None:
        await self._pool.fetch(
            f"UPDATE webhooks SET failing_since = $4 WHERE {_WHERE} AND updated_at = $5",
            *webhook.key,
            since,
            webhook.updated_at,
        )

    async def disable(self, webhook: Webhook, reason: str, now_ms: int) -> bool:
        changed = await self._pool.fetch(
            "UPDATE webhooks SET state = $4, reason = $5, updated_at = greatest($6, updated_at + 1)"
            f" WHERE {_WHERE} AND updated_at = $7 RETURNING 1",
            *(*webhook.key, DISABLED, reason, now_ms, webhook.updated_at),
        )
        return bool(changed)

    async def record(
        self, tenant_id: int, stream: str, name: str, attempts: Sequence[Attempt]
    ) -> None:
        async def work(connection: Any) -> None:
            await connection.executemany(
                f"INSERT INTO webhook_attempts (tenant_id, stream, webhook, {ATTEMPT_COLUMNS})"
                " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
                [(tenant_id, stream, name, *attempt[1:]) for attempt in attempts],
            )

        await self._pool.transaction(work)

    def record_within(
        self,
        transaction: Any,
        tenant_id: int,
        stream: str,
        name: str,
        attempts: Sequence[Attempt],
    ) -> None:
        raise NotImplementedError("streams never lie in PostgreSQL: nothing is settled there")

    async def attempts(
        self, tenant_id: int, stream: str, name: str, before: int | None, limit: int
    ) -> Sequence[Attempt]:
        rows = await self._pool.fetch(
            f"SELECT id, {ATTEMPT_COLUMNS} FROM webhook_attempts WHERE tenant_id = $1"
            " AND stream = $2 AND webhook = $3 AND id < $4 ORDER BY id DESC LIMIT $5",
            *(tenant_id, stream, name, 2**62 if before is None else before, limit),
        )
        return [Attempt(*tuple(row)) for row in rows]

    async def expire_attempts(self, before_ms: int, kept_count: int) -> None:
        # What is younger is found by rank, not by id: servers' ids interleave.
        await self._pool.fetch(
            "DELETE FROM webhook_attempts WHERE at < $1 OR id IN (SELECT id FROM (SELECT id,"
            " row_number() OVER (PARTITION BY tenant_id, stream, webhook ORDER BY id DESC) AS rank"
            " FROM webhook_attempts) AS ranked WHERE rank > $2)",
            before_ms,
            kept_count,
        )
