"""Which store an installation's streams lie in: its own database, or Redis.

The database remembers it, so that a server with the wrong setting does not start on empty streams;
and Redis remembers whose streams it has, so that two installations don't share them.
"""

from __future__ import annotations

import os
from typing import Any

from monolite.clock import Clock
from monolite.storage.errors import StorageUnavailable

STREAMS_IN = "streams_in"
STREAMS_ID = "streams_id"


async def settle_streams(engines: Any, url: str | None, clock: Clock) -> None:
    """Give the engines their streams.

    Raises StorageUnavailable where they lie elsewhere than the settings say.
    """
    kept_in = await engines.facts.fact(STREAMS_IN)
    if url is None:
        if kept_in == "redis":
            raise StorageUnavailable(
                "this installation's streams lie in Redis: set MONOLITE_STREAMS_URL, or move them "
                "back with `monolite migrate --streams-from redis://...`"
            )
        return
    if kept_in != "redis" and engines.streams is not None and await engines.streams.has_streams():
        raise StorageUnavailable(
            "MONOLITE_STREAMS_URL is set, and there are streams in the database: move them with "
            "`monolite migrate --streams redis://...`, or unset it"
        )
    from monolite.assembly_redis import open_redis

    streaming = await open_redis(url, await installation_id(engines.facts), clock)
    engines.archives = streaming.archives_beside(engines.archives)
    engines.streams = streaming
    if kept_in != "redis":
        await engines.facts.set_fact(STREAMS_IN, "redis")


async def installation_id(facts: Any) -> str:
    """What Redis knows an installation by."""
    known: str | None = await facts.fact(STREAMS_ID)
    if known is None:
        known = await facts.claim_fact(STREAMS_ID, os.urandom(16).hex())
    return str(known)
