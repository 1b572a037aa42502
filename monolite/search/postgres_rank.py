"""Rankings in PostgreSQL: pgvector's inner product, exact or by its HNSW graph, and BM25 in SQL."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from monolite.search import bm25
from monolite.search.index import Condition, Index
from monolite.search.postgres_filters import conditions, value_at
from monolite.search.postgres_store import floats

EF_SEARCH_MIN, EF_SEARCH_MAX = 100, 1000
"""How many nodes a walk through the graph keeps; pgvector takes no more than 1 000."""

Ranked = Sequence[tuple[int, float]]
"""Keys, best first, with their scores."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where an index's vectors lie: `schema` is pgvector's, quoted; `has_graph` whether there is
    one that is ready.
    """

    index: Index
    schema: str
    has_graph: bool


async def nearest(
    connection: Any, place: Place, vector: bytes, k: int, where: Sequence[Condition]
) -> Ranked:
    """The k rows with the highest cosine of those that pass; every one of them is looked at."""
    values: list[object] = [floats(vector)]
    # What is added keeps the planner from the graph, which may leave something out.
    away = f"(v.vector OPERATOR({place.schema}.<#>) $1::real[]::{place.schema}.vector) + 0"
    source = "search_vectors v"
    if where:
        source += " JOIN search_documents d ON d.key = v.key"
    rows = await connection.fetch(
        f"SELECT v.key, -({away}) FROM {source} WHERE v.index_id = {place.index.number:d}"
        f"{conditions(where, values)} ORDER BY {away}, v.key LIMIT {k:d}",
        *values,
    )
    return [tuple(row) for row in rows]


async def nearest_by_graph(connection: Any, place: Place, vector: bytes, k: int) -> Ranked:
    """About the k rows with the highest cosine, by the graph; fewer where many rows of it died.

    In a transaction, whose settings it changes.
    """
    expansion = min(EF_SEARCH_MAX, max(EF_SEARCH_MIN, 2 * k))
    await connection.execute("SELECT set_config('hnsw.ef_search', $1, true)", str(expansion))
    kind = f"{place.schema}.vector({place.index.dimensions:d})"
    # The index's number as a literal: the graph's own condition must be seen to hold.
    rows = await connection.fetch(
        f"SELECT key, -(vector::{kind} OPERATOR({place.schema}.<#>) $1::real[]::{kind})"
        f" FROM search_vectors WHERE index_id = {place.index.number:d}"
        f" ORDER BY vector::{kind} OPERATOR({place.schema}.<#>) $1::real[]::{kind} LIMIT {k:d}",
        floats(vector),
    )
    return sorted((tuple(row) for row in rows), key=lambda row: (-row[1], row[0]))


async def rank_words(
    connection: Any, index: Index, words: Sequence[str], k: int, where: Sequence[Condition]
) -> Ranked:
    """The k best by BM25 of those that pass, any word matching; statistics are the index's."""
    values: list[object] = [
        index.number,
        [f"{index.number}_{word}" for word in dict.fromkeys(words)],
    ]
    passing = conditions(where, values)
    rows = await connection.fetch(
        "WITH whole AS (SELECT worded, words::float8 / greatest(1, worded) AS mean"
        " FROM search_indexes WHERE id = $1),"
        " found AS MATERIALIZED (SELECT w.word, d.key, d.length,"
        " d.counts[array_position(d.words, w.word)]::float8 AS count"
        " FROM unnest($2::text[]) AS w (word) JOIN search_documents d"
        " ON d.words @> ARRAY[w.word]),"
        " weights AS (SELECT word, ln((worded - count(*) + 0.5) / (count(*) + 0.5)) AS weight"
        " FROM found, whole GROUP BY word, worded)"
        " SELECT f.key, sum("
        f" CASE WHEN weight > 0 THEN weight ELSE {bm25.IDF_MIN} END * {bm25.K1 + 1} * count"
        f" / (count + {bm25.K1} * ({1 - bm25.B} + {bm25.B} * f.length / mean))) AS score"
        " FROM found f JOIN weights USING (word) CROSS JOIN whole"
        + (" JOIN search_documents d ON d.key = f.key WHERE true" + passing if where else "")
        + f" GROUP BY f.key ORDER BY score DESC, f.key LIMIT {k:d}",
        *values,
    )
    return [(key, float(score)) for key, score in rows]


async def first_unknown(
    connection: Any, index: Index, where: Sequence[Condition]
) -> Condition | None:
    """The first condition on a field that no document has; None where there are no documents."""
    for condition in where:
        if condition.path in index.declared:
            continue
        values: list[object] = [index.number]
        value = value_at(condition.path, values)
        known, is_empty = await connection.fetchrow(
            f"SELECT EXISTS (SELECT FROM search_documents d WHERE d.index_id = $1"
            f" AND {value} IS NOT NULL), documents = 0 FROM search_indexes WHERE id = $1",
            *values,
        )
        if not known and not is_empty:
            return condition
    return None
