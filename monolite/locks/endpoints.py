"""Locks over HTTP."""

from __future__ import annotations

import asyncio
from typing import Annotated

import msgspec

from monolite.clock import Clock
from monolite.locks.core import Locks
from monolite.locks.lock import Held, Listed, Name
from monolite.names import NAME_PATTERN
from monolite.web.answer import Answer, json_answer, page_answer
from monolite.web.call import Call
from monolite.web.cursors import Cursors
from monolite.web.operation import Operation
from monolite.web.pages import Page, PageQuery
from monolite.web.timestamps import rfc3339

SCOPE = "locks"
TTL_MS_MAX = 86_400_000
WAIT_MS_MAX = 60_000
KEY_PATTERN = r"[^/\s\x00-\x1f\x7f]{1,255}"

Owner = Annotated[str, msgspec.Meta(min_length=1, max_length=255, pattern=r"^[^\x00-\x1f\x7f]+$")]
Ttl = Annotated[int, msgspec.Meta(ge=1, le=TTL_MS_MAX)]
Number = Annotated[int, msgspec.Meta(ge=0, le=(1 << 53) - 1)]


class Wanted(msgspec.Struct, forbid_unknown_fields=True):
    """Who wants the lock, for how long, and how long it waits for it."""

    owner: Owner
    ttl_ms: Ttl
    wait_ms: Annotated[int, msgspec.Meta(ge=0, le=WAIT_MS_MAX)] = 0


class Renewed(msgspec.Struct, forbid_unknown_fields=True):
    """Who holds the lock, and for how long from now."""

    owner: Owner
    token: Number
    ttl_ms: Ttl


class HeldShown(msgspec.Struct):
    """The lock is held until `expires_at`; `token` is a fencing number that only grows."""

    token: int
    expires_at: str


class WaiterShown(msgspec.Struct):
    """Who waits for it, and for how long already."""

    owner: str
    since: str
    waited_ms: int


class LockShown(msgspec.Struct):
    """A held lock, and who waits for it in the order of asking."""

    namespace: str
    key: str
    owner: str
    acquired_at: str
    expires_at: str
    held_ms: int
    waiters: list[WaiterShown]


class ReleaseQuery(msgspec.Struct):
    """`?owner=&token=`."""

    owner: Owner
    token: Number


class LocksQuery(PageQuery):
    """`?namespace=&limit=&cursor=`."""

    namespace: Annotated[str, msgspec.Meta(pattern=f"^{NAME_PATTERN}$")] | None = None


def operations(locks: Locks, cursors: Cursors, clock: Clock) -> list[Operation]:
    """The route table."""
    e = _Endpoints(locks, cursors, clock)
    lock = "/v1/locks/{namespace}/{key}"
    names = {"key": KEY_PATTERN}
    return [
        Operation(
            "locks.list",
            "GET",
            "/v1/locks",
            SCOPE,
            "Held locks, with who waits for them",
            e.list_locks,
            {200: Page[LockShown]},
            query=LocksQuery,
        ),
        Operation(
            "locks.acquire",
            "PUT",
            lock,
            SCOPE,
            "Take a lock, or wait in line for it",
            e.acquire,
            {200: HeldShown},
            body=Wanted,
            hot=True,
            names=names,
            example={"owner": "worker-1", "ttl_ms": 30000, "wait_ms": 0},
            description="409 `lock_held` names who has it. Its owner asking again gets the same"
            " token, and the new time.",
        ),
        Operation(
            "locks.renew",
            "POST",
            lock + "/renew",
            SCOPE,
            "Hold a lock for longer",
            e.renew,
            {200: HeldShown},
            body=Renewed,
            hot=True,
            names=names,
            example={"owner": "worker-1", "token": 1795468800000000, "ttl_ms": 30000},
        ),
        Operation(
            "locks.release",
            "DELETE",
            lock,
            SCOPE,
            "Let a lock go",
            e.release,
            {204: None},
            query=ReleaseQuery,
            hot=True,
            names=names,
        ),
    ]


class _Endpoints:
    def __init__(self, locks: Locks, cursors: Cursors, clock: Clock) -> None:
        self._locks = locks
        self._cursors = cursors
        self._clock = clock

    async def list_locks(self, call: Call) -> Answer:
        query: LocksQuery = call.query
        position = self._cursors.decode(call, query.cursor)
        after = None if position is None else (str(position[0]), str(position[1]))
        found = await self._locks.locks(call.tenant_id, query.namespace, after, query.limit + 1)
        cursor = None
        if len(found) > query.limit:
            last = found[query.limit - 1]
            cursor = self._cursors.encode(call, [last.namespace, last.key])
        now_ms = self._clock.now_ms()
        return page_answer([_shown(one, now_ms) for one in found[: query.limit]], cursor)

    async def acquire(self, call: Call) -> Answer:
        body: Wanted = call.body
        if not body.wait_ms:
            return _held(await self._locks.acquire(_name(call), body.owner, body.ttl_ms))
        return _held(await self._acquire_while_there(call, body))

    async def _acquire_while_there(self, call: Call, body: Wanted) -> Held:
        """A wait that is given up when its client goes, so that nobody holds the lock for it."""
        loop = asyncio.get_running_loop()
        acquiring = loop.create_task(
            self._locks.acquire(_name(call), body.owner, body.ttl_ms, body.wait_ms)
        )
        gone = call.gone()
        try:
            await asyncio.wait({acquiring, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not acquiring.done():
                acquiring.cancel()
                await asyncio.wait({acquiring})
                if acquiring.cancelled():
                    return Held(body.owner, 0, 0, 0)  # nobody is there to read it
            return acquiring.result()
        finally:
            acquiring.cancel()

    async def renew(self, call: Call) -> Answer:
        body: Renewed = call.body
        return _held(await self._locks.renew(_name(call), body.owner, body.token, body.ttl_ms))

    async def release(self, call: Call) -> Answer:
        query: ReleaseQuery = call.query
        await self._locks.release(_name(call), query.owner, query.token)
        return Answer(204)


def _name(call: Call) -> Name:
    return Name(call.tenant_id, call.params["namespace"], call.params["key"])


def _held(held: Held) -> Answer:
    return json_answer(HeldShown(held.token, rfc3339(held.expires_at)))


def _shown(lock: Listed, now_ms: int) -> LockShown:
    held = lock.held
    return LockShown(
        lock.namespace,
        lock.key,
        held.owner,
        rfc3339(held.acquired_at),
        rfc3339(held.expires_at),
        max(0, now_ms - held.acquired_at),
        [
            WaiterShown(one.owner, rfc3339(one.since), max(0, now_ms - one.since))
            for one in lock.waiters
        ],
    )
