"""What locks have to do with the rest: writes under a lock, and waits that become events."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from monolite.assembly_engines import Streaming
from monolite.clock import Clock
from monolite.errors import DomainError, Malformed
from monolite.locks.core import LongWait, Told
from monolite.locks.engine import LockEngine
from monolite.locks.lock import Name
from monolite.locks.within import read_wish
from monolite.storage.errors import StorageError
from monolite.streams.event import NewEvent, piece
from monolite.web.call import Call

log = logging.getLogger("monolite.locks")

WAITS_STREAM = "lock-waits"
WAIT_TYPE = "lock.waited"


def guarded_by(
    engine: LockEngine | None, streams: Streaming | None, clock: Clock
) -> Callable[[Call], Callable[[Any], Awaitable[None] | None]]:
    """Reads `X-Lock`; gives what is to be looked at in the write's transaction."""

    def guard(call: Call) -> Callable[[Any], Awaitable[None] | None]:
        elsewhere = streams is None or not streams.is_embedded
        if engine is None or (elsewhere and call.path.startswith("/v1/streams/")):
            raise Malformed(
                "X-Lock is for writes in the locks' own database: streams lie elsewhere here.",
                code="events_elsewhere",
            )
        wish = read_wish(call.header(b"x-lock") or "")
        name = Name(call.tenant_id, wish.namespace, wish.key)
        call.principal.require("locks", f"/v1/locks/{name.namespace}/{name.key}")
        return lambda transaction: engine.within(transaction, name, wish, clock.now_ms())

    return guard


def told_by(streams: Streaming | None) -> Told | None:
    """Long waits as events of the tenant's stream `lock-waits`; None where there are no streams."""
    if streams is None:
        return None

    async def told(wait: LongWait) -> None:
        shown = {
            "namespace": wait.name.namespace,
            "key": wait.name.key,
            "owner": wait.owner,
            "holder": wait.holder,
            "waited_ms": wait.waited_ms,
        }
        event = NewEvent(piece(WAIT_TYPE, msgspec.json.encode(shown)))
        try:
            await streams.log.append(wait.name.tenant_id, WAITS_STREAM, [event])
        except (DomainError, StorageError) as error:
            log.warning("a long wait for a lock became no event: %s", error)

    return told
