"""asyncpg's errors as storage failures, in words the layers above may show.

None names the server's address or user: such a message reaches callers of the API.
"""

from __future__ import annotations

import asyncpg

from monolite.storage.errors import (
    DatabaseUnavailable,
    ReadDeadline,
    StorageCorrupt,
    StorageError,
    StorageFull,
    StorageReadOnly,
    StorageUnavailable,
)

RETRIED = (asyncpg.SerializationError, asyncpg.DeadlockDetectedError)
"""What a transaction that is run again from its beginning may well survive."""

CAUGHT = (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError)
"""Everything that asyncpg raises where the database fails."""


def from_asyncpg(error: BaseException, *, is_closed: bool = False) -> StorageError | None:
    """The storage failure behind an error, or None where the statement is to blame.

    `is_closed` says that the connection was lost, which makes of asyncpg's InterfaceError, else a
    mistake of ours, a failure of storage. https://www.postgresql.org/docs/16/errcodes-appendix.html
    """
    match error:
        case asyncpg.DiskFullError():
            return StorageFull(
                "PostgreSQL's disk is full and the write was rolled back: free space on its "
                "volume, then repeat it"
            )
        case asyncpg.QueryCanceledError() | TimeoutError():
            return ReadDeadline("PostgreSQL took longer than the statement may: it was broken off")
        case asyncpg.SerializationError() | asyncpg.DeadlockDetectedError():
            return DatabaseUnavailable("others kept changing the same rows: repeat the request")
        case asyncpg.TooManyConnectionsError():
            return DatabaseUnavailable(
                "PostgreSQL takes no more connections: raise its max_connections, or lower "
                "MONOLITE_DATABASE_CONNECTIONS on each server"
            )
        case asyncpg.ReadOnlySQLTransactionError():
            return StorageReadOnly(
                "PostgreSQL is read-only here, as a standby is: point MONOLITE_DATABASE_URL at the "
                "primary"
            )
        case asyncpg.InsufficientPrivilegeError():
            return StorageReadOnly(
                f"PostgreSQL refuses this user ({error.message}): make it the owner of the schema "
                "monolite, or give it CREATE on the database"
            )
        case asyncpg.InvalidAuthorizationSpecificationError():
            return StorageUnavailable(
                "PostgreSQL refused the user or the password: correct MONOLITE_DATABASE_URL"
            )
        case asyncpg.InvalidCatalogNameError():
            return StorageUnavailable(
                "there is no such database: make it with `createdb`, or correct "
                "MONOLITE_DATABASE_URL"
            )
        case asyncpg.DataCorruptedError() | asyncpg.IndexCorruptedError():
            return StorageCorrupt(
                f"PostgreSQL found damage ({error.message}): see its log, and restore a backup"
            )
        case (
            asyncpg.PostgresConnectionError()
            | asyncpg.OperatorInterventionError()
            | asyncpg.InsufficientResourcesError()
            | asyncpg.IdleInTransactionSessionTimeoutError()
            | OSError()
        ):
            return unreachable()
        case asyncpg.InterfaceError() if is_closed:
            return unreachable()
        case _:
            return None


def unreachable() -> DatabaseUnavailable:
    """PostgreSQL is not there now."""
    return DatabaseUnavailable("PostgreSQL does not answer: see its log; repeat the request")
