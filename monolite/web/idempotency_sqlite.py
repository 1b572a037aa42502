"""Remembered answers in SQLite, beside the effects they answer for."""

from __future__ import annotations

from collections.abc import Awaitable

import apsw
import msgspec

from monolite.storage.sqlite.readers import Readers
from monolite.storage.sqlite.writer import Writer
from monolite.web.idempotency import StoredAnswer

TENANT_TABLES = ("idempotent_answers",)

_headers = msgspec.json.Decoder(list[tuple[str, str]])


class SqliteIdempotencyEngine:
    """The embedded IdempotencyEngine."""

    def __init__(self, writer: Writer, readers: Readers) -> None:
        self._writer = writer
        self._readers = readers

    async def find(
        self, tenant_id: int, identity: str, operation: str, key: str, now_ms: int
    ) -> StoredAnswer | None:
        row = self._readers.inline.execute(
            "SELECT fingerprint, status, headers, body FROM idempotent_answers WHERE tenant_id = ?"
            " AND identity = ? AND operation = ? AND key = ? AND expires_at > ?",
            (tenant_id, identity, operation, key, now_ms),
        ).fetchone()
        if row is None:
            return None
        fingerprint, status, headers, body = row
        return StoredAnswer(fingerprint, status, _headers.decode(headers), body)

    def record(
        self,
        transaction: apsw.Connection | None,
        tenant_id: int,
        identity: str,
        operation: str,
        key: str,
        answer: StoredAnswer,
        expires_at_ms: int,
    ) -> Awaitable[None] | None:
        if transaction is None:
            return self._writer.submit(
                lambda connection: self._insert(
                    connection, tenant_id, identity, operation, key, answer, expires_at_ms
                )
            )
        self._insert(transaction, tenant_id, identity, operation, key, answer, expires_at_ms)
        return None

    @staticmethod
    def _insert(
        transaction: apsw.Connection,
        tenant_id: int,
        identity: str,
        operation: str,
        key: str,
        answer: StoredAnswer,
        expires_at_ms: int,
    ) -> None:
        # OR REPLACE: an expired answer that the purge has not reached yet gives way.
        transaction.execute(
            "INSERT OR REPLACE INTO idempotent_answers (tenant_id, identity, operation, key,"
            " fingerprint, status, headers, body, expires_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                tenant_id,
                identity,
                operation,
                key,
                answer.fingerprint,
                answer.status,
                msgspec.json.encode(answer.headers).decode(),
                answer.body,
                expires_at_ms,
            ),
        )

    async def purge(self, now_ms: int, count_max: int) -> int:
        def work(connection: apsw.Connection) -> int:
            gone = connection.execute(
                "DELETE FROM idempotent_answers WHERE (tenant_id, identity, operation, key) IN"
                " (SELECT tenant_id, identity, operation, key FROM idempotent_answers"
                " WHERE expires_at <= ? LIMIT ?) RETURNING 1",
                (now_ms, count_max),
            ).fetchall()
            return len(gone)

        return await self._writer.submit(work, is_long=True)
