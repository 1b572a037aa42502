"""A job in its handler's hands."""

from __future__ import annotations

import threading
import time
from typing import Any


class Retry(Exception):  # a wish, no error
    """Raised by a handler: the attempt failed, and the next is due in `in_s` seconds."""

    def __init__(self, in_s: float, why: str = "retry") -> None:
        super().__init__(why)
        self.in_s = in_s


class Job:
    """One delivery. `attempt` counts from 1; `id` is the same for every attempt, and serves as an
    Idempotency-Key.
    """

    def __init__(self, queue: str, given: dict[str, Any], lease_s: float) -> None:
        self.queue = queue
        self.id: str = given["id"]
        self.payload: Any = given["payload"]
        self.attempt: int = given["attempt"]
        self._token: str = given["token"]
        self.lease_s = lease_s
        self.held_until = time.monotonic() + lease_s
        self._lost = threading.Event()
        self._lost_as: str | None = None

    @property
    def is_lost(self) -> bool:
        """Whether to stop: it was cancelled, or its lease is over and it may run elsewhere."""
        return self._lost.is_set() or time.monotonic() >= self.held_until

    @property
    def state(self) -> str:
        """`running`; once it is lost `cancelled` or what else the server says it is."""
        return "running" if self._lost_as is None else self._lost_as

    def token(self) -> str:
        """The secret of this delivery."""
        return self._token

    def hold(self, began: float) -> None:
        """Its lease was extended, by a request that began at a monotonic time."""
        self.held_until = began + self.lease_s

    def lose(self, state: str) -> None:
        """It is no longer this worker's."""
        self._lost_as = state
        self._lost.set()

    @property
    def heartbeat_s(self) -> float:
        """How often its lease is extended."""
        return self.lease_s / 3
