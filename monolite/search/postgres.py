"""Search in PostgreSQL with pgvector, shared by several servers."""

from __future__ import annotations

import asyncio
import struct
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Literal

from monolite.errors import NotFound, Unavailable
from monolite.search import postgres_store as rows
from monolite.search.engine import Also
from monolite.search.filters import unknown_field
from monolite.search.fusion import depth_for, fuse
from monolite.search.index import (
    Entry,
    Extent,
    Found,
    Hit,
    Index,
    Query,
    Recall,
    Source,
    Stored,
    check_width,
    follows,
)
from monolite.search.postgres_graphs import (
    Pgvector,
    graph_name,
    is_work_left,
    work_a_slice,
)
from monolite.search.postgres_rank import (
    Place,
    Ranked,
    first_unknown,
    nearest,
    nearest_by_graph,
    rank_words,
)
from monolite.storage.postgres.companion import accompany
from monolite.storage.postgres.errors import CAUGHT
from monolite.storage.postgres.notifications import Notifications
from monolite.storage.postgres.pool import Pool

CHANNEL = "monolite_search"

# Children before what they reference: the order in which a tenant's rows are deleted. Vectors go
# with their documents.
TENANT_TABLES = ("search_documents", "search_indexes")

SAMPLES_MAX = 8
SAMPLED_EVERY = 4
RECALL_K = 10
_RECALL_AGAIN_S = 60.0
_FOLLOWING_LOCK = 0x6D6E7366
_ALONE_AGAIN_S = 1.0
_PROBE_INTERVAL_S = 5.0
_HITS = "SELECT key, id, text, metadata::text FROM search_documents WHERE key = ANY ($1::bigint[])"


class PostgresSearchEngine:
    """The SearchEngine that several servers share."""

    def __init__(self, pool: Pool, notifications: Notifications) -> None:
        self._pool = pool
        self.pgvector = Pgvector(pool)
        self._heard: Callable[[], None] = lambda: None
        self._samples: dict[int, _Samples] = {}
        self.work_waits = asyncio.Event()
        notifications.listen(CHANNEL, lambda _: self._heard(), lambda: self._heard())

    # ── Indexes ────────────────────────────────────────────────────────────────────────────────

    async def define(
        self, tenant_id: int, name: str, model: str, source: Source | None, now_ms: int
    ) -> tuple[Index, bool]:
        await self.pgvector.schema()
        made = await self._pool.transaction(
            lambda c: rows.define(c, tenant_id, name, model, source, now_ms)
        )
        await self._tell()
        return made

    async def index(self, tenant_id: int, name: str) -> Index | None:
        return await rows.find(self._pool, tenant_id, name)

    async def indexes(self, tenant_id: int, after: str | None, limit: int) -> Sequence[Index]:
        found = await self._pool.fetch(
            f"SELECT {rows.COLUMNS} FROM search_indexes WHERE tenant_id = $1 AND name > $2"
            " AND deleted_at IS NULL ORDER BY name LIMIT $3",
            *(tenant_id, after or "", limit),
        )
        return [rows.index_of(row) for row in found]

    async def delete_index(self, tenant_id: int, name: str, now_ms: int) -> bool:
        was_there = await self._pool.transaction(lambda c: rows.delete(c, tenant_id, name, now_ms))
        await self._tell()
        return was_there

    # ── Documents ──────────────────────────────────────────────────────────────────────────────

    async def upsert(
        self,
        tenant_id: int,
        name: str,
        model: str,
        entries: Sequence[Entry],
        now_ms: int,
        also: Also = None,
    ) -> int:
        vector_type = f"{await self.pgvector.schema()}.vector"

        async def work(connection: Any) -> int:
            index = await rows.opened(connection, tenant_id, name, model, now_ms)
            if index.source is not None:
                raise follows(index)
            await rows.store(connection, tenant_id, index, entries, (), vector_type, now_ms)
            await accompany(also, connection, len(entries))
            return len(entries)

        return await self._pool.transaction(work)

    async def remove(self, tenant_id: int, name: str, document_id: str, now_ms: int) -> bool:
        vector_type = f"{await self.pgvector.schema()}.vector"

        async def work(connection: Any) -> bool:
            index = await rows.locked(connection, tenant_id, name)
            if index is None:
                return False
            if index.source is not None:
                raise follows(index)
            gone = await rows.store(
                connection, tenant_id, index, (), [document_id], vector_type, now_ms
            )
            return gone > 0

        return await self._pool.transaction(work)

    async def get(self, tenant_id: int, name: str, document_id: str) -> Stored | None:
        index = await self.index(tenant_id, name)
        if index is None or index.dimensions is None:
            return None
        row = await self._pool.fetchrow(
            f"{rows.STORED} AND d.id = $3", tenant_id, index.number, document_id
        )
        return None if row is None else rows.stored_of(row)

    # ── Following ──────────────────────────────────────────────────────────────────────────────

    def on_news(self, heard: Callable[[], None]) -> None:
        self._heard = heard

    @asynccontextmanager
    async def following_alone(self) -> AsyncIterator[asyncio.Event]:
        # A session's lock: where the connection ends, another server may follow.
        async with self._pool.dedicated() as connection:
            lost = asyncio.Event()
            connection.add_termination_listener(lambda _: lost.set())
            # Asked again and again: a statement that waits would hold back others' change logs.
            while not await connection.fetchval(  # noqa: ASYNC110
                "SELECT pg_try_advisory_lock($1)", _FOLLOWING_LOCK
            ):
                await asyncio.sleep(_ALONE_AGAIN_S)
            probing = asyncio.create_task(_probe(connection, lost))
            try:
                yield lost
            finally:
                probing.cancel()
                await asyncio.gather(probing, return_exceptions=True)

    async def following(self) -> Sequence[tuple[int, Index]]:
        found = await self._pool.fetch(
            f"SELECT {rows.COLUMNS}, tenant_id FROM search_indexes WHERE source IS NOT NULL"
            " AND deleted_at IS NULL"
        )
        return [(row["tenant_id"], rows.index_of(row)) for row in found]

    async def follow(
        self,
        tenant_id: int,
        index: Index,
        entries: Sequence[Entry],
        removed: Sequence[str],
        position: str,
        now_ms: int,
    ) -> bool:
        vector_type = f"{await self.pgvector.schema()}.vector"

        async def work(connection: Any) -> bool:
            now = await rows.locked_number(connection, tenant_id, index.number)
            if now is None or now.position != index.position:
                return False
            await rows.store(connection, tenant_id, now, entries, removed, vector_type, now_ms)
            await connection.execute(
                "UPDATE search_indexes SET position = $2 WHERE id = $1", now.number, position
            )
            return True

        return await self._pool.transaction(work)

    async def empty(self, tenant_id: int, index: Index, now_ms: int) -> None:
        await self._pool.transaction(lambda c: rows.renew(c, tenant_id, index, now_ms))
        await self._tell()

    # ── Search ─────────────────────────────────────────────────────────────────────────────────

    async def search(self, tenant_id: int, index: Index, query: Query) -> Found:
        schema = await self.pgvector.schema()
        if index.dimensions is None:
            return Found([], 0.0)
        check_width(query, index)

        async def work(connection: Any) -> Found:
            # The first statement takes the snapshot that all of them read.
            now = await _place(connection, tenant_id, index, schema)
            if now is None:
                raise NotFound("There is no such index.")
            place, documents = now
            started = time.perf_counter()
            ranked = await self._ranked(connection, place, documents, query)
            if not ranked and query.where:
                condition = await first_unknown(connection, index, query.where)
                if condition is not None:
                    raise unknown_field(condition)
            found = await connection.fetch(_HITS, [key for key, _ in ranked])
            by_key = {row[0]: row for row in found}
            hits = [_hit(by_key[key], score) for key, score in ranked]
            return Found(hits, (time.perf_counter() - started) * 1000)

        return await self._pool.transaction(work, isolation="repeatable_read")

    async def _ranked(self, connection: Any, place: Place, documents: int, query: Query) -> Ranked:
        depth = query.k if query.mode != "hybrid" else depth_for(query.k)
        rankings: list[Ranked] = []
        if query.vector is not None:
            near: Ranked = []
            if place.has_graph and not query.where and not query.exact:
                self._sampled(place.index.number).add(query.vector)
                near = await nearest_by_graph(connection, place, query.vector, depth)
            # A graph whose rows died gives too few.
            if len(near) < min(depth, documents):
                near = await nearest(connection, place, query.vector, depth, query.where)
            rankings.append(near)
        if query.words:
            rankings.append(
                await rank_words(connection, place.index, query.words, depth, query.where)
            )
        if query.mode != "hybrid":
            return rankings[0]
        return fuse(*rankings)[: query.k]

    async def extent(self, tenant_id: int, index: Index) -> Extent:
        if index.dimensions is None:
            return Extent(0, 0, "exact")
        schema = await self.pgvector.schema()

        async def work(connection: Any) -> Extent:
            now = await _place(connection, tenant_id, index, schema)
            if now is None:
                return Extent(0, 0, "exact")
            place, documents = now
            if not place.has_graph:
                return Extent(documents, documents * _row_bytes(index), "exact")
            size = await connection.fetchval(
                "SELECT pg_relation_size(to_regclass($1))", graph_name(index.number)
            )
            recall = await self._sampled(index.number).measure(connection, place)
            return Extent(documents, size, "graph", 1.0, recall)

        return await self._pool.transaction(work, isolation="repeatable_read")

    def _sampled(self, number: int) -> _Samples:
        return self._samples.setdefault(number, _Samples())

    # ── What was put off ───────────────────────────────────────────────────────────────────────

    async def upkeep(self) -> bool:
        """Remove some rows of indexes that were deleted, build a graph; whether more is left."""
        if not await is_work_left(self._pool):
            return False
        return await work_a_slice(self._pool, await self.pgvector.schema())

    async def begin(self) -> None:
        """Look for pgvector, so that the log says at the start where there is none."""
        with suppress(Unavailable):
            await self.pgvector.schema()

    async def _tell(self) -> None:
        """Tell every server that an index was defined or deleted."""
        self.work_waits.set()
        await self._pool.fetch("SELECT pg_notify($1, '')", CHANNEL)


class _Samples:
    """Queries of one index that went through its graph, and what they told of it."""

    def __init__(self) -> None:
        self._queries: deque[bytes] = deque(maxlen=SAMPLES_MAX)
        self._seen = 0
        self._measured: tuple[float, Recall] | None = None

    def add(self, query: bytes) -> None:
        """A search for it was by the graph; one in so many is kept."""
        self._seen += 1
        if self._seen % SAMPLED_EVERY == 0 or not self._queries:
            self._queries.append(query)

    async def measure(self, connection: Any, place: Place) -> Recall | None:
        """The part of an exact search's hits that the graph finds too."""
        known, now = self._measured, time.monotonic()
        if known is not None and now - known[0] < _RECALL_AGAIN_S:
            return known[1]
        queries = list(self._queries) or await _stored(connection, place.index)
        found = []
        for query in queries:
            quick = await nearest_by_graph(connection, place, query, RECALL_K)
            exact = await nearest(connection, place, query, RECALL_K, ())
            keys = {key for key, _ in quick}
            found.append(sum(key in keys for key, _ in exact) / max(1, len(exact)))
        if not found:
            return None
        by: Literal["queries", "documents"] = "queries" if self._queries else "documents"
        recall = Recall(sum(found) / len(found), len(found), by)
        self._measured = now, recall
        return recall


async def _stored(connection: Any, index: Index) -> list[bytes]:
    found = await connection.fetch(
        "SELECT vector::real[] FROM search_vectors WHERE index_id = $1 ORDER BY key LIMIT $2",
        *(index.number, SAMPLES_MAX),
    )
    return [struct.pack(f"<{len(vector)}f", *vector) for (vector,) in found]


async def _place(
    connection: Any, tenant_id: int, index: Index, schema: str
) -> tuple[Place, int] | None:
    """Where an index's vectors lie, and how many there are; None where it is gone."""
    row = await connection.fetchrow(
        "SELECT documents, coalesce((SELECT indisvalid FROM pg_index WHERE indexrelid ="
        " to_regclass($3)), false) FROM search_indexes WHERE tenant_id = $1 AND id = $2"
        " AND deleted_at IS NULL",
        *(tenant_id, index.number, graph_name(index.number)),
    )
    return None if row is None else (Place(index, schema, row[1]), row[0])


async def _probe(connection: Any, lost: asyncio.Event) -> None:
    """Set `lost` once the connection no longer answers: a network that fails tells nobody."""
    try:
        while True:
            await asyncio.sleep(_PROBE_INTERVAL_S)
            await connection.fetchval("SELECT 1", timeout=_PROBE_INTERVAL_S)
    except CAUGHT:
        lost.set()


def _hit(row: Any, score: float) -> Hit:
    _, document_id, text, metadata = row
    return Hit(document_id, score, None if text is None else text.decode(), metadata)


def _row_bytes(index: Index) -> int:
    assert index.dimensions is not None
    return 4 * index.dimensions + 8
