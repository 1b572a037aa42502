"""What other servers committed and whispered, by NOTIFY.

    channel monolite_sync     c:TENANT.NAME                    something was committed there
                              l:TENANT                         its limits changed
                              p:TENANT.NAME:SERVER.ID:I/N:…    presence, part I of N in base64

A commit is told of a few milliseconds after it, many at once: NOTIFY inside the write's own
transaction would make every commit of the database wait for the one before it. What is lost on its
way, because a server died before it told, is found by looking at the followed documents' numbers
every second. Presence that is lost is lost.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import logging
import os
from collections.abc import Callable, Sequence

from monolite.storage.errors import StorageError
from monolite.storage.postgres.notifications import Notifications
from monolite.storage.postgres.pool import Pool
from monolite.sync.engine import Changed, Heard

CHANNEL = "monolite_sync"

log = logging.getLogger("monolite.sync")

_TELL_AFTER_S = 0.005
_LOOK_AGAIN_S = 1.0
_PART_BYTES = 5000
_HALF_HEARD_MAX = 256

Followed = Callable[[], Sequence[tuple[int, str]]]


class PostgresNews:
    """Tells other servers and hears from them; `follow` says whom to tell here."""

    def __init__(self, pool: Pool, notifications: Notifications) -> None:
        self._pool = pool
        self._server = os.urandom(6).hex()
        self._numbers = itertools.count(1)
        self._touched: set[tuple[int, str]] = set()
        self._telling: asyncio.Task[None] | None = None
        self._looking: asyncio.Task[None] | None = None
        self._seen: dict[tuple[int, str], tuple[int, int]] = {}
        self._half_heard: dict[str, list[str]] = {}
        self._changed: Changed = lambda *_: None
        self._heard: Heard = lambda *_: None
        self._limits_changed: Callable[[int | None], None] = lambda _: None
        self._followed: Followed = tuple
        notifications.listen(CHANNEL, self._received, self._missed)

    def follow(
        self,
        changed: Changed,
        heard: Heard,
        limits_changed: Callable[[int | None], None],
        followed: Followed,
    ) -> None:
        """Call these from now on; see SyncEngine."""
        self._changed, self._heard = changed, heard
        self._limits_changed, self._followed = limits_changed, followed

    def begin(self) -> None:
        """Look after what is followed, until `stop`."""
        self._looking = asyncio.get_running_loop().create_task(self._look())

    async def stop(self) -> None:
        """Look no more, and finish telling."""
        if self._looking is not None:
            self._looking.cancel()
        if self._telling is not None:
            await asyncio.gather(self._telling, return_exceptions=True)

    def touch(self, tenant_id: int, name: str) -> None:
        """Something was committed in a document."""
        self._changed(tenant_id, name)
        self._touched.add((tenant_id, name))
        if self._telling is None or self._telling.done():
            self._telling = asyncio.get_running_loop().create_task(self._tell())

    async def limits_changed(self, tenant_id: int) -> None:
        """A tenant's limits were set."""
        await self._notify([f"l:{tenant_id}"])

    async def whisper(self, tenant_id: int, name: str, blob: bytes, sender: object) -> None:
        """Presence, to everyone here at once and to the other servers."""
        self._heard(tenant_id, name, blob, sender)
        number = next(self._numbers)
        parts = [blob[at : at + _PART_BYTES] for at in range(0, len(blob), _PART_BYTES)]
        await self._notify(
            [
                f"p:{tenant_id}.{name}:{self._server}.{number}:{i}/{len(parts)}:"
                + base64.b64encode(part).decode()
                for i, part in enumerate(parts, 1)
            ]
        )

    async def _tell(self) -> None:
        while self._touched:
            await asyncio.sleep(_TELL_AFTER_S)
            touched, self._touched = self._touched, set()
            try:
                await self._notify([f"c:{tenant_id}.{name}" for tenant_id, name in touched])
            except StorageError as error:
                log.warning("other servers were not told, and look by themselves: %s", error)

    async def _notify(self, payloads: list[str]) -> None:
        # In the order they stand: parts of one presence are delivered one after the other.
        await self._pool.fetch(
            "SELECT pg_notify($1, payload) FROM unnest($2::text[]) WITH ORDINALITY"
            " AS p (payload, i) ORDER BY i",
            CHANNEL,
            payloads,
        )

    # ── Hearing ────────────────────────────────────────────────────────────────────────────────

    def _received(self, payload: str) -> None:
        kind, _, rest = payload.partition(":")
        if kind == "c":
            tenant, _, name = rest.partition(".")
            self._changed(int(tenant), name)
        elif kind == "l":
            self._limits_changed(int(rest))
        elif kind == "p":
            where, who, part, text = rest.split(":", 3)
            if not who.startswith(self._server):
                self._hear(where, who, part, text)

    def _hear(self, where: str, who: str, part: str, text: str) -> None:
        i, _, count = part.partition("/")
        parts = self._half_heard.setdefault(who, [])
        parts.append(text)
        if i == count:
            del self._half_heard[who]
            if len(parts) == int(count):
                tenant, _, name = where.partition(".")
                blob = b"".join(base64.b64decode(one) for one in parts)
                self._heard(int(tenant), name, blob, None)
        elif len(self._half_heard) > _HALF_HEARD_MAX:
            self._half_heard.pop(next(iter(self._half_heard)))

    def _missed(self) -> None:
        self._half_heard.clear()
        self._limits_changed(None)
        for key in self._followed():
            self._changed(*key)

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_AGAIN_S)
            followed = self._followed()
            if not followed:
                self._seen.clear()
                continue
            try:
                rows = await self._pool.fetch(
                    "SELECT d.tenant_id, d.name, d.epoch, d.seq FROM unnest($1::bigint[],"
                    " $2::text[]) AS f (tenant_id, name) JOIN sync_documents d"
                    " ON d.tenant_id = f.tenant_id AND d.name = f.name AND d.state <> 'removing'",
                    [tenant_id for tenant_id, _ in followed],
                    [name for _, name in followed],
                )
            except StorageError as error:
                log.info("followed documents can't be looked at yet: %s", error)
                continue
            now = {(tenant, name): (epoch, seq) for tenant, name, epoch, seq in rows}
            for key, newest in now.items():
                if self._seen.get(key) != newest:
                    self._changed(*key)
            self._seen = now
