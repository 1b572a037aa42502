"""A tenant's search indexes as records, out of SQLite and into it."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import apsw
import msgspec

from monolite.search.index import Entry, Source
from monolite.search.sqlite import find as find_index
from monolite.search.sqlite import restore_index, store

KINDS = ("search_index", "search_document")


class SqliteSearchArchive:
    """Indexes with their definitions, and documents with their vectors. An index that follows a
    collection comes without its documents: it finds them there.
    """

    kinds: tuple[str, ...] = KINDS

    def records(self, connection: apsw.Connection, tenant_id: int) -> Iterator[dict[str, Any]]:
        """Every index and document, in one snapshot of the reader's connection."""
        indexes: list[Any] = connection.execute(
            "SELECT id, name, model, source, created_at, updated_at FROM search_indexes"
            " WHERE tenant_id = ? AND deleted_at IS NULL ORDER BY id",
            (tenant_id,),
        ).fetchall()
        for _, name, model, source, created_at, updated_at in indexes:
            yield {
                "kind": "search_index",
                "name": name,
                "model": model,
                "source": None if source is None else msgspec.json.decode(source),
                "created_at": created_at,
                "updated_at": updated_at,
            }
        for number, name, _, source, _, _ in indexes:
            if source is not None:
                continue
            rows: Any = connection.execute(
                "SELECT id, text, json(metadata), vector, tokens, truncated, updated_at"
                " FROM search_documents JOIN search_vectors USING (key)"
                " WHERE search_documents.tenant_id = ? AND index_id = ? ORDER BY key",
                (tenant_id, number),
            )
            for document_id, text, metadata, vector, tokens, truncated, updated_at in rows:
                yield {
                    "kind": "search_document",
                    "index": name,
                    "id": document_id,
                    "text": text,
                    "metadata": msgspec.json.decode(metadata),
                    "vector": base64.b64encode(vector).decode(),
                    "tokens": tokens,
                    "truncated": bool(truncated),
                    "updated_at": updated_at,
                }

    def store(self, connection: apsw.Connection, tenant_id: int, record: dict[str, Any]) -> None:
        """Store one record; raises KeyError, TypeError or apsw.Error where it isn't ours."""
        if record["kind"] == "search_index":
            source = record["source"]
            restore_index(
                connection,
                tenant_id,
                record["name"],
                record["model"],
                None if source is None else msgspec.convert(source, Source),
                (record["created_at"], record["updated_at"]),
            )
            return
        index = find_index(connection, tenant_id, record["index"])
        if index is None:
            raise KeyError("index")
        vector = base64.b64decode(record["vector"])
        entry = Entry(
            record["id"],
            record["text"],
            msgspec.json.encode(record["metadata"]).decode(),
            vector,
            record["tokens"],
            record["truncated"],
        )
        store(connection, tenant_id, index, [entry], record["updated_at"])
