"""The words of an index in a table of FTS5 of its own: its BM25 knows no other index's documents.

The table keeps no text (`content=''`): that lies in `search_documents`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import apsw


def table(number: int) -> str:
    """The table's name."""
    return f"search_words_{int(number)}"


def create(connection: apsw.Connection, number: int) -> None:
    """Make the table where it is missing."""
    connection.execute(
        f"CREATE VIRTUAL TABLE IF NOT EXISTS {table(number)} USING fts5"
        "(text, content='', contentless_delete=1, tokenize='unicode61 remove_diacritics 2')"
    )


def add(connection: apsw.Connection, number: int, key: int, text: str) -> None:
    """Index a text's words under a key."""
    connection.execute(f"INSERT INTO {table(number)} (rowid, text) VALUES (?, ?)", (key, text))


def remove(connection: apsw.Connection, number: int, key: int) -> None:
    """Forget a key's words."""
    connection.execute(f"DELETE FROM {table(number)} WHERE rowid = ?", (key,))


def rank(
    connection: apsw.Connection,
    number: int,
    words: Sequence[str],
    k: int,
    allowed: Callable[[int], bool] | None,
) -> list[tuple[int, float]]:
    """The k best keys by BM25 (Robertson et al. 1994; higher is better here), any word matching."""
    if not words:
        return []
    # Quoted, so that a word is never read as FTS5's syntax.
    match = " OR ".join(f'"{word}"' for word in words)
    rows: Any = connection.execute(
        f"SELECT rowid, -bm25({table(number)}) AS score FROM {table(number)}"
        f" WHERE {table(number)} MATCH ? ORDER BY score DESC, rowid",
        (match,),
    )
    found: list[tuple[int, float]] = []
    for key, score in rows:
        if allowed is None or allowed(key):
            found.append((key, score))
            if len(found) == k:
                break
    return found


def orphans(connection: apsw.Connection) -> list[int]:
    """The numbers of indexes that are gone and whose tables are not."""
    rows: Any = connection.execute(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name GLOB 'search_words_[0-9]*'"
        " AND sql LIKE 'CREATE VIRTUAL%'"
        " AND CAST(substr(name, 14) AS INTEGER) NOT IN (SELECT id FROM search_indexes)"
    )
    return [int(name.removeprefix("search_words_")) for (name,) in rows]


def drop(connection: apsw.Connection, number: int) -> None:
    """Drop an index's table."""
    connection.execute(f"DROP TABLE IF EXISTS {table(number)}")
