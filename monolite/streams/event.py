r"""Events as they are stored and delivered.

An event at rest is its type and its data in one piece of bytes:

    order.created \t {"id":7,"total":120}          the type is empty where there is none

The data is the caller's JSON without line breaks, so pieces are joined by one. A run is events
whose ids count on (5-0, 5-1, 5-2): its first id says them all. What is appended in one call is one
run, and is stored and read as one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from monolite.streams.event_id import EventId, Wish

TYPE_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}"


class Event(NamedTuple):
    """One event; `data` is JSON text."""

    id: str
    type: str | None
    data: bytes


class Delivery(NamedTuple):
    """An event as a consumer gets it: for the how-manyeth time, and the token to ack it with."""

    id: str
    type: str | None
    data: bytes
    delivery: int
    token: str


class NewEvent(NamedTuple):
    """An event to append; `wish` where its caller chose the id."""

    piece: bytes
    wish: Wish | None = None


def piece(kind: str | None, data: bytes) -> bytes:
    """An event as it is stored."""
    return b"%b\t%b" % ((kind or "").encode(), data)


def parts(stored: bytes) -> tuple[str | None, bytes]:
    """The type and the data again."""
    kind, _, data = stored.partition(b"\t")
    return kind.decode() or None, data


class Run:
    """Events whose ids count on from (`ms`, `n`)."""

    __slots__ = ("ms", "n", "pieces")

    def __init__(self, ms: int, n: int, pieces: Sequence[bytes]) -> None:
        self.ms = ms
        self.n = n
        self.pieces = pieces

    @property
    def last(self) -> EventId:
        """The id of its last event."""
        return EventId(self.ms, self.n + len(self.pieces) - 1)

    def __iter__(self) -> Iterator[Event]:
        for n, stored in enumerate(self.pieces, self.n):
            yield Event(f"{self.ms}-{n}", *parts(stored))

    def encoded(self) -> Iterator[bytes]:
        """Each event as JSON: `{"id","type","data"}`."""
        ms = self.ms
        for n, stored in enumerate(self.pieces, self.n):
            kind, _, data = stored.partition(b"\t")
            if kind:
                yield b'{"id":"%d-%d","type":"%b","data":%b}' % (ms, n, kind, data)
            else:
                yield b'{"id":"%d-%d","type":null,"data":%b}' % (ms, n, data)


class DeliveredRun(Run):
    """A run delivered together: for the same time each, with tokens that count on or name ids.

    A token is the fence of the delivery and the event's place: `seq` in the store's own order
    where that counts on, else the event's id (`seq` is None).
    """

    __slots__ = ("delivery", "fence", "seq")

    def __init__(
        self, ms: int, n: int, pieces: Sequence[bytes], delivery: int, fence: int, seq: int | None
    ) -> None:
        # Not by the class above: a read of single events makes as many of these.
        self.ms = ms
        self.n = n
        self.pieces = pieces
        self.delivery = delivery
        self.fence = fence
        self.seq = seq

    def deliveries(self) -> Iterator[Delivery]:
        """Each event with its token."""
        fence, delivery = self.fence, self.delivery
        for at, event in enumerate(self):
            place = event.id if self.seq is None else self.seq + at
            yield Delivery(*event, delivery, f"{fence}.{place}")

    def encoded(self) -> Iterator[bytes]:
        """Each event as JSON: `{"id","type","data","delivery","token"}`."""
        ms, fence, delivery = self.ms, self.fence, self.delivery
        for at, stored in enumerate(self.pieces):
            kind, _, data = stored.partition(b"\t")
            n = self.n + at
            quoted = b'"%b"' % kind if kind else b"null"
            place = b"%d-%d" % (ms, n) if self.seq is None else b"%d" % (self.seq + at)
            yield b'{"id":"%d-%d","type":%b,"data":%b,"delivery":%d,"token":"%d.%b"}' % (
                *(ms, n, quoted, data, delivery, fence, place),
            )
