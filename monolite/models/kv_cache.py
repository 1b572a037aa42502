"""Keys and values of the sequences of one model, within a budget of bytes.

    open ──► used ──close──► gone
      ▲        └─close, keep──► kept ──its prefix is asked for──► used
                                 └────room is wanted, oldest first──► gone

A kept sequence answers the next turn of its conversation without computing the turns before. It is
found by its tokens, and only within its scope (tenant, adapter and so on), so that nobody can tell
by the time an answer takes what somebody else has asked.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from monolite.kernels import cache as kernel_cache
from monolite.kernels.cache import Cache
from monolite.kernels.decoder import Room
from monolite.models.decoder import CacheFull, CacheType, Opened

STEP = 256
"""Positions by which a sequence grows at least."""

REUSED_MIN = 16
"""A shorter common beginning is not worth taking over."""

KEPT_MAX = 256
_BITS: dict[CacheType, int] = {"int8": 8, "int4": 4}


@dataclass
class CachedSequence:
    """One sequence: its tokens, and a Cache a layer with room for `capacity`."""

    cache: CacheType
    scope: bytes
    room: Room
    capacity: int
    tokens: list[int] = field(default_factory=list)

    @property
    def byte_count(self) -> int:
        return sum(_bytes(layer) for layer in self.room.layers)


@dataclass(frozen=True)
class Shape:
    """What a model's cache is made of."""

    layers: int
    heads: int
    width: int

    def bytes_a_token(self, cache: CacheType) -> int:
        """Of all layers: codes, and three float32 a head."""
        return self.layers * self.heads * (self.width * _BITS[cache] // 8 + self.width + 12)


class KvCache:
    """The sequences of one model. `bytes_max` bounds used and kept ones together."""

    def __init__(self, shape: Shape, context_tokens: int, bytes_max: int) -> None:
        self.shape = shape
        self.context_tokens = context_tokens
        self.bytes_max = bytes_max
        self._used: dict[int, CachedSequence] = {}
        self._kept: OrderedDict[int, CachedSequence] = OrderedDict()
        self._numbers = itertools.count(1)
        self._bytes = 0

    @property
    def byte_count(self) -> int:
        """What all sequences take."""
        return self._bytes

    def open(self, prefix: Sequence[int], *, cache: CacheType, scope: bytes) -> Opened:
        """See decoder.Decoder.open_sequence."""
        best, common = None, REUSED_MIN - 1
        for number, kept in self._kept.items():
            if kept.cache == cache and kept.scope == scope:
                shared = _common(kept.tokens, prefix)
                if shared > common:
                    best, common = number, shared
        if best is None:
            number = next(self._numbers)
            self._used[number] = CachedSequence(cache, scope, Room([]), 0)
            return Opened(number, 0)
        found = self._kept.pop(best)
        reused = min(common, len(prefix) - 1)
        del found.tokens[reused:]
        self._used[best] = found
        return Opened(best, reused)

    def __getitem__(self, number: int) -> CachedSequence:
        return self._used[number]

    def reserve(self, wanted: Sequence[tuple[int, int]]) -> None:
        """Make room for so many more tokens in each sequence.

        Raises:
            CacheFull: for all of them there is none; none of them was changed.
        """
        growing = []
        for number, count in wanted:
            found = self._used[number]
            need = len(found.tokens) + count
            if need > self.context_tokens:
                raise CacheFull(f"the sequence is {need} tokens; {self.context_tokens} is the most")
            if need > found.capacity:
                step = max(STEP, found.capacity // 2)
                capacity = min(-(-need // step) * step, -(-self.context_tokens // 16) * 16)
                growing.append((found, max(capacity, -(-need // 16) * 16)))
        more = sum(
            (capacity - found.capacity) * self.shape.bytes_a_token(found.cache)
            for found, capacity in growing
        )
        while self._bytes + more > self.bytes_max and self._kept:
            _, oldest = self._kept.popitem(last=False)
            self._bytes -= oldest.byte_count
        if self._bytes + more > self.bytes_max:
            raise CacheFull(
                f"keys and values would take {self._bytes + more} bytes of {self.bytes_max}"
            )
        for found, capacity in growing:
            self._grow(found, capacity)

    def rollback(self, number: int, length: int) -> None:
        """Forget the tokens from `length` on; what was written for them is overwritten."""
        del self._used[number].tokens[length:]

    def close(self, number: int, *, keep: bool) -> None:
        """End a sequence."""
        found = self._used.pop(number)
        if keep and len(found.tokens) >= REUSED_MIN:
            self._kept[number] = found
            if len(self._kept) <= KEPT_MAX:
                return
            _, found = self._kept.popitem(last=False)
        self._bytes -= found.byte_count

    def _grow(self, found: CachedSequence, capacity: int) -> None:
        shape = self.shape
        bits = _BITS[found.cache]
        before = found.byte_count
        used = -(-len(found.tokens) // 16)
        layers = []
        for at in range(shape.layers):
            new = kernel_cache.empty(shape.heads, capacity, shape.width, bits)  # type: ignore[arg-type]
            if found.room.layers:
                _copy(found.room.layers[at], new, used)
            layers.append(new)
        found.room, found.capacity = Room(layers), capacity
        self._bytes += found.byte_count - before


def _copy(old: Cache, new: Cache, groups: int) -> None:
    new.keys[:, :groups] = old.keys[:, :groups]
    count = groups * 16
    for source, target in (
        (old.key_scale, new.key_scale),
        (old.key_minimum, new.key_minimum),
        (old.values, new.values),
        (old.value_scale, new.value_scale),
    ):
        target[:, :count] = source[:, :count]


def _bytes(cache: Cache) -> int:
    arrays = (cache.keys, cache.key_scale, cache.key_minimum, cache.values, cache.value_scale)
    return sum(array.nbytes for array in arrays)


def _common(left: Sequence[int], right: Sequence[int]) -> int:
    """How many tokens two beginnings have in common."""
    count = min(len(left), len(right))
    differs = np.asarray(left[:count], np.int64) != np.asarray(right[:count], np.int64)
    return int(differs.argmax()) if differs.any() else count
