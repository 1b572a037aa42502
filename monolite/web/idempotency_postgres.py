"""Remembered answers in PostgreSQL, beside the effects they answer for."""

from __future__ import annotations

from typing import Any

import msgspec

from monolite.errors import Conflict
from monolite.storage.postgres.pool import Pool
from monolite.web.idempotency import KEPT_MS, StoredAnswer

TENANT_TABLES = ("idempotent_answers",)

_headers = msgspec.json.Decoder(list[tuple[str, str]])


class PostgresIdempotencyEngine:
    """The shared IdempotencyEngine.

    Of two servers that carry out the same request at once, the second waits at its answer until the
    first has committed, and rolls its own effect back.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def find(
        self, tenant_id: int, identity: str, operation: str, key: str, now_ms: int
    ) -> StoredAnswer | None:
        row = await self._pool.fetchrow(
            "SELECT fingerprint, status, headers, body FROM idempotent_answers WHERE tenant_id = $1"
            " AND identity = $2 AND operation = $3 AND key = $4 AND expires_at > $5",
            tenant_id,
            identity.encode(),
            operation,
            key,
            now_ms,
        )
        if row is None:
            return None
        fingerprint, status, headers, body = row
        return StoredAnswer(fingerprint, status, _headers.decode(headers), body)

    async def record(
        self,
        transaction: Any,
        tenant_id: int,
        identity: str,
        operation: str,
        key: str,
        answer: StoredAnswer,
        expires_at_ms: int,
    ) -> None:
        if transaction is None:
            await self._pool.transaction(
                lambda own: self.record(
                    own, tenant_id, identity, operation, key, answer, expires_at_ms
                )
            )
            return
        stored = await transaction.fetchval(
            # An expired answer that the purge has not reached yet gives way.
            "INSERT INTO idempotent_answers AS kept (tenant_id, identity, operation, key,"
            " fingerprint, status, headers, body, expires_at)"
            " VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)"
            " ON CONFLICT (tenant_id, identity, operation, key) DO UPDATE SET"
            " fingerprint = excluded.fingerprint, status = excluded.status,"
            " headers = excluded.headers, body = excluded.body, expires_at = excluded.expires_at"
            " WHERE kept.expires_at <= $10 RETURNING 1",
            tenant_id,
            identity.encode(),
            operation,
            key,
            answer.fingerprint,
            answer.status,
            msgspec.json.encode(answer.headers).decode(),
            answer.body,
            expires_at_ms,
            expires_at_ms - KEPT_MS,
        )
        if stored is None:
            raise Conflict(
                "Another server carried out the first request with this Idempotency-Key just now; "
                "try again for its answer.",
                code="idempotency_in_progress",
            )

    async def purge(self, now_ms: int, count_max: int) -> int:
        async def work(connection: Any) -> int:
            gone: str = await connection.execute(
                "DELETE FROM idempotent_answers WHERE ctid = ANY (ARRAY(SELECT ctid FROM"
                " idempotent_answers WHERE expires_at <= $1 LIMIT $2 FOR UPDATE SKIP LOCKED))",
                now_ms,
                count_max,
            )
            return int(gone.removeprefix("DELETE "))

        return await self._pool.transaction(work)
