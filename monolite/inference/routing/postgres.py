"""Policies, days and calls in PostgreSQL. Who reserves locks both days' rows first, the tenant's
before the installation's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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
from monolite.storage.postgres.pool import Pool

SWEPT_AT_ONCE = 500

_NAMES = ", ".join(COLUMNS)
_PLACES = ", ".join(f"${number}" for number in range(1, len(COLUMNS) + 2))
_INSERT = f"INSERT INTO ai_calls (tenant_id, {_NAMES}) VALUES ({_PLACES})"  # noqa: S608
_BALANCE = (
    "SELECT tokens, micros, calls, reserved_tokens, reserved_micros FROM ai_days"
    " WHERE tenant_id = $1 AND day = $2"
)
_SPEND = (
    "UPDATE ai_days SET tokens = tokens + $3, micros = micros + $4, calls = calls + 1,"
    " reserved_tokens = reserved_tokens - $5, reserved_micros = reserved_micros - $6"
    " WHERE tenant_id = $1 AND day = $2"
)


class PostgresBudgetEngine:
    """The BudgetEngine of several servers."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def policy(self, tenant_id: int) -> str | None:
        found: str | None = await self._pool.fetchval(
            "SELECT policy FROM ai_policies WHERE tenant_id = $1", tenant_id
        )
        return found

    async def put_policy(self, tenant_id: int, policy: str, now_ms: int, also: Also = None) -> None:
        async def work(connection: Any) -> None:
            await connection.execute(
                "INSERT INTO ai_policies VALUES ($1, $2, $3) ON CONFLICT (tenant_id) DO UPDATE"
                " SET policy = excluded.policy, updated_at = excluded.updated_at",
                *(tenant_id, policy, now_ms),
            )
            awaited = None if also is None else also(connection, None)
            if awaited is not None:
                await awaited

        await self._pool.transaction(work)

    async def balance(self, tenant_id: int, day: str, now_ms: int) -> Balance:
        row = await self._pool.fetchrow(_BALANCE, tenant_id, day)
        return Balance() if row is None else Balance(*row)

    async def reserve(
        self, tenant_id: int, call: CloudCall, limits: Limits, total: Limits
    ) -> Reserved | Spent:
        tokens, micros = call.reserved_tokens, call.reserved_micros

        async def work(connection: Any) -> Reserved | Spent:
            balance = await _locked(connection, tenant_id, call.day)
            if not balance.has_room(limits, tokens, micros):
                return Spent("tenant")
            installation = await _locked(connection, INSTALLATION, call.total_day)
            if not installation.has_room(total, tokens, micros):
                return Spent("installation")
            for number, day in ((tenant_id, call.day), (INSTALLATION, call.total_day)):
                await connection.execute(
                    "UPDATE ai_days SET reserved_tokens = reserved_tokens + $3,"
                    " reserved_micros = reserved_micros + $4 WHERE tenant_id = $1 AND day = $2",
                    *(number, day, tokens, micros),
                )
            await insert_call(connection, tenant_id, call)
            after = balance._replace(
                reserved_tokens=balance.reserved_tokens + tokens,
                reserved_micros=balance.reserved_micros + micros,
            )
            if not after.is_near(limits):
                return Reserved(is_warning=False)
            first = await connection.fetchval(
                "UPDATE ai_days SET warned = true WHERE tenant_id = $1 AND day = $2"
                " AND NOT warned RETURNING 1",
                *(tenant_id, call.day),
            )
            return Reserved(is_warning=first is not None)

        return await self._pool.transaction(work)

    async def settle(
        self,
        tenant_id: int,
        id: str,
        outcome: Outcome,
        prompt_tokens: int,
        completion_tokens: int,
        micros: int,
    ) -> None:
        async def work(connection: Any) -> None:
            taken = (prompt_tokens, completion_tokens, micros)
            await _settle(connection, tenant_id, id, outcome, taken)

        await self._pool.transaction(work)

    async def calls(self, tenant_id: int, before: str | None, limit: int) -> Sequence[CloudCall]:
        rows = await self._pool.fetch(
            f"SELECT {_NAMES} FROM ai_calls WHERE tenant_id = $1"  # noqa: S608
            " AND ($2::text IS NULL OR id < $2) ORDER BY id DESC LIMIT $3",
            *(tenant_id, before, limit),
        )
        return [CloudCall(*row) for row in rows]

    async def sweep(self, now_ms: int, kept_ms: int) -> None:
        is_more = True
        while is_more:
            left = await self._pool.fetch(
                "SELECT tenant_id, id, reserved_tokens, reserved_micros FROM ai_calls"
                " WHERE outcome IS NULL AND lease_until <= $1 LIMIT $2",
                *(now_ms, SWEPT_AT_ONCE),
            )
            for tenant_id, id, tokens, micros in left:
                # What it took is not known, and may have been all of it. One at a time: a
                # reservation locks its tenant's day before the installation's.
                await self.settle(tenant_id, id, "lost", tokens, 0, micros)
            gone = await self._pool.fetch(
                "DELETE FROM ai_calls WHERE (tenant_id, id) IN (SELECT tenant_id, id FROM ai_calls"
                " WHERE at < $1 AND outcome IS NOT NULL LIMIT $2) RETURNING 1",
                *(now_ms - kept_ms, SWEPT_AT_ONCE),
            )
            is_more = SWEPT_AT_ONCE in (len(left), len(gone))
        oldest = date_of(now_ms - kept_ms)
        await self._pool.fetch("DELETE FROM ai_days WHERE day < $1", oldest)


async def insert_call(connection: Any, tenant_id: int, call: CloudCall) -> None:
    """Store a call's row."""
    await connection.execute(_INSERT, tenant_id, *(getattr(call, name) for name in COLUMNS))


async def _locked(connection: Any, tenant_id: int, day: str) -> Balance:
    await connection.execute(
        "INSERT INTO ai_days (tenant_id, day) VALUES ($1, $2) ON CONFLICT DO NOTHING",
        *(tenant_id, day),
    )
    return Balance(*await connection.fetchrow(_BALANCE + " FOR UPDATE", tenant_id, day))


async def _settle(
    connection: Any, tenant_id: int, id: str, outcome: Outcome, taken: tuple[int, int, int]
) -> None:
    prompt_tokens, completion_tokens, micros = taken
    row = await connection.fetchrow(
        "UPDATE ai_calls SET outcome = $3, prompt_tokens = $4, completion_tokens = $5,"
        " micros = $6 WHERE tenant_id = $1 AND id = $2 AND outcome IS NULL"
        " RETURNING day, total_day, reserved_tokens, reserved_micros",
        *(tenant_id, id, outcome, *taken),
    )
    if row is None:
        return
    day, total_day, reserved_tokens, reserved_micros = row
    spent = (prompt_tokens + completion_tokens, micros, reserved_tokens, reserved_micros)
    await connection.execute(_SPEND, tenant_id, day, *spent)
    await connection.execute(_SPEND, INSTALLATION, total_day, *spent)
