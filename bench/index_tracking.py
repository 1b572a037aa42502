"""What counting the use of indexes costs the seed's query: counting on, beside off.

Two engines in this process answer from one file, one of them with its counting off. Each query goes
to both, one right after the other and the first in turn, so that a slow moment slows both. At the
end of a round what was counted is written down, and that too is on the bill: a server writes it
every ten seconds.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from bench import embedded, options, orders
from bench.embedded import Embedded
from bench.machine import Quietness
from bench.rounds import Figure, report
from monolite.documents.query import Query
from monolite.documents.usage import Usage

LIMIT = 200

Ask = Callable[[Embedded, int], Awaitable[object]]


@dataclass(frozen=True)
class Pair:
    """One round of one kind of query: its mean on each engine, and the share of writing down."""

    off_us: float
    on_us: float
    written_us: float

    @property
    def cost_percent(self) -> float:
        return 100 * ((self.on_us + self.written_us) / self.off_us - 1)


def main() -> int:
    parser = options.parser(__doc__ or "", "index_tracking", rounds=9, seconds=None)
    parser.add_argument("--tenants", type=int, default=100, help="(%(default)s)")
    parser.add_argument("--documents", type=int, default=1000, help="of each (%(default)s)")
    parser.add_argument("--queries", type=int, default=4000, help="each round (%(default)s)")
    chosen = parser.parse_args()
    return options.measure(lambda folder: asyncio.run(run(chosen, folder)))


async def run(chosen: argparse.Namespace, folder: Path) -> int:
    path = folder / "monolite.db"
    async with AsyncExitStack() as stack:
        on = await stack.enter_async_context(embedded.opened(path, Usage()))
        off = await stack.enter_async_context(embedded.opened(path, Usage(enabled=False)))
        await on.seed(chosen.tenants, chosen.documents)
        for tenant in range(1, chosen.tenants + 1):
            await on.define(tenant)
            await on.index(tenant, "region", "shipping_tier")
        await on.keep_up()
        collections = [await on.collection(tenant) for tenant in range(1, chosen.tenants + 1)]
        where = embedded.seeds_query(collections[0])

        async def find(one: Embedded, tenant: int) -> object:
            query = Query(where, limit=LIMIT)
            return await one.engine.find(tenant, collections[tenant - 1], query)

        async def count(one: Embedded, tenant: int) -> object:
            return await one.engine.count(tenant, collections[tenant - 1], where)

        chance = random.Random(1)
        quietness = Quietness()
        measured: dict[str, list[Pair]] = {"find": [], "count": []}
        await _round(find, off, on, range(1, chosen.tenants + 1))
        for _ in range(chosen.rounds):
            drawn = [chance.randint(1, chosen.tenants) for _ in range(chosen.queries)]
            for name, ask in (("find", find), ("count", count)):
                measured[name].append(await _round(ask, off, on, drawn))
        report_of_use = await on.engine.usage(1, orders.COLLECTION)
        assert report_of_use is not None  # it was seeded
        (index,) = report_of_use.indexes
        if not index.scans:
            raise RuntimeError("nothing was counted")
    print(f"{chosen.rounds} rounds of {chosen.queries} queries of each kind; {quietness}")
    for name, pairs in measured.items():
        off_us, on_us, written_us = (
            statistics.median(getattr(pair, key) for pair in pairs)
            for key in ("off_us", "on_us", "written_us")
        )
        print(
            f"{name:<8}off {off_us:8.1f} µs   on {on_us:8.1f} µs"
            f"   writing down {written_us:5.2f} µs"
        )
    costs = {name: [pair.cost_percent for pair in pairs] for name, pairs in measured.items()}
    return report(
        [
            Figure("cost of counting, the query", costs["find"], at_most=2.0, unit=" %"),
            Figure("cost of counting, its count", costs["count"], unit=" %"),
        ]
    )


async def _round(ask: Ask, off: Embedded, on: Embedded, tenants: Sequence[int]) -> Pair:
    spent_ns = {off: 0, on: 0}
    for at, tenant in enumerate(tenants):
        for one in (off, on) if at % 2 else (on, off):
            began = time.perf_counter_ns()
            await ask(one, tenant)
            spent_ns[one] += time.perf_counter_ns() - began
    began = time.perf_counter_ns()
    await on.engine.flush_usage()
    written_ns = time.perf_counter_ns() - began
    each = 1000 * len(tenants)
    return Pair(spent_ns[off] / each, spent_ns[on] / each, written_ns / each)


if __name__ == "__main__":
    sys.exit(main())
