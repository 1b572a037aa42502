"""The words of every index in one FTS5 table, which says which documents have a word.

    document 7 of index 12: "to be or not to be"
    row 7: 12_to 12_to~ 12_to~0 12_be 12_be~ 12_be~0 12_or 12_not

A word stands behind its index's number, so what one index holds is in no list of another's. A
word that comes more than once has a `~` behind it too, and a `~B` for each bit B that is set in how
often it comes again. The table keeps neither text nor positions, and its own statistics, which are
of all indexes together, are never used: scores come from bm25.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import apsw

from monolite.search.words import COUNT_MAX

BITS = (COUNT_MAX - 1).bit_length()


def add(connection: apsw.Connection, number: int, key: int, words: Mapping[str, int]) -> None:
    """Index a document's words under its key; they go with its row."""
    if words:
        connection.execute(
            "INSERT INTO search_words (rowid, words) VALUES (?, ?)", (key, _row(number, words))
        )


def with_word(
    connection: apsw.Connection, number: int, word: str, after: int
) -> Sequence[tuple[int, int]]:
    """Documents beyond a key that have a word, ascending: (key, how often)."""
    keys = _keys(connection, f"{number}_{word}", after)
    often = _keys(connection, f"{number}_{word}~", after)
    if not often:
        return [(key, 1) for key in keys]
    counts = dict.fromkeys(keys, 1)
    for bit in range(BITS):
        for key in _keys(connection, f"{number}_{word}~{bit}", after):
            counts[key] += 1 << bit
    return list(counts.items())


def _keys(connection: apsw.Connection, token: str, after: int) -> list[int]:
    rows: Any = connection.execute(
        "SELECT rowid FROM search_words WHERE search_words MATCH ? AND rowid > ? ORDER BY rowid",
        (f'"{token}"', after),
    )
    return [key for (key,) in rows]


def _row(number: int, words: Mapping[str, int]) -> str:
    tokens = []
    for word, count in words.items():
        token = f"{number}_{word}"
        tokens.append(token)
        if count > 1:
            tokens.append(f"{token}~")
            again = count - 1
            tokens += [f"{token}~{bit}" for bit in range(BITS) if again >> bit & 1]
    return " ".join(tokens)
