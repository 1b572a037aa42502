"""A sequence's elements in blocks, so that an insertion costs O(log n) and a short move of memory.

A block holds up to 512 elements, dead ones among them. A Fenwick tree over the blocks' counts of
living elements finds a place; a block's lowest stamp, which may be lower than any still there, lets
a search for the place among concurrent insertions pass the whole block.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from monolite.crdt.dots import Dot

BLOCK_SIZE_MAX = 512


class Element:
    """One insertion. `parent` is what it was inserted behind, `deleted` the removal's dot."""

    __slots__ = ("block", "deleted", "dot", "parent", "stamp", "value")

    def __init__(
        self, dot: Dot, stamp: int, parent: Dot | None, value: Any, deleted: Dot | None = None
    ) -> None:
        self.dot = dot
        self.stamp = stamp
        self.parent = parent
        self.value = value
        self.deleted = deleted
        self.block: Block | None = None

    def copy(self) -> Element:
        """An element that is in no block."""
        return Element(self.dot, self.stamp, self.parent, self.value, self.deleted)


class Block:
    """Neighbouring elements."""

    __slots__ = ("items", "living", "lowest", "place")

    def __init__(self, items: list[Element], place: int) -> None:
        self.items = items
        self.place = place
        self.living = self.lowest = 0
        if items:
            self.living = sum(item.deleted is None for item in items)
            self.lowest = min(item.stamp for item in items)
            for item in items:
                item.block = self


class Blocks:
    """The elements in their order."""

    __slots__ = ("_blocks", "_cursor", "_found", "_tree", "living")

    def __init__(self, items: Iterable[Element] = ()) -> None:
        self._blocks = [Block([], 0)]
        self._tree = [0, 0]
        self.living = 0
        # Where `at` found an element in its block: an insertion behind it need not search again.
        self._found = 0
        # The last insertion and its index, while nothing else has changed: typing goes on there.
        self._cursor: tuple[int, Element] | None = None
        if items:
            self.fill(items)

    def fill(self, items: Iterable[Element]) -> None:
        """Hold these instead, in this order."""
        every = list(items)
        self._cursor = None
        size = BLOCK_SIZE_MAX // 2
        self._blocks = [
            Block(every[at : at + size], at // size) for at in range(0, len(every), size)
        ] or [Block([], 0)]
        self._rebuild()

    def __iter__(self) -> Iterator[Element]:
        return (item for block in self._blocks for item in block.items)

    def at(self, index: int) -> Element:
        """The living element at an index from 0 to `living` - 1."""
        cursor = self._cursor
        if cursor is not None and cursor[0] == index:
            return cursor[1]
        block, left = self._find(index)
        if block.living == len(block.items):
            self._found = left
            return block.items[left]
        for place, item in enumerate(block.items):
            if item.deleted is None:
                if left == 0:
                    self._found = place
                    return item
                left -= 1
        raise AssertionError("a block counts its living elements")

    def remember(self, index: int, item: Element) -> None:
        """The element that was just inserted has this index."""
        self._cursor = (index, item)

    def from_index(self, index: int) -> Iterator[Element]:
        """The living elements from an index on; nothing may change meanwhile."""
        if index >= self.living:
            return
        first = self.at(index)
        block = first.block
        assert block is not None
        items = block.items[block.items.index(first) :]
        place = block.place
        while True:
            yield from (item for item in items if item.deleted is None)
            place += 1
            if place == len(self._blocks):
                return
            items = self._blocks[place].items

    def insert_behind(self, item: Element, left: Element | None) -> None:
        """Put an element directly behind another, or first."""
        if left is None:
            block, at = self._blocks[0], 0
        else:
            assert left.block is not None
            block = left.block
            items = block.items
            at = self._found
            if at >= len(items) or items[at] is not left:
                at = len(items) - 1 if items[-1] is left else items.index(left)
            at = self._found = at + 1
        self._insert(block, at, item)

    def integrate(self, item: Element, left: Element | None) -> None:
        """Put an element where RGA has it: behind its parent and what is later inserted there."""
        if left is None:
            block, at = self._blocks[0], 0
        else:
            assert left.block is not None
            block = left.block
            at = block.items.index(left) + 1
        stamp, name = item.stamp, item.dot[0]
        place = block.place
        while True:
            items = block.items
            while at < len(items):
                other = items[at]
                if other.stamp < stamp or (other.stamp == stamp and other.dot[0] < name):
                    self._insert(block, at, item)
                    return
                at += 1
            place += 1
            while place < len(self._blocks) and self._blocks[place].lowest > stamp:
                place += 1
            if place >= len(self._blocks):
                last = self._blocks[-1]
                self._insert(last, len(last.items), item)
                return
            block, at = self._blocks[place], 0

    def bury(self, item: Element, deleted: Dot) -> None:
        """A living element is deleted."""
        block = item.block
        assert block is not None
        item.deleted, item.value = deleted, None
        self._cursor = None
        block.living -= 1
        self.living -= 1
        self._count(block.place, -1)

    def _insert(self, block: Block, at: int, item: Element) -> None:
        self._cursor = None
        block.items.insert(at, item)
        item.block = block
        if len(block.items) == 1 or item.stamp < block.lowest:
            block.lowest = item.stamp
        alive = item.deleted is None
        if alive:
            block.living += 1
            self.living += 1
        if len(block.items) > BLOCK_SIZE_MAX:
            half = BLOCK_SIZE_MAX // 2
            new = Block(block.items[half:], 0)
            del block.items[half:]
            block.living -= new.living
            self._blocks.insert(block.place + 1, new)
            self._rebuild()
        elif alive:
            self._count(block.place, 1)

    def _find(self, index: int) -> tuple[Block, int]:
        tree, size = self._tree, len(self._tree)
        place, step = 0, 1 << (size - 1).bit_length() - 1 if size > 1 else 0
        while step:
            further = place + step
            if further < size and tree[further] <= index:
                index -= tree[further]
                place = further
            step >>= 1
        return self._blocks[place], index

    def _count(self, place: int, by: int) -> None:
        tree, size = self._tree, len(self._tree)
        place += 1
        while place < size:
            tree[place] += by
            place += place & -place

    def _rebuild(self) -> None:
        blocks = self._blocks
        tree = [0] * (len(blocks) + 1)
        total = 0
        for place, block in enumerate(blocks):
            block.place = place
            total += block.living
            place += 1
            tree[place] += block.living
            up = place + (place & -place)
            if up < len(tree):
                tree[up] += tree[place]
        self._tree = tree
        self.living = total
