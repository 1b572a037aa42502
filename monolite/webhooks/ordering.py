"""Events of one key, one after the other.

    key's pending events, by id:   5-0 ──► 7-0 ──► 9-2
                                   head    wait until the head is done

Only the head of a key is sent. While it is under way the others that have come wait here; while it
waits for another attempt they are given back until a little after it, without their attempts being
counted. What was pending when the server started is read first, so a head of yesterday holds back
an event of today.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable
from typing import Any

import msgspec

from monolite.webhooks.feed import Delivery

EventId = tuple[int, int]
UNKNOWN_S = 1.0
"""How long others wait for a head whose next attempt is not known."""

BEHIND_S = 0.02


def steps(path: str) -> tuple[str, ...]:
    """The members that `$.customer.id` names, from the data on."""
    return tuple(path.removeprefix("$.").split("."))


def key_of(data: bytes, path: tuple[str, ...]) -> str:
    """What is at the place, as text; nothing there is a key too."""
    try:
        value: Any = msgspec.json.decode(data)
    except msgspec.DecodeError:
        return ""
    for step in path:
        value = value.get(step) if isinstance(value, dict) else None
    return msgspec.json.encode(value).decode()


class Ordering:
    """The keys of one webhook."""

    def __init__(self, path: str) -> None:
        self._path = steps(path)
        self._pending: dict[str, list[EventId]] = {}
        self._sending: set[str] = set()
        self._waiting: dict[str, list[Delivery]] = {}
        self._head_due_s: dict[str, float] = {}

    def remember(self, held: Iterable[tuple[str, bytes]]) -> None:
        """What was pending before anything is read."""
        for id, data in held:
            self._note(key_of(data, self._path), id)

    @property
    def waiting_count(self) -> int:
        """How many wait for their head."""
        return sum(len(waiting) for waiting in self._waiting.values())

    def arrive(self, delivery: Delivery, now_s: float) -> tuple[bool, float | None]:
        """Whether to send it now; else for how long to give it back, None to let it wait here."""
        key = key_of(delivery.data, self._path)
        self._note(key, delivery.id)
        if key in self._sending:
            self._waiting.setdefault(key, []).append(delivery)
            return False, None
        if self._pending[key][0] == _id(delivery.id):
            self._sending.add(key)
            return True, None
        due_s = self._head_due_s.get(key, now_s + UNKNOWN_S)
        return False, max(0.0, due_s - now_s) + BEHIND_S

    def finished(self, delivery: Delivery) -> list[Delivery]:
        """It is done, or dead: those that waited for it, to arrive again."""
        key = key_of(delivery.data, self._path)
        self._sending.discard(key)
        self._head_due_s.pop(key, None)
        pending = self._pending.get(key, [])
        if _id(delivery.id) in pending:
            pending.remove(_id(delivery.id))
        if not pending:
            self._pending.pop(key, None)
        return sorted(self._waiting.pop(key, []), key=lambda one: _id(one.id))

    def failed(self, delivery: Delivery, due_s: float) -> list[Delivery]:
        """It is tried again at `due_s`: those that waited for it, to be given back until then."""
        key = key_of(delivery.data, self._path)
        self._sending.discard(key)
        self._head_due_s[key] = due_s
        return self._waiting.pop(key, [])

    def hasten(self) -> None:
        """Everything given back is due now."""
        self._head_due_s.clear()

    def _note(self, key: str, id: str) -> None:
        pending = self._pending.setdefault(key, [])
        if _id(id) not in pending:
            insort(pending, _id(id))


def _id(text: str) -> EventId:
    ms, _, n = text.partition("-")
    return int(ms), int(n)
