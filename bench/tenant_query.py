"""The seed's query over many tenants, promoted and indexed, beside raw JSON and PostgreSQL 16.

    shipping_tier >= 3 and region = 'us-east', of one tenant drawn at random

Every contender holds the same orders in the order they arrived, tenants interleaved, everything in
memory, and is asked one query at a time. Ours is the engine in this process: `find` and `count`
with the filter compiled and the index chosen anew for every query, and beside that the whole way
from the query string. Raw JSON is a table of text in another SQLite file with our connection's
settings, read without any index and with one on the tenant. PostgreSQL answers prepared statements
over its local socket, with generated columns and an index on (tenant, region, tier), vacuumed, so
that a count reads the index alone; beside that one that visits the table, as it does where rows
were written since. Ours answers in order of creation; the others as they like, which is less work.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import apsw
import asyncpg

from bench import embedded, options, orders, postgres
from bench.embedded import Embedded
from bench.rounds import Figure, in_turn, ratios, report
from bench.timing import Timed, print_timed, timed
from monolite.clock import Identifiers, SystemClock
from monolite.documents.query import Query
from monolite.storage.sqlite.connection import open_reader, open_writer

LIMIT = 200
FIND, FIND_TEXT, COUNT = (
    "monolite, find",
    "monolite, find, from the query string",
    "monolite, count",
)
RAW, RAW_TENANT = "raw JSON, no index", "raw JSON, tenant index"
RAW_COUNT = "raw JSON, tenant index, count"
POSTGRES, POSTGRES_COUNT = "postgresql", "postgresql, count"
POSTGRES_TABLE = "postgresql, count that visits the table"
_RAW_SHOWN = "id, data, revision, created_at, updated_at"
_RAW_WHERE = (
    "tenant_id = ? AND data ->> '$.config.region' = ? AND data ->> '$.config.shipping_tier' >= ?"
)
_POSTGRES_WHERE = "tenant_id = $1 AND region = $2 AND shipping_tier >= $3"
_COUNTS = (COUNT, RAW_COUNT, POSTGRES_COUNT, POSTGRES_TABLE)

Ask = Callable[[int], Awaitable[int]]
"""How many documents the query finds of a tenant."""


def main() -> int:
    parser = options.parser(__doc__ or "", "tenant_query", rounds=3, seconds=None)
    parser.add_argument("--tenants", type=int, default=1000, help="(%(default)s)")
    parser.add_argument("--documents", type=int, default=1000, help="of each (%(default)s)")
    parser.add_argument(
        "--block", type=int, default=1, help="of one tenant that arrive together (%(default)s)"
    )
    parser.add_argument("--queries", type=int, default=2000, help="each run (%(default)s)")
    parser.add_argument(
        "--scans", type=int, default=100, help="queries without any index, each run (%(default)s)"
    )
    chosen = parser.parse_args()
    return options.measure(partial(run, chosen))


def run(chosen: argparse.Namespace, folder: Path) -> int:
    size = (chosen.tenants, chosen.documents, chosen.block)
    with postgres.running() as peer, asyncio.Runner() as runner:
        stack = AsyncExitStack()
        try:
            ours = runner.run(stack.enter_async_context(embedded.opened(folder / "monolite.db")))
            connection = runner.run(asyncpg.connect(peer.url("postgres")))
            stack.push_async_callback(connection.close)
            runner.run(_fill_ours(ours, *size))
            _fill_raw(folder / "raw.db", *size)
            runner.run(_fill_postgres(connection, *size))
            asks = {
                **runner.run(_ask_ours(ours, chosen.tenants)),
                **_ask_raw(open_reader(folder / "raw.db")),
                **runner.run(_ask_postgres(connection)),
                POSTGRES_TABLE: runner.run(_count_unvacuumed(stack, peer.url("postgres"))),
            }
            passing = sum(map(orders.passes, range(chosen.documents)))
            runner.run(_check(asks, chosen.tenants, passing))
            chance = random.Random(1)

            def asked(name: str) -> Timed:
                count = chosen.scans if name == RAW else chosen.queries
                drawn = [chance.randint(1, chosen.tenants) for _ in range(count)]
                return runner.run(timed(asks[name], drawn))

            measured = in_turn({name: partial(asked, name) for name in asks}, chosen.rounds)
        finally:
            runner.run(stack.aclose())
    print_timed(measured)
    return report(_figures(measured))


def _figures(measured: Mapping[str, Sequence[Timed]]) -> list[Figure]:
    def p50(ours: str, peer: str) -> list[float]:
        return ratios(*([timed.p50_us for timed in measured[name]] for name in (ours, peer)))

    def p99_percent(peer: str) -> list[float]:
        pair = ([timed.p99_us for timed in measured[name]] for name in (FIND, peer))
        return [100 * ratio for ratio in ratios(*pair)]

    return [
        Figure("p99, to raw JSON without an index", p99_percent(RAW), at_most=0.5, unit=" %"),
        Figure("p99, to raw JSON, tenant index", p99_percent(RAW_TENANT), at_most=15, unit=" %"),
        Figure("p50, to PostgreSQL", p50(FIND, POSTGRES), at_most=0.33),
        Figure("p50 of the count, to PostgreSQL", p50(COUNT, POSTGRES_COUNT), at_most=0.06),
        Figure("p50 from the query string, to PostgreSQL", p50(FIND_TEXT, POSTGRES)),
        Figure("p50 of the count, to PostgreSQL's of the table", p50(COUNT, POSTGRES_TABLE)),
        Figure("p50 of the count, to raw JSON, tenant index", p50(COUNT, RAW_COUNT)),
    ]


# ── Filling ────────────────────────────────────────────────────────────────────────────────────


async def _fill_ours(ours: Embedded, tenants: int, each: int, block: int) -> None:
    await ours.seed(tenants, each, block)
    for tenant in range(1, tenants + 1):
        await ours.define(tenant)
        await ours.index(tenant, "region", "shipping_tier")
    await ours.keep_up()


def _fill_raw(path: Path, tenants: int, each: int, block: int) -> None:
    connection = open_writer(path, synchronous="normal", autocheckpoint=True)
    connection.execute(
        "CREATE TABLE raw (key INTEGER PRIMARY KEY, tenant_id INTEGER NOT NULL, id TEXT NOT NULL,"
        " data TEXT NOT NULL, revision INTEGER NOT NULL, created_at INTEGER NOT NULL,"
        " updated_at INTEGER NOT NULL)"
    )
    with connection:
        connection.executemany(
            "INSERT INTO raw VALUES (?, ?, ?, ?, ?, ?, ?)", _rows(tenants, each, block)
        )
    connection.execute("CREATE INDEX raw_by_tenant ON raw (tenant_id)")
    connection.pragma("wal_checkpoint", "TRUNCATE")
    connection.close()


async def _fill_postgres(connection: Any, tenants: int, each: int, block: int) -> None:
    await connection.execute(
        """
        CREATE TABLE orders (
            key bigint PRIMARY KEY, tenant_id int NOT NULL, id text NOT NULL, data jsonb NOT NULL,
            revision int NOT NULL, created_at bigint NOT NULL, updated_at bigint NOT NULL,
            region text GENERATED ALWAYS AS (data #>> '{config,region}') STORED,
            shipping_tier int GENERATED ALWAYS AS ((data #>> '{config,shipping_tier}')::int) STORED
        )
        """
    )
    columns = ("key", "tenant_id", "id", "data", "revision", "created_at", "updated_at")
    rows = _rows(tenants, each, block)
    await connection.copy_records_to_table("orders", records=rows, columns=columns)
    await connection.execute(
        "CREATE INDEX orders_best ON orders (tenant_id, region, shipping_tier)"
    )
    await connection.execute("VACUUM ANALYZE orders")
    await connection.execute("CHECKPOINT")


def _rows(tenants: int, each: int, block: int) -> Iterator[tuple[Any, ...]]:
    now_ms = time.time_ns() // 1_000_000
    identifiers = Identifiers(SystemClock())
    for key, (tenant, n) in enumerate(orders.interleaved(tenants, each, block), start=1):
        yield key, tenant, identifiers.new(), orders.text(n), 1, now_ms, now_ms


# ── Asking ─────────────────────────────────────────────────────────────────────────────────────


async def _ask_ours(ours: Embedded, tenants: int) -> dict[str, Ask]:
    engine = ours.engine
    collections = [await ours.collection(tenant) for tenant in range(1, tenants + 1)]
    wheres = [embedded.seeds_query(collection) for collection in collections]

    async def find(tenant: int) -> int:
        query = Query(wheres[tenant - 1], limit=LIMIT)
        return len((await engine.find(tenant, collections[tenant - 1], query)).documents)

    async def find_from_text(tenant: int) -> int:
        collection = await ours.collection(tenant)
        query = Query(embedded.seeds_query(collection), limit=LIMIT)
        return len((await engine.find(tenant, collection, query)).documents)

    async def count(tenant: int) -> int:
        return await engine.count(tenant, collections[tenant - 1], wheres[tenant - 1])

    return {FIND: find, FIND_TEXT: find_from_text, COUNT: count}


def _ask_raw(connection: apsw.Connection) -> dict[str, Ask]:
    def statement(columns: str, source: str, limit: str, way: str) -> Ask:
        text = f"SELECT {columns} FROM {source} WHERE {_RAW_WHERE}{limit}"
        values = (orders.REGION, orders.TIER_MIN)
        (plan,) = connection.execute(f"EXPLAIN QUERY PLAN {text}", (1, *values))
        assert way in plan[3], plan

        async def ask(tenant: int) -> int:
            rows = connection.execute(text, (tenant, *values)).fetchall()
            return len(rows) if limit else int(str(rows[0][0]))

        return ask

    limit, indexed = f" LIMIT {LIMIT}", "raw INDEXED BY raw_by_tenant"
    return {
        RAW: statement(_RAW_SHOWN, "raw NOT INDEXED", limit, "SCAN"),
        RAW_TENANT: statement(_RAW_SHOWN, indexed, limit, "SEARCH"),
        RAW_COUNT: statement("count(*)", indexed, "", "SEARCH"),
    }


async def _ask_postgres(connection: Any) -> dict[str, Ask]:
    found = await connection.prepare(
        "SELECT id, data, revision, created_at, updated_at FROM orders"
        f" WHERE {_POSTGRES_WHERE} LIMIT {LIMIT}"
    )

    async def find(tenant: int) -> int:
        return len(await found.fetch(tenant, orders.REGION, orders.TIER_MIN))

    return {POSTGRES: find, POSTGRES_COUNT: await _count_postgres(connection)}


async def _count_unvacuumed(stack: AsyncExitStack, url: str) -> Ask:
    """The count as it is where rows were written since the last VACUUM."""
    connection = await asyncpg.connect(url)
    stack.push_async_callback(connection.close)
    await connection.execute("SET enable_indexonlyscan = off")
    return await _count_postgres(connection)


async def _count_postgres(connection: Any) -> Ask:
    counted = await connection.prepare(f"SELECT count(*) FROM orders WHERE {_POSTGRES_WHERE}")

    async def count(tenant: int) -> int:
        return int(await counted.fetchval(tenant, orders.REGION, orders.TIER_MIN))

    return count


async def _check(asks: Mapping[str, Ask], tenants: int, passing: int) -> None:
    """All find the same, and what they read is in memory."""
    for name, ask in asks.items():
        expected = passing if name in _COUNTS else min(passing, LIMIT)
        for tenant in (1, tenants) if name == RAW else range(1, tenants + 1):
            count = await ask(tenant)
            if count != expected:
                raise RuntimeError(
                    f"{name} finds {count} orders of tenant {tenant}, not {expected}"
                )


if __name__ == "__main__":
    sys.exit(main())
