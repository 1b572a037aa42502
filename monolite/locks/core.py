"""The rules of locks."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from monolite.clock import Clock
from monolite.errors import Conflict, RateLimited
from monolite.locks.engine import LockEngine
from monolite.locks.lock import Busy, Held, Listed, Name, Waiter, Waits
from monolite.waiting import Lines, Place

SWEEP_INTERVAL_S = 3600.0
WAITER_COUNT_MAX = 10_000
"""Who may wait in one process."""

_LOOK_AGAIN_S = 5.0
_WAIT_S_MIN = 0.002

log = logging.getLogger("monolite.locks")


class LongWait(NamedTuple):
    """Who waits for a lock past the set time, and who held it then."""

    name: Name
    owner: str
    holder: str | None
    waited_ms: int


Told = Callable[[LongWait], Awaitable[None]]
"""Given a long wait, while it goes on; raises nothing."""


class Locks:
    """The locks of every tenant. A wait of `alert_s` is logged, counted, and given to `told`."""

    def __init__(
        self, engine: LockEngine, clock: Clock, *, alert_s: float, told: Told | None = None
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._alert_s = alert_s
        self._told = told
        self._telling: set[asyncio.Future[None]] = set()
        self._lines = Lines()
        self._since: dict[Place, float] = {}
        self.long_waits_total = 0
        engine.follow(self._freed)

    async def acquire(self, name: Name, owner: str, ttl_ms: int, wait_ms: int = 0) -> Held:
        """Hold a lock for `ttl_ms`, waited for up to `wait_ms`.

        Raises Conflict (`lock_held`) where it was not to be had, RateLimited (`too_many_waiters`).
        """
        got = await self._engine.acquire(name, owner, ttl_ms, self._clock.now_ms())
        if isinstance(got, Busy) and wait_ms:
            got = await self._wait(name, owner, ttl_ms, wait_ms)
        if isinstance(got, Held):
            return got
        whose = "others wait for it" if got.owner is None else f"{got.owner} holds it"
        error = Conflict(f"The lock can't be had now: {whose}.", code="lock_held")
        error.members = {"owner": got.owner}
        raise error

    async def _wait(self, name: Name, owner: str, ttl_ms: int, wait_ms: int) -> Held | Busy:
        if len(self._since) >= WAITER_COUNT_MAX:
            raise RateLimited("Too many wait for locks already.", 1.0, code="too_many_waiters")
        clock = self._clock
        began = clock.monotonic()
        until_ms = clock.now_ms() + wait_ms
        ticket = await self._engine.stand(name, Waiter(owner, clock.now_ms()), until_ms)
        try:
            with self._lines.stand(name) as place:
                self._since[place] = began
                try:
                    return await self._stand(name, owner, ttl_ms, wait_ms, ticket, place)
                finally:
                    del self._since[place]
        finally:
            await self._engine.leave(name, ticket)
            # The next in line is the first now, and must know when to look.
            self._lines.call(name, 1)

    async def _stand(
        self, name: Name, owner: str, ttl_ms: int, wait_ms: int, ticket: int, place: Place
    ) -> Held | Busy:
        clock = self._clock
        began, is_told = clock.monotonic(), False
        while True:
            got = await self._engine.acquire(name, owner, ttl_ms, clock.now_ms(), ticket)
            waited_s = clock.monotonic() - began
            left_s = wait_ms / 1000 - waited_s
            if isinstance(got, Held) or left_s <= 0 or self._lines.is_closed:
                return got
            if not is_told and waited_s >= self._alert_s:
                is_told = True
                self.long_waits_total += 1
                log.warning(
                    "a lock is waited for",
                    extra={"waited_s": round(waited_s, 1), "namespace": name.namespace},
                )
                # Beside the wait, which is not to be longer for it.
                wait = LongWait(name, owner, got.owner, int(waited_s * 1000))
                if self._told is not None:
                    task = asyncio.ensure_future(self._told(wait))
                    self._telling.add(task)
                    task.add_done_callback(self._telling.discard)
            if got.retry_at is not None:
                free_s = (got.retry_at - clock.now_ms()) / 1000
                left_s = min(left_s, max(_WAIT_S_MIN, free_s))
            if not is_told:
                left_s = min(left_s, max(_WAIT_S_MIN, self._alert_s - waited_s))
            await place.come(min(left_s, _LOOK_AGAIN_S))

    async def renew(self, name: Name, owner: str, token: int, ttl_ms: int) -> Held:
        """Hold it from now for `ttl_ms`. Raises Conflict (`lock_lost`)."""
        held = await self._engine.renew(name, owner, token, ttl_ms, self._clock.now_ms())
        if held is None:
            raise _lost()
        return held

    async def release(self, name: Name, owner: str, token: int) -> None:
        """Let it go. Raises Conflict (`lock_lost`)."""
        if not await self._engine.release(name, owner, token, self._clock.now_ms()):
            raise _lost()

    async def locks(
        self, tenant_id: int, namespace: str | None, after: tuple[str, str] | None, limit: int
    ) -> Sequence[Listed]:
        """Held locks by name, with who waits."""
        start = ("", "") if after is None else after
        return await self._engine.locks(tenant_id, namespace, start, limit, self._clock.now_ms())

    async def sweep(self) -> None:
        """Drop rows of locks that expired an hour ago."""
        before_ms = self._clock.now_ms() - int(SWEEP_INTERVAL_S * 1000)
        while await self._engine.sweep(before_ms):
            pass

    def waits(self) -> Waits:
        """Who waits here."""
        longest_s = 0.0
        if self._since:
            longest_s = self._clock.monotonic() - min(self._since.values())
        return Waits(len(self._since), int(longest_s * 1000))

    def close(self) -> None:
        """The server stops: nobody waits any longer."""
        self._lines.close()

    def _freed(self, name: Name | None) -> None:
        if name is None:
            self._lines.call_everyone()
        else:
            self._lines.call(name, 1)


def _lost() -> Conflict:
    return Conflict(
        "Owner and token don't hold this lock, or not any more: stop what it protected.",
        code="lock_lost",
    )
