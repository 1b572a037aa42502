"""Documents as rows of PostgreSQL: stored, locked and replaced in the caller's transaction."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Any, TypeVar

import asyncpg
import msgspec

from monolite.documents.collection import Collection
from monolite.documents.document import Document
from monolite.documents.postgres_catalog import Entry
from monolite.errors import Invalid, NotFound

T = TypeVar("T")

SHOWN = "id, data::text, revision, created_at, updated_at"
# The version that the document was checked against has to be the collection's still.
_INSERT = (
    "INSERT INTO documents (tenant_id, collection_id, id, data, revision, created_at, updated_at)"
    " SELECT $1, c.id, d.id, d.data, d.revision, d.created_at, d.updated_at"
    " FROM collections c, unnest($4::text[], $5::jsonb[], $6::bigint[], $7::bigint[], $8::bigint[])"
    " WITH ORDINALITY AS d (id, data, revision, created_at, updated_at, at)"
    " WHERE c.tenant_id = $1 AND c.id = $2 AND c.version = $3 AND c.deleted_at IS NULL"
    " ORDER BY d.at RETURNING key"
)
_LOCK = (
    "SELECT key, revision, updated_at, data::text FROM documents WHERE tenant_id = $1"
    " AND collection_id = $2 AND id = $3 FOR UPDATE"
)
_UPDATE = (
    "UPDATE documents SET data = {data}, revision = revision + 1,"
    " xid = greatest(xid, pg_current_xact_id()), seq = DEFAULT, updated_at = $5"
    " WHERE tenant_id = $1 AND collection_id = $2 AND key = $3"
    f" RETURNING {SHOWN}"
)
PUT = _UPDATE.format(data="$4::jsonb")
PATCH = _UPDATE.format(data="merge_patch(data, $4::jsonb)")


async def store(
    connection: Any, tenant_id: int, entry: Entry, documents: Sequence[Document]
) -> bool:
    """Insert documents; False where their collection is not as it was known to be."""
    rows = await connection.fetch(
        _INSERT,
        tenant_id,
        entry.collection.number,
        entry.collection.version,
        [d.id for d in documents],
        [d.data for d in documents],
        [d.revision for d in documents],
        [d.created_at for d in documents],
        [d.updated_at for d in documents],
    )
    return len(rows) > 0


async def lock_row(connection: Any, tenant_id: int, number: int, document_id: str) -> Any:
    """A document's key, revision, updated_at and data, which nobody changes until the transaction
    ends; None where there is none.
    """
    return await connection.fetchrow(_LOCK, tenant_id, number, document_id)


async def refusing(work: Awaitable[T]) -> T:
    """Turn what jsonb can't hold into a refusal."""
    try:
        return await work
    except asyncpg.DataError as error:
        raise Invalid(f"PostgreSQL can't hold a value of the document: {error}.") from None
    except asyncpg.ForeignKeyViolationError:
        raise NotFound("The tenant or the collection has just been deleted.") from None


async def alone(connection: Any, tenant_id: int, collection: str, document_id: str) -> None:
    """Wait for whoever makes or deletes the same document, before the transaction has a number:
    so what comes later in its history has a later place in the change log.
    """
    await connection.execute(
        "SELECT pg_advisory_xact_lock(hashtextextended($1, 0))",
        f"{tenant_id}/{collection}/{document_id}",
    )


def etag_of(document_id: str, row: Any) -> str:
    """The entity tag of a row that `lock_row` gave."""
    return Document(document_id, "", row["revision"], 0, row["updated_at"]).etag


def changed_fields(collection: Collection, before: str, after: str) -> list[str]:
    """The promoted fields that lie otherwise in one JSON text than in another."""
    if not collection.fields:
        return []
    old, new = msgspec.json.decode(before), msgspec.json.decode(after)
    return [f.name for f in collection.fields if _at(old, f.steps) != _at(new, f.steps)]


def _at(value: Any, steps: Sequence[str | int]) -> Any:
    for step in steps:
        try:
            value = value[step]
        except (KeyError, IndexError, TypeError):
            return None
    return value
