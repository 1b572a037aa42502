"""A tenant's search indexes as records, out of PostgreSQL and into it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

from monolite.errors import DomainError
from monolite.search import postgres_store as rows
from monolite.search.archive import (
    KINDS,
    document_record,
    index_record,
    read_document,
    read_index,
)
from monolite.search.postgres_graphs import Pgvector


class PostgresSearchArchive:
    """As SqliteSearchArchive: an index that follows a collection comes without its documents."""

    kinds = KINDS

    def __init__(self, pgvector: Pgvector) -> None:
        self._pgvector = pgvector

    async def records(
        self, connection: Any, tenant_id: int
    ) -> AsyncGenerator[dict[str, Any], None]:
        """Every index and document, in the snapshot of the connection's transaction."""
        indexes = [
            rows.index_of(row)
            for row in await connection.fetch(
                f"SELECT {rows.COLUMNS} FROM search_indexes WHERE tenant_id = $1"
                " AND deleted_at IS NULL ORDER BY name",
                tenant_id,
            )
        ]
        for index in indexes:
            yield index_record(index)
        for index in indexes:
            if index.source is None and index.dimensions is not None:
                async for row in connection.cursor(
                    f"{rows.STORED} ORDER BY key", tenant_id, index.number, prefetch=100
                ):
                    yield document_record(index.name, rows.stored_of(row))

    async def store(self, connection: Any, tenant_id: int, record: dict[str, Any]) -> None:
        """Store one record; raises KeyError or TypeError where it is not one of ours."""
        if record["kind"] == "search_index":
            made = read_index(record)
            await rows.create(
                *(connection, tenant_id, made.name, made.model, made.source),
                *(made.created_at, made.updated_at),
            )
            return
        name, entry, updated_at = read_document(record)
        index = await rows.locked(connection, tenant_id, name)
        if index is None:
            raise KeyError(name)
        try:
            vector_type = f"{await self._pgvector.schema()}.vector"
            await rows.store(connection, tenant_id, index, [entry], (), vector_type, updated_at)
        except DomainError as error:
            raise TypeError(error.detail) from None
