"""What a write takes along in its commit: its event, and the acknowledgement of what caused it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from monolite.assembly_engines import Streaming
from monolite.errors import Malformed
from monolite.streams.within import read_wish
from monolite.web.answer import Answer
from monolite.web.call import Call

Rider = Callable[[Any, Answer], None]


class Outbox:
    """Reads `X-Event` and `X-Ack`. `streams` is None where there are none."""

    def __init__(self, streams: Streaming | None) -> None:
        self._within = None if streams is None else streams.within

    def ride(self, call: Call) -> Rider:
        """What is to be done with a write's transaction and answer.

        Raises Invalid, Forbidden, and Malformed (`events_elsewhere`) where streams lie in another
        store than what is written.
        """
        within = self._within
        if within is None:
            raise Malformed(
                "X-Event and X-Ack are for streams in the embedded database: here they lie "
                "elsewhere, and can't be in one commit with this.",
                code="events_elsewhere",
            )
        wish = read_wish(call.header(b"x-event"), call.header(b"x-ack"))
        tenant_id = call.tenant_id
        if wish.event is not None:
            call.principal.require("streams:write", f"/v1/streams/{wish.event.stream}/events")
        if wish.ack is not None:
            path = f"/v1/streams/{wish.ack.stream}/groups/{wish.ack.group}/ack"
            call.principal.require("streams:consume", path)

        def rider(transaction: Any, answer: Answer) -> None:
            within.run(transaction, tenant_id, wish, answer.stored_body)

        return rider
