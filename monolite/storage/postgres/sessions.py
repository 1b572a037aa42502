"""Whether a connection is a session: what stands between may lend each transaction another one.

PgBouncer in transaction mode gives a server's session to a client for one transaction. Then LISTEN
hears nothing, a session's lock stays behind with somebody else, and prepared statements are not
found. None of that fails at once or by name, so it is looked for at the start: of two connections
each has a session of its own, and the same one each time.
"""

from __future__ import annotations

from typing import Any

import asyncpg

from monolite.storage.errors import StorageUnavailable

LOOKS = 3
_WHO = "SELECT pg_backend_pid()"


async def require_sessions(one: Any, other: Any, address: str) -> None:
    """Raises StorageUnavailable where the two connections share or change their sessions."""
    ones: set[int] = set()
    others: set[int] = set()
    try:
        for _ in range(LOOKS):
            ones.add(await one.fetchval(_WHO))
            # While it is in a transaction, its session is nobody else's, whatever lends it.
            async with other.transaction():
                others.add(await other.fetchval(_WHO))
                ones.add(await one.fetchval(_WHO))
    except asyncpg.PostgresError as error:
        if not _is_a_poolers(error):
            raise
        raise _pooled(address) from error
    if len(ones) > 1 or len(others) > 1 or ones & others:
        raise _pooled(address)


def _is_a_poolers(error: BaseException | None) -> bool:
    if isinstance(error, asyncpg.ConnectionDoesNotExistError):
        error = error.__cause__
    return isinstance(
        error,
        (
            # A statement that was prepared in another session, or by somebody else in this one.
            asyncpg.InvalidSQLStatementNameError,
            asyncpg.DuplicatePreparedStatementError,
            # PgBouncer's: transaction blocks not allowed in statement pooling mode.
            asyncpg.ProtocolViolationError,
        ),
    )


def _pooled(address: str) -> StorageUnavailable:
    return StorageUnavailable(
        f"{address} is a pooler that lends a session to one transaction at a time, like PgBouncer "
        "with pool_mode = transaction. News between servers (LISTEN), locks of migrations and "
        "imports, and prepared statements need sessions: set pool_mode = session for this "
        "database, or name PostgreSQL itself in MONOLITE_DATABASE_URL. Monolite has its own pool"
    )
