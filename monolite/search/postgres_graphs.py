"""pgvector in a database: the extension, the table of vectors, and graphs of large indexes.

    documents < GRAPH_FROM ──► exact                  graph: CREATE INDEX CONCURRENTLY … USING hnsw
    documents ≥ GRAPH_FROM ──► exact ──built──► graph        … WHERE index_id = N

PostgreSQL need not have pgvector until search is used, so no migration asks for it: the table is
made when the extension is found. One server at a time builds a graph; one that a crash left half
built is marked invalid by PostgreSQL, and built anew.
https://github.com/pgvector/pgvector/blob/v0.6.2/README.md
"""

from __future__ import annotations

import logging
import time
from typing import Any

import asyncpg

from monolite.errors import Unavailable
from monolite.search.postgres_store import remove_some
from monolite.storage.errors import StorageError
from monolite.storage.postgres.pool import SCHEMA, Pool

log = logging.getLogger("monolite.search")

GRAPH_FROM = 20_000
"""Documents from which an index has a graph."""

GRAPH_DIMENSIONS_MAX = 2000
"""pgvector's bound for a graph of `vector`."""

BUILD_MEMORY = "256MB"
"""maintenance_work_mem of a build, where the server's own is less."""

# "mnse", "mnsv": advisory locks of whoever builds, and of whoever looks for the extension.
_LOCK, _PREPARING_LOCK = 0x6D6E7365, 0x6D6E7376
_LOOK_AGAIN_S = 30.0
_TABLE = (
    "CREATE TABLE IF NOT EXISTS search_vectors (key bigint PRIMARY KEY REFERENCES"
    " search_documents (key) ON DELETE CASCADE, index_id bigint NOT NULL,"
    " vector {schema}.vector NOT NULL)"
)
_BY_INDEX = "CREATE INDEX IF NOT EXISTS search_vectors_by_index ON search_vectors (index_id, key)"
_SCHEMA_OF = (
    "SELECT quote_ident(nspname) FROM pg_extension e JOIN pg_namespace n ON n.oid = extnamespace"
    " WHERE extname = 'vector'"
)
_WITHOUT_GRAPH = (
    "SELECT id, dimensions FROM search_indexes WHERE deleted_at IS NULL AND documents >= $1"
    " AND dimensions <= $2 AND coalesce((SELECT NOT indisvalid FROM pg_index WHERE indexrelid ="
    " to_regclass('search_vectors_g' || search_indexes.id)), true) ORDER BY id LIMIT 1"
)
_ORPHANS = (
    "SELECT relname FROM pg_class WHERE relnamespace = $1::regnamespace AND relkind = 'i'"
    " AND relname ~ '^search_vectors_g[0-9]+$' AND substr(relname, 17)::bigint NOT IN"
    " (SELECT id FROM search_indexes) LIMIT 1"
)


def graph_name(number: int) -> str:
    """What an index's graph is called in PostgreSQL."""
    return f"search_vectors_g{number:d}"


class Pgvector:
    """The extension in one database."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._schema: str | None = None
        self._looked_at = float("-inf")

    async def schema(self) -> str:
        """Where the extension lies, quoted; Unavailable (`search_unavailable`) where it isn't."""
        if self._schema is None:
            now = time.monotonic()
            if now - self._looked_at >= _LOOK_AGAIN_S:
                self._looked_at = now
                self._schema = await self._prepared()
        if self._schema is None:
            raise Unavailable(
                "This PostgreSQL has no pgvector: install it on the database's machine, and have"
                " an administrator run CREATE EXTENSION vector.",
                retry_after_s=60.0,
                code="search_unavailable",
            )
        return self._schema

    async def _prepared(self) -> str | None:
        async with self._pool.dedicated() as connection, connection.transaction():
            # Servers that start together would make it twice.
            await connection.execute("SELECT pg_advisory_xact_lock($1)", _PREPARING_LOCK)
            schema = await connection.fetchval(_SCHEMA_OF)
            if schema is None:
                try:
                    async with connection.transaction():
                        await connection.execute(f"CREATE EXTENSION vector SCHEMA {SCHEMA}")
                except asyncpg.PostgresError as error:
                    log.warning("search isn't served: there is no pgvector: %s", error)
                    return None
                schema = await connection.fetchval(_SCHEMA_OF)
            await connection.execute(_TABLE.format(schema=schema))
            await connection.execute(_BY_INDEX)
            return str(schema)


async def work_a_slice(pool: Pool, schema: str) -> bool:
    """Build, drop or remove the first thing that waits; whether more may be left."""
    async with pool.dedicated() as connection:
        if not await connection.fetchval("SELECT pg_try_advisory_lock($1)", _LOCK):
            return False
        number = await connection.fetchval(
            "SELECT id FROM search_indexes WHERE deleted_at IS NOT NULL LIMIT 1"
        )
        if number is not None:
            await _forget_some(connection, number)
            return True
        name = await connection.fetchval(_ORPHANS, SCHEMA)
        if name is not None:
            await connection.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
            return True
        row = await connection.fetchrow(_WITHOUT_GRAPH, GRAPH_FROM, GRAPH_DIMENSIONS_MAX)
        return row is not None and await _build(connection, schema, *row)


async def is_work_left(pool: Pool) -> bool:
    """Whether a slice would find something."""
    async with pool.connection() as connection:
        found: bool = await connection.fetchval(
            "SELECT EXISTS (SELECT FROM search_indexes WHERE deleted_at IS NOT NULL)"
        )
        return (
            found
            or await connection.fetchval(_ORPHANS, SCHEMA) is not None
            or await connection.fetchrow(_WITHOUT_GRAPH, GRAPH_FROM, GRAPH_DIMENSIONS_MAX)
            is not None
        )


async def _forget_some(connection: Any, number: int) -> None:
    # The graph first: each row that goes would otherwise be mended in it.
    await connection.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {graph_name(number)}")
    if not await remove_some(connection, number):
        await connection.execute("DELETE FROM search_indexes WHERE id = $1", number)


async def _build(connection: Any, schema: str, number: int, dimensions: int) -> bool:
    name = graph_name(number)
    await connection.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")
    await connection.execute(
        "SELECT set_config('maintenance_work_mem', $1, false) WHERE"
        " pg_size_bytes(current_setting('maintenance_work_mem')) < pg_size_bytes($1)",
        BUILD_MEMORY,
    )
    create = (
        f"CREATE INDEX CONCURRENTLY {name} ON search_vectors USING hnsw"
        f" ((vector::{schema}.vector({dimensions:d})) {schema}.vector_ip_ops)"
        f" WHERE index_id = {number:d}"
    )
    started = time.monotonic()
    try:
        await connection.execute(create)
    except (StorageError, asyncpg.PostgresError) as error:
        log.warning("%s was not built, and is tried again: %s", name, error)
        return False
    log.info("%s was built in %.1f s", name, time.monotonic() - started)
    return True
