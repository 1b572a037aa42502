"""The rows of one index in SQLite, as a reader's snapshot has them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import apsw

_ROWS = "FROM search_documents INDEXED BY search_documents_in_order"
_WHERE = "WHERE tenant_id = ? AND index_id = ?"


class SqliteRows:
    """A view's RowSource. The caller has begun a transaction."""

    def __init__(self, connection: apsw.Connection, tenant_id: int, number: int) -> None:
        self._connection = connection
        self._place = tenant_id, number

    def keys(self) -> Sequence[int]:
        rows: Any = self._connection.execute(
            f"SELECT key {_ROWS} {_WHERE} ORDER BY key", self._place
        )
        return [key for (key,) in rows]

    def vectors(self, after: int, limit: int) -> Sequence[tuple[int, bytes]]:
        rows: Any = self._connection.execute(
            f"SELECT key, (SELECT vector FROM search_vectors v WHERE v.key = d.key) FROM"
            f" search_documents d INDEXED BY search_documents_in_order {_WHERE} AND key > ?"
            " ORDER BY key LIMIT ?",
            (*self._place, after, limit),
        )
        return list(rows)

    def removed(self, after: int) -> Sequence[tuple[int, int]]:
        rows: Any = self._connection.execute(
            f"SELECT number, key FROM search_removals {_WHERE} AND number > ? ORDER BY number",
            (*self._place, after),
        )
        return list(rows)

    def metadata(self, path: tuple[str, ...], after: int) -> Iterator[tuple[int, str | None]]:
        steps = "".join(f'."{step}"' for step in path)
        rows: Any = self._connection.execute(
            f"SELECT key, metadata -> ? {_ROWS} {_WHERE} AND key > ? ORDER BY key",
            (f"${steps}", *self._place, after),
        )
        yield from rows

    def vector(self, key: int) -> bytes | None:
        row: Any = self._connection.execute(
            "SELECT vector FROM search_vectors WHERE key = ?", (key,)
        ).fetchone()
        return None if row is None else row[0]
