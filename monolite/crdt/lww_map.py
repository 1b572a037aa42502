"""A map from text to states of any type, in which each key's last assignment or removal wins.

An assignment begins a new life of its key, named by a stamp. States of one life merge; of two lives
the later wins whole. `ensure` begins a life that all replicas have in common, so that what two of
them do to a key that neither has seen of the other merges.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, TypeVar

from monolite.crdt.errors import ConflictError, CrdtError, MalformedError
from monolite.crdt.hybrid_clock import NEVER, HybridClock, Stamp, refuse_ahead
from monolite.crdt.wire import DEPTH_MAX, KINDS, Reader, State, Writer, normal

S = TypeVar("S", bound=State)
_Life = tuple[Stamp, State | None]


class LwwMap:
    """Keys, each with its life's stamp and its state; none where it was removed."""

    KIND: ClassVar[int] = 6
    __slots__ = ("_lives",)

    def __init__(self) -> None:
        self._lives: dict[str, _Life] = {}

    def __contains__(self, key: str) -> bool:
        return self.get(key) is not None

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __iter__(self) -> Iterator[str]:
        return (key for key in sorted(self._lives) if self._lives[key][1] is not None)

    def get(self, key: str) -> State | None:
        """A key's state. What you change in it goes out with `delta`."""
        return self._lives.get(key, (NEVER, None))[1]

    @property
    def value(self) -> dict[str, Any]:
        """Keys with their states' values."""
        return {key: getattr(self._lives[key][1], "value", None) for key in self}

    def assign(self, key: str, state: State, clock: HybridClock) -> LwwMap:
        """Begin a new life of a key with a copy of a state; returns the delta."""
        stamp = clock.tick(self._stamp(normal(key)))
        return self._put(key, stamp, _nested(state))

    def remove(self, key: str, clock: HybridClock) -> LwwMap:
        """End a key's life; returns the delta."""
        return self._put(normal(key), clock.tick(self._stamp(key)), None)

    def ensure(self, key: str, kind: type[S], clock: HybridClock) -> S:
        """A key's state of one type: what is there, or an empty one to begin with.

        A key that nobody has assigned or removed begins the life NEVER; of two types begun so the
        one with the higher number wins.

        Raises:
            CrdtError: the key has a state of another type.
        """
        stamp, state = self._lives.get(key, (NEVER, None))
        if state is None:
            stamp = NEVER if key not in self._lives else clock.tick(stamp)
            state = kind()
            self._put(normal(key), stamp, _nested(state))
            state = self._lives[key][1]
        if not isinstance(state, kind):
            raise CrdtError(f"{key!r} is a {type(state).__name__}")
        return state

    def delta(self, key: str, of: State) -> LwwMap:
        """The delta of this map for a delta of a key's state."""
        stamp, state = self._lives[key]
        if type(state) is not type(of):
            raise CrdtError(f"{key!r} is a {type(state).__name__}")
        made = LwwMap()
        made._lives[key] = (stamp, _nested(of))
        return made

    def merge(self, other: LwwMap, now_ms: int | None = None) -> None:
        """Of each key take the later life; within one life the states merge.

        Raises:
            AheadError, ConflictError, StaleError: as the states' own `merge`.
        """
        taken: dict[str, _Life] = {}
        joined: list[tuple[State, State]] = []
        for key, (stamp, state) in other._lives.items():
            refuse_ahead(stamp, now_ms)
            mine = self._lives.get(key)
            if mine is None or _rank(mine) < _rank((stamp, state)):
                if mine is not None and mine[0] == stamp != NEVER:
                    raise ConflictError(f"two lives of {key!r} with one stamp of {stamp.node!r}")
                fresh = None if state is None else type(state)()
                if fresh is not None and state is not None:
                    fresh.merge(state, now_ms)
                taken[key] = (stamp, fresh)
            elif mine[0] == stamp and state is not None:
                if type(mine[1]) is type(state):
                    joined.append((mine[1], state))
                elif stamp != NEVER:
                    raise ConflictError(f"two lives of {key!r} with one stamp of {stamp.node!r}")
        if len(joined) > 1:
            # All or nothing: what one of several may refuse is tried on copies.
            for mine_state, state in joined:
                mine_state.copy().merge(state, now_ms)
        for mine_state, state in joined:
            mine_state.merge(state, now_ms)
        self._lives.update(taken)

    def copy(self) -> LwwMap:
        made = LwwMap()
        made._lives = {
            key: (stamp, None if state is None else state.copy())
            for key, (stamp, state) in self._lives.items()
        }
        return made

    def names(self, found: set[str]) -> None:
        for stamp, state in self._lives.values():
            stamp.names(found)
            if state is not None:
                state.names(found)

    def write(self, writer: Writer) -> None:
        """Count of keys, ascending by bytes: key, stamp, kind (0 where removed), body."""
        writer.varint(len(self._lives))
        for key in sorted(self._lives):
            stamp, state = self._lives[key]
            writer.text(key)
            stamp.write(writer)
            writer.varint(0 if state is None else state.KIND)
            if state is not None:
                state.write(writer)

    @classmethod
    def read(cls, reader: Reader) -> LwwMap:
        reader.depth += 1
        if reader.depth > DEPTH_MAX:
            raise MalformedError(f"over {DEPTH_MAX} maps in each other")
        made = cls()
        for _ in range(reader.count()):
            key, stamp, kind = reader.text(), Stamp.read(reader), reader.varint()
            if kind and kind not in KINDS:
                raise MalformedError(f"no type has the number {kind}")
            made._lives[key] = (stamp, KINDS[kind].read(reader) if kind else None)
        reader.depth -= 1
        return made

    def _stamp(self, key: str) -> Stamp:
        return self._lives.get(key, (NEVER, None))[0]

    def _put(self, key: str, stamp: Stamp, state: State | None) -> LwwMap:
        self._lives[key] = (stamp, state)
        made = LwwMap()
        made._lives[key] = (stamp, None if state is None else state.copy())
        return made


def _rank(life: _Life) -> tuple[Stamp, int]:
    return life[0], 0 if life[1] is None else life[1].KIND


def _nested(state: State, depth: int = 1) -> State:
    """A copy of a state.

    Raises:
        CrdtError: there are over 16 maps in each other.
    """
    if isinstance(state, LwwMap):
        if depth == DEPTH_MAX:
            raise CrdtError(f"over {DEPTH_MAX} maps in each other")
        for _, child in state._lives.values():
            if child is not None:
                _nested(child, depth + 1)
    return state.copy()


KINDS[LwwMap.KIND] = LwwMap
