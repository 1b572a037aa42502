"""What other servers of the same database did to keys and tenants, and what to forget for it.

key:ID          its tokens, streams and sockets end, and nobody is remembered
tenant:NUMBER   the same for all its keys
changed         nobody is remembered
a gap           the same, and the key of everything that is open is looked up again
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable

from monolite.clock import Clock
from monolite.tenancy.engine import TenancyEngine

log = logging.getLogger("monolite.tenancy")

_RETRY_S = 1.0


class KeyNews:
    """`forget` empties what is remembered of keys; the others end what one or a tenant has open."""

    def __init__(
        self,
        engine: TenancyEngine,
        clock: Clock,
        *,
        forget: Callable[[], None],
        end_key: Callable[[str], None],
        end_tenant: Callable[[int], None],
        open_keys: Callable[[], Iterable[str]],
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._forget = forget
        self._end_key = end_key
        self._end_tenant = end_tenant
        self._open_keys = open_keys
        self._looking: asyncio.Task[None] | None = None

    def heard(self, payload: str) -> None:
        """One piece of news, as the tenancy engine worded it."""
        self._forget()
        kind, _, which = payload.partition(":")
        if kind == "key":
            self._end_key(which)
        elif kind == "tenant":
            self._end_tenant(int(which))

    def missed(self) -> None:
        """There may have been news that never came."""
        self._forget()
        if self._looking is not None:
            self._looking.cancel()
        self._looking = asyncio.get_running_loop().create_task(self._look_again())

    def stop(self) -> None:
        """Look no more."""
        if self._looking is not None:
            self._looking.cancel()

    async def _look_again(self) -> None:
        for key_id in list(self._open_keys()):
            if not await self._is_live(key_id):
                self._end_key(key_id)

    async def _is_live(self, key_id: str) -> bool:
        while True:
            try:
                key = await self._engine.key(key_id)
            except Exception as error:
                # The database is away; what is open hears nothing new from it meanwhile.
                log.info("a key can't be looked up yet: %s", error)
                await asyncio.sleep(_RETRY_S)
                continue
            return (
                key is not None
                and key.revoked_at is None
                and (key.expires_at is None or key.expires_at > self._clock.now_ms())
            )
