"""Keys and values of the sequences of one model, within a budget of bytes.

    open ──► used ──close──► gone
      ▲        └─close, keep──► kept ──its prefix is asked for──► used
                                 │ room is wanted, oldest first          ▲
                                 └──► spilled, in a file ──likewise──────┘
                                         └──room is wanted there──► gone

A kept sequence answers the next turn of its conversation without computing the turns before. It is
found by its tokens, and only within its scope (tenant, adapter and so on), so that nobody can tell
by the time an answer takes what somebody else has asked.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from monolite.kernels import cache as kernel_cache
from monolite.kernels.cache import KeyBits
from monolite.kernels.decoder import Room
from monolite.models.decoder import CacheFull, CacheType, Opened
from monolite.models.kv_spill import SpillDirectory, Spilled

STEP = 64
"""Positions by which a sequence grows: no more than these are taken before they are needed, and
copying what is there takes a hundredth of the time that filling them does."""

REUSED_MIN = 16
"""A shorter common beginning is not worth taking over."""

KEPT_MAX = 256
_BITS: dict[CacheType, KeyBits] = {"f32": 32, "int8": 8, "int4": 4}


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
        return sum(layer.byte_count for layer in self.room.layers)


@dataclass(frozen=True)
class Shape:
    """What a model's cache is made of."""

    layers: int
    heads: int
    width: int

    def byte_count(self, cache: CacheType, capacity: int) -> int:
        """Of all layers, for so many positions."""
        if capacity == 0:
            return 0
        return self.layers * kernel_cache.byte_count(self.heads, capacity, self.width, _BITS[cache])


class KvCache:
    """The sequences of one model. `bytes_max` bounds used and kept ones together, and
    `spill_bytes_max` what lies in files in `spill`.
    """

    def __init__(
        self,
        shape: Shape,
        context_tokens: int,
        bytes_max: int,
        *,
        spill: Path | None = None,
        spill_bytes_max: int = 0,
    ) -> None:
        self.shape = shape
        self.context_tokens = context_tokens
        self.bytes_max = bytes_max
        self._used: dict[int, CachedSequence] = {}
        self._kept: OrderedDict[int, CachedSequence] = OrderedDict()
        self._spill = None if spill is None else SpillDirectory(spill)
        self._spill_bytes_max = spill_bytes_max
        self._spilled: OrderedDict[int, tuple[CachedSequence, Spilled]] = OrderedDict()
        self.spilled_bytes = 0
        self._numbers = itertools.count(1)
        self._bytes = 0

    @property
    def byte_count(self) -> int:
        """What all sequences take."""
        return self._bytes

    def open(self, prefix: Sequence[int], *, cache: CacheType, scope: bytes) -> Opened:
        """See decoder.Decoder.open_sequence."""
        best, common = None, REUSED_MIN - 1
        spilled = ((number, found) for number, (found, _) in self._spilled.items())
        for number, kept in itertools.chain(self._kept.items(), spilled):
            if kept.cache == cache and kept.scope == scope:
                shared = _common(kept.tokens, prefix)
                if shared > common:
                    best, common = number, shared
        if best is not None and best in self._spilled and not self._restore(best):
            best = None
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
                growing.append((found, -(-need // STEP) * STEP))
        more = sum(
            self.shape.byte_count(found.cache, capacity) - found.byte_count
            for found, capacity in growing
        )
        self._make_room(more)
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
            if len(self._kept) > KEPT_MAX:
                self._let_go()
            return
        self._bytes -= found.byte_count

    def _make_room(self, more: int) -> None:
        while self._bytes + more > self.bytes_max and self._kept:
            self._let_go()

    def _let_go(self) -> None:
        """The kept sequence that is oldest goes to a file, or for good."""
        number, oldest = self._kept.popitem(last=False)
        size = oldest.byte_count
        self._bytes -= size
        if self._spill is None or size > self._spill_bytes_max:
            return
        while self.spilled_bytes + size > self._spill_bytes_max or len(self._spilled) >= KEPT_MAX:
            _, (_, gone) = self._spilled.popitem(last=False)
            self.spilled_bytes -= gone.byte_count
            gone.close()
        written = self._spill.write(oldest.room.layers)
        if written is not None:
            oldest.room = Room([])
            self._spilled[number] = oldest, written
            self.spilled_bytes += size

    def _restore(self, number: int) -> bool:
        """Bring a spilled sequence back among the kept ones, where there is room."""
        found, written = self._spilled[number]
        used = self._bytes - sum(kept.byte_count for kept in self._kept.values())
        if used + written.byte_count > self.bytes_max:
            return False
        # Its place in the file is for what makes room for it.
        del self._spilled[number]
        self.spilled_bytes -= written.byte_count
        self._make_room(written.byte_count)
        shape = self.shape
        bits = _BITS[found.cache]
        layers = [
            kernel_cache.empty(shape.heads, found.capacity, shape.width, bits)
            for _ in range(shape.layers)
        ]
        written.read_into(layers)
        written.close()
        found.room = Room(layers)
        self._kept[number] = found
        self._bytes += found.byte_count
        return True

    def _grow(self, found: CachedSequence, capacity: int) -> None:
        shape = self.shape
        before, layers = found.byte_count, list(found.room.layers)
        found.room = Room([])
        for at in range(shape.layers):
            new = kernel_cache.empty(shape.heads, capacity, shape.width, _BITS[found.cache])
            if at < len(layers):
                kernel_cache.copy_positions(layers[at], new, len(found.tokens))
                layers[at] = new  # the old one goes: only one layer is there twice
            else:
                layers.append(new)
        found.room, found.capacity = Room(layers), capacity
        self._bytes += found.byte_count - before


def _common(left: Sequence[int], right: Sequence[int]) -> int:
    """How many tokens two beginnings have in common."""
    count = min(len(left), len(right))
    differs = np.asarray(left[:count], np.int64) != np.asarray(right[:count], np.int64)
    return int(differs.argmax()) if differs.any() else count
