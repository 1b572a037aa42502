"""Policies, days and calls in SQLite."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import apsw

from monolite.inference.routing.budget import (
    INSTALLATION,
    Also,
    Balance,
    CloudCall,
    Limits,
    Outcome,
    Reserved,
    Spent,
    date_of,
)
from monolite.inference.routing.rows import COLUMNS
from monolite.storage.sqlite.readers import Readers
from monolite.storage.sqlite.writer import Writer

SWEPT_AT_ONCE = 500

_NAMES = ", ".join(COLUMNS)
_INSERT = f"INSERT INTO ai_calls (tenant_id, {_NAMES}) VALUES (?{', ?' * len(COLUMNS)})"  # noqa: S608
_BALANCE = (
    "SELECT tokens, micros, calls, reserved_tokens, reserved_micros FROM ai_days"
    " WHERE tenant_id = ? AND day = ?"
)
_RESERVE = (
    "INSERT INTO ai_days VALUES (?1, ?2, 0, 0, 0, ?3, ?4, 0) ON CONFLICT DO UPDATE"
    " SET reserved_tokens = reserved_tokens + ?3, reserved_micros = reserved_micros + ?4"
)
_SPEND = (
    "UPDATE ai_days SET tokens = tokens + ?3, micros = micros + ?4, calls = calls + 1,"
    " reserved_tokens = reserved_tokens - ?5, reserved_micros = reserved_micros - ?6"
    " WHERE tenant_id = ?1 AND day = ?2"
)


class SqliteBudgetEngine:
    """The embedded BudgetEngine."""

    def __init__(self, writer: Writer, readers: Readers) -> None:
        self._writer = writer
        self._readers = readers

    async def policy(self, tenant_id: int) -> str | None:
        row: Any = self._readers.inline.execute(
            "SELECT policy FROM ai_policies WHERE tenant_id = ?", (tenant_id,)
        ).fetchone()
        return None if row is None else row[0]

    async def put_policy(self, tenant_id: int, policy: str, now_ms: int, also: Also = None) -> None:
        def work(connection: apsw.Connection) -> None:
            connection.execute(
                "INSERT OR REPLACE INTO ai_policies VALUES (?, ?, ?)", (tenant_id, policy, now_ms)
            )
            if also is not None:
                also(connection, None)

        await self._writer.submit(work)

    async def balance(self, tenant_id: int, day: str, now_ms: int) -> Balance:
        return _balance(self._readers.inline, tenant_id, day)

    async def reserve(
        self, tenant_id: int, call: CloudCall, limits: Limits, total: Limits
    ) -> Reserved | Spent:
        tokens, micros = call.reserved_tokens, call.reserved_micros

        def work(connection: apsw.Connection) -> Reserved | Spent:
            if not _balance(connection, tenant_id, call.day).has_room(limits, tokens, micros):
                return Spent("tenant")
            installation = _balance(connection, INSTALLATION, call.total_day)
            if not installation.has_room(total, tokens, micros):
                return Spent("installation")
            connection.execute(_RESERVE, (tenant_id, call.day, tokens, micros))
            connection.execute(_RESERVE, (INSTALLATION, call.total_day, tokens, micros))
            insert_call(connection, tenant_id, call)
            if not _balance(connection, tenant_id, call.day).is_near(limits):
                return Reserved(is_warning=False)
            connection.execute(
                "UPDATE ai_days SET warned = 1 WHERE tenant_id = ? AND day = ? AND warned = 0",
                (tenant_id, call.day),
            )
            return Reserved(is_warning=connection.changes() > 0)

        return await self._writer.submit(work)

    async def settle(
        self,
        tenant_id: int,
        id: str,
        outcome: Outcome,
        prompt_tokens: int,
        completion_tokens: int,
        micros: int,
    ) -> None:
        def work(connection: apsw.Connection) -> None:
            row: Any = connection.execute(
                "SELECT day, total_day, reserved_tokens, reserved_micros FROM ai_calls"
                " WHERE tenant_id = ? AND id = ? AND outcome IS NULL",
                (tenant_id, id),
            ).fetchone()
            if row is not None:
                taken = (prompt_tokens, completion_tokens, micros)
                _settle(connection, tenant_id, id, outcome, row, taken)

        await self._writer.submit(work)

    async def calls(self, tenant_id: int, before: str | None, limit: int) -> Sequence[CloudCall]:
        def read(connection: apsw.Connection) -> list[CloudCall]:
            rows = connection.execute(
                f"SELECT {_NAMES} FROM ai_calls WHERE tenant_id = ?1"  # noqa: S608
                " AND (?2 IS NULL OR id < ?2) ORDER BY id DESC LIMIT ?3",
                (tenant_id, before, limit),
            )
            return [CloudCall(*row) for row in rows]

        return await self._readers.run(read)

    async def sweep(self, now_ms: int, kept_ms: int) -> None:
        def work(connection: apsw.Connection) -> bool:
            left: list[Any] = connection.execute(
                "SELECT tenant_id, id, day, total_day, reserved_tokens, reserved_micros"
                " FROM ai_calls WHERE outcome IS NULL AND lease_until <= ? LIMIT ?",
                (now_ms, SWEPT_AT_ONCE),
            ).fetchall()
            for tenant_id, id, *row in left:
                # What it took is not known, and may have been all of it.
                _settle(connection, tenant_id, id, "lost", row, (row[2], 0, row[3]))
            gone = connection.execute(
                "DELETE FROM ai_calls WHERE (tenant_id, id) IN (SELECT tenant_id, id FROM ai_calls"
                " WHERE at < ? AND outcome IS NOT NULL LIMIT ?) RETURNING 1",
                (now_ms - kept_ms, SWEPT_AT_ONCE),
            ).fetchall()
            oldest = date_of(now_ms - kept_ms)
            connection.execute("DELETE FROM ai_days WHERE day < ?", (oldest,))
            return SWEPT_AT_ONCE in (len(left), len(gone))

        while await self._writer.submit(work, is_long=True):
            pass


def insert_call(connection: apsw.Connection, tenant_id: int, call: CloudCall) -> None:
    """Store a call's row."""
    connection.execute(_INSERT, (tenant_id, *(getattr(call, name) for name in COLUMNS)))


def _balance(connection: apsw.Connection, tenant_id: int, day: str) -> Balance:
    row: Any = connection.execute(_BALANCE, (tenant_id, day)).fetchone()
    return Balance() if row is None else Balance(*row)


def _settle(
    connection: apsw.Connection,
    tenant_id: int,
    id: str,
    outcome: Outcome,
    row: Sequence[Any],
    taken: tuple[int, int, int],
) -> None:
    day, total_day, reserved_tokens, reserved_micros = row
    prompt_tokens, completion_tokens, micros = taken
    connection.execute(
        "UPDATE ai_calls SET outcome = ?, prompt_tokens = ?, completion_tokens = ?, micros = ?"
        " WHERE tenant_id = ? AND id = ?",
        (outcome, *taken, tenant_id, id),
    )
    spent = (prompt_tokens + completion_tokens, micros, reserved_tokens, reserved_micros)
    connection.execute(_SPEND, (tenant_id, day, *spent))
    connection.execute(_SPEND, (INSTALLATION, total_day, *spent))
