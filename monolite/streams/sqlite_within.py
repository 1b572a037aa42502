"""Events and acknowledgements in a transaction of the writer's that is another's."""

from __future__ import annotations

import apsw

from monolite.errors import Conflict
from monolite.streams import sqlite_settling as settling
from monolite.streams.sqlite_store import Store
from monolite.streams.within import AckWish, EventWish, Wish, new_event


class SqliteWithin:
    """The embedded Within. Whoever calls it does nothing behind it that may fail."""

    def __init__(self, store: Store, event_bytes_max: int) -> None:
        self._store = store
        self._event_bytes_max = event_bytes_max

    def run(self, transaction: apsw.Connection, tenant_id: int, wish: Wish, data: bytes) -> None:
        try:
            if wish.ack is not None:
                self._ack(transaction, tenant_id, wish.ack)
            if wish.event is not None:
                self._append(transaction, tenant_id, wish.event, data)
        except BaseException:
            for part in (wish.ack, wish.event):
                if part is not None:
                    self._store.forget(tenant_id, part.stream)
            raise

    def _ack(self, connection: apsw.Connection, tenant_id: int, wish: AckWish) -> None:
        state, group = self._store.existing_group(connection, tenant_id, wish.stream, wish.group)
        settled = settling.ack(connection, state, group, wish.marked, ())
        if settled.stale:
            raise Conflict(
                f"X-Ack: {settled.stale[0]} is no token of a delivery that is held; the event was "
                "acknowledged, or delivered again since. Nothing was written.",
                code="delivery_lost",
            )
        group.save(connection)

    def _append(
        self, connection: apsw.Connection, tenant_id: int, wish: EventWish, data: bytes
    ) -> None:
        event = new_event(wish, data, self._event_bytes_max)
        state = self._store.made(connection, tenant_id, wish.stream)
        self._store.append(connection, state, [event])
