"""What streams in Redis put off: retention, deliveries that fell due unseen, consumers that left.

Every server does it; each step is one script, so two that look at once only look twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from monolite.streams.redis_store import RedisStore
from monolite.streams.upkeep import CONSUMER_KEPT_MS, Kept

_LOOKED_AT_ONCE = 1000


class RedisStreamUpkeep:
    """The chores of one store."""

    def __init__(self, store: RedisStore) -> None:
        self._store = store
        self.kept = Kept()

    async def retain(self) -> None:
        """Trim every stream whose retention says so."""
        store = self._store
        for one in await store.connection.send(("SMEMBERS", "monolite:retained")):
            tenant, _, name = one.decode().partition("/")
            await store.call("retain", int(tenant), name, *store.times())

    async def sweep(self) -> None:
        """Look at what fell due since the last time."""
        store = self._store
        due = await store.connection.run("due", *store.times(), _LOOKED_AT_ONCE)
        for one in due:
            tenant, name, group = one.decode().split("/")
            is_cut = True
            while is_cut:
                dead, is_cut = await store.call(
                    "sweep", int(tenant), name, group, store.server, *store.times()
                )
                store.dead_count += dead
            store.waiting.call_all((int(tenant), name), group)

    async def expire_consumers(self) -> None:
        """Forget consumers that have asked for nothing and held nothing for a week."""
        store = self._store
        async for tenant, name, _ in self._each():
            for group in await store.connection.send(
                ("SMEMBERS", f"monolite:{tenant}:{name}:groups")
            ):
                await store.call(
                    "expire_consumers", tenant, name, group, *store.times(), CONSUMER_KEPT_MS
                )

    async def measure(self) -> None:
        """Look how much is kept."""
        oldest_ms, groups, now_ms = None, 0, await self._now_ms()
        async for _, _, (_, first, _, group_count, *_) in self._each():
            groups = max(groups, group_count)
            if first:
                ms = int(first.partition(b"-")[0])
                oldest_ms = ms if oldest_ms is None else min(oldest_ms, ms)
        age_ms = 0 if oldest_ms is None else max(0, now_ms - oldest_ms)
        self.kept = Kept(age_ms / 3_600_000, groups)

    async def _now_ms(self) -> int:
        seconds, micros = await self._store.connection.send(("TIME",))
        return int(seconds) * 1000 + int(micros) // 1000

    async def _each(self) -> Any:
        """Every stream: tenant, name, and what `stream` says of it."""
        store = self._store
        after = "-"
        while True:
            listed: Sequence[bytes] = await store.connection.send(
                *(("ZRANGE", "monolite:streams", after, "+", "BYLEX", "LIMIT", 0, 200),)
            )
            known = [one.decode().partition("/") for one in listed]
            places = [(int(tenant, 16), name) for tenant, _, name in known]
            replies = await asyncio.gather(*[store.call("stream", *place) for place in places])
            for place, reply in zip(places, replies, strict=True):
                if reply is not None:
                    yield (*place, reply)
            if not listed:
                return
            after = f"({listed[-1].decode()}"
