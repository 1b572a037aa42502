"""The rows of one index in SQLite, as a reader's snapshot has them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import apsw

from monolite.search import sqlite_words

_PLACE = "WHERE tenant_id = ? AND index_id = ?"
_ROWS = f"FROM search_documents INDEXED BY search_documents_in_order {_PLACE}"


class SqliteRows:
    """A view's RowSource. The caller has begun a transaction."""

    def __init__(self, connection: apsw.Connection, tenant_id: int, number: int) -> None:
        self._connection = connection
        self._number = number
        self._place = tenant_id, number

    def listed(self, after: int) -> Sequence[tuple[int, int]]:
        rows: Any = self._connection.execute(
            f"SELECT key, words {_ROWS} AND key > ? ORDER BY key", (*self._place, after)
        )
        return list(rows)

    def removed(self, after: int) -> Sequence[tuple[int, int]]:
        rows: Any = self._connection.execute(
            f"SELECT number, key FROM search_removals {_PLACE} AND number > ? ORDER BY number",
            (*self._place, after),
        )
        return list(rows)

    def vectors(self, after: int, limit: int) -> Sequence[tuple[int, bytes]]:
        # CROSS keeps the order: first the index's keys, then each one's vector.
        rows: Any = self._connection.execute(
            "SELECT d.key, v.vector FROM search_documents d INDEXED BY search_documents_in_order"
            " CROSS JOIN search_vectors v ON v.key = d.key WHERE d.tenant_id = ? AND d.index_id = ?"
            " AND d.key > ? ORDER BY d.key LIMIT ?",
            (*self._place, after, limit),
        )
        return list(rows)

    def vectors_of(self, keys: Sequence[int]) -> Sequence[tuple[int, bytes]]:
        found: list[tuple[int, bytes]] = []
        execute = self._connection.execute
        for key in keys:
            found.extend(execute("SELECT key, vector FROM search_vectors WHERE key = ?", (key,)))
        return found

    def metadata(self, path: tuple[str, ...], after: int) -> Iterator[tuple[int, str]]:
        steps = "".join(f'."{step}"' for step in path)
        rows: Any = self._connection.execute(
            f"SELECT key, metadata -> ? {_ROWS} AND key > ? ORDER BY key",
            (f"${steps}", *self._place, after),
        )
        for key, value in rows:
            if value is not None:
                yield key, value

    def with_word(self, word: str, after: int) -> Sequence[tuple[int, int]]:
        return sqlite_words.with_word(self._connection, self._number, word, after)
