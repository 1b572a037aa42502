"""A sequence: a replicated growable array.

Roh, Jeon, Kim, Lee: "Replicated abstract data types" (2011). An insertion names the element it
stands behind and has a Lamport stamp over all its replica had seen; of several behind one element
the one with the higher stamp comes first, then the one with the higher replica's name. A removal
leaves a tombstone. Every insertion and every removal has a dot, so states and deltas merge as an
OR-Set's do.

**Collection.** Once every replica has seen all of a set S of dots (`stability.py`), tombstones in
it are taken out, and `floor` is the highest stamp in S. It is sound because of three facts:

1. What a replica inserts after it has seen S has a stamp over `floor`, and stands behind something
   that was alive for it, so never behind what was collected.
2. Its place is looked for from its parent on past higher stamps. All of S is lower. So the search
   ends before the first of S, whether or not tombstones of S are still there; and what is not in S
   but descends from a tombstone of S keeps that tombstone (`collect`).
3. So an unseen insertion with a stamp up to `floor`, or behind what was collected, comes from a
   replica that had not seen S. It is refused (StaleError) and nothing changes. Such a replica was
   taken for inactive; it begins anew from the others' state and brings its own changes by `rebase`.

What was collected stays in the context, so a state that still has it can't bring it back.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar

from monolite.crdt import rga_body
from monolite.crdt.dots import Dot, Dots
from monolite.crdt.errors import ConflictError, CrdtError, StaleError
from monolite.crdt.rga_blocks import Blocks, Element
from monolite.crdt.wire import KINDS, Reader, Writer, checked_name, normal, value_bytes


class Rga:
    """Elements in order, tombstones among them; and all dots ever seen."""

    KIND: ClassVar[int] = 5
    __slots__ = ("_blocks", "_elements", "_highest", "_removals", "_waiting", "context", "floor")

    def __init__(self) -> None:
        self.context = Dots()
        self.floor = 0
        self._highest = 0
        self._elements: dict[Dot, Element] = {}
        self._blocks = Blocks()
        # Insertions whose parent has not come yet, by the parent; removals that came before theirs.
        self._waiting: dict[Dot, list[Element]] = {}
        self._removals: dict[Dot, Dot] = {}

    def __len__(self) -> int:
        return self._blocks.living

    def __iter__(self) -> Iterator[Any]:
        return (item.value for item in self._blocks if item.deleted is None)

    def __getitem__(self, index: int) -> Any:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self._blocks.at(index).value

    @property
    def value(self) -> list[Any]:
        """The elements that are alive."""
        return list(self)

    @property
    def tombstone_count(self) -> int:
        """How many elements are kept though they were removed."""
        return len(self._elements) - len(self)

    def insert(self, index: int, values: Iterable[Any], replica: str) -> Rga:
        """Insert values, which then begin at `index`; a text's are its characters. The delta.

        Raises:
            IndexError: there is no such place.
            CrdtError: a value or the replica's name is none.
        """
        if not 0 <= index <= len(self):
            raise IndexError(index)
        if not self.context.prefix(replica):
            checked_name(replica)
        left = self._blocks.at(index - 1) if index else None
        delta = Rga()
        for value in [normal(value) for value in values]:
            left = self._insert_behind(left, value, replica, delta)
            self._blocks.remember(index, left)
            index += 1
        return delta

    def append(self, value: Any, replica: str) -> Rga:
        """Insert one value at the end; returns the delta."""
        return self.insert(len(self), [value], replica)

    def delete(self, index: int, replica: str, count: int = 1) -> Rga:
        """Remove `count` elements from `index` on; returns the delta.

        Raises:
            IndexError: there are not so many.
        """
        if index < 0 or count < 0 or index + count > len(self):
            raise IndexError(index)
        delta = Rga()
        places = self._blocks.from_index(index)
        for item in [next(places) for _ in range(count)]:
            self._remove(item, replica, delta)
        return delta

    def merge(self, other: Rga, now_ms: int | None = None) -> None:
        """Take in another's insertions, removals and collections.

        Raises:
            StaleError: one of the two has insertions of a replica that had not seen what the other
                has collected.
            ConflictError: one dot is two insertions.
        """
        self._refuse_conflicts(other)
        new = [item for item in other._everything() if item.dot not in self.context]
        gone = self._collected_by(other)
        self._refuse_stale(new)
        if other.floor or gone:
            other._refuse_stale([i for i in self._everything() if i.dot not in other.context])
        if other.floor <= self.floor:
            self._take_out(gone)
            self._add(new, dict(other._every_removal()), other.context)
            return
        # What the other has collected around can only be placed by its order: begin with that.
        mine = [item for item in self._everything() if item.dot not in other.context]
        removals, seen, gone = dict(self._every_removal()), self.context, other._collected_by(self)
        self._become(other)
        self._take_out([self._elements[item.dot] for item in gone])
        self._add(mine, removals, seen)

    def collect(self, stable: Dots) -> int:
        """Take out the tombstones that every replica has seen; returns how many.

        `stable` is what every replica has seen, as `Stability.stable` gives it. Each replica
        collects on its own, when it likes.
        """
        if any(dot not in self.context for dot in stable):
            raise CrdtError("what this replica has not seen is not stable")
        parents = {i.parent for i in self._everything() if i.dot not in stable}
        gone = [
            item
            for item in self._blocks
            if item.deleted is not None
            and item.dot in stable
            and item.deleted in stable
            and item.dot not in parents
        ]
        if gone:
            highest = max(i.stamp for i in self._blocks if i.dot in stable)
            self.floor = max(self.floor, highest)
            self._take_out(gone)
        return len(gone)

    def rebase(self, onto: Rga, replica: str, *others: str) -> tuple[Rga, Rga]:
        """Bring this replica's changes to another's state as new ones; for after a StaleError.

        What `replica` inserted and `onto` has not seen is inserted anew behind the nearest element
        to its left that is alive there; removals that `onto` has not seen are done again. What
        `others` inserted goes along too: for replicas that will not come back themselves.

        Returns: the new state, and the delta that brings `onto` there.
        """
        made, delta = onto.copy(), Rga()
        for dot in self.context:
            if dot[0] == replica and dot not in onto.context:
                made.context.add(dot)
                delta.context.add(dot)
        last: Element | None = None
        for item in self._blocks:
            theirs = made._elements.get(item.dot)
            if theirs is not None and theirs.deleted is None and item.deleted is None:
                last = theirs
            elif theirs is not None and theirs.deleted is None:
                made._remove(theirs, replica, delta)
            elif item.dot in onto.context or item.deleted is not None:
                continue
            elif item.dot[0] in (replica, *others):
                made.context.add(item.dot)
                delta.context.add(item.dot)
                last = made._insert_behind(last, item.value, replica, delta)
        return made, delta

    def copy(self) -> Rga:
        made = Rga()
        made._become(self)
        return made

    def names(self, found: set[str]) -> None:
        self.context.names(found)
        for parent in self._waiting:
            found.add(parent[0])
        for target in self._removals:
            found.add(target[0])

    def write(self, writer: Writer) -> None:
        """Floor, context, placed elements in runs, waiting ones in runs, early removals."""
        writer.varint(self.floor)
        self.context.write(writer)
        rga_body.write_runs(writer, list(self._blocks))
        waiting = [item for items in self._waiting.values() for item in items]
        rga_body.write_runs(writer, sorted(waiting, key=lambda item: item.dot))
        writer.varint(len(self._removals))
        for target in sorted(self._removals):
            writer.dot(target)
            writer.dot(self._removals[target])

    @classmethod
    def read(cls, reader: Reader) -> Rga:
        made = cls()
        made.floor = reader.varint()
        made.context = Dots.read(reader)
        placed, waiting = rga_body.read_runs(reader), rga_body.read_runs(reader)
        removals = dict((reader.dot(), reader.dot()) for _ in range(reader.count()))
        rga_body.check(made.context, made.floor, placed, waiting, removals)
        made._blocks.fill(placed)
        made._elements = {item.dot: item for item in [*placed, *waiting]}
        for item in waiting:
            assert item.parent is not None
            made._waiting.setdefault(item.parent, []).append(item)
        made._removals = removals
        made._highest = max((item.stamp for item in made._everything()), default=0)
        return made

    def _everything(self) -> Iterable[Element]:
        return self._elements.values()

    def _every_removal(self) -> Iterator[tuple[Dot, Dot]]:
        yield from self._removals.items()
        for item in self._everything():
            if item.deleted is not None:
                yield item.dot, item.deleted

    def _collected_by(self, other: Rga) -> list[Element]:
        """What this one has, and the other has seen and has not."""
        mine, theirs = self._elements, other._elements
        if len(other.context) < len(mine):
            return [mine[dot] for dot in other.context if dot in mine and dot not in theirs]
        seen = other.context
        return [item for dot, item in mine.items() if dot not in theirs and dot in seen]

    def _refuse_conflicts(self, other: Rga) -> None:
        for dot, theirs in other._elements.items():
            mine = self._elements.get(dot)
            if mine is None or mine is theirs:
                continue
            alike = (mine.stamp, mine.parent) == (theirs.stamp, theirs.parent)
            if alike and mine.deleted is None and theirs.deleted is None:
                alike = mine.value is theirs.value or (
                    value_bytes(mine.value) == value_bytes(theirs.value)
                )
            if not alike:
                raise ConflictError(f"one dot of {dot[0]} is two insertions")

    def _refuse_stale(self, unseen: Iterable[Element]) -> None:
        for item in unseen:
            parent = item.parent
            if item.stamp <= self.floor or (
                parent is not None and parent not in self._elements and parent in self.context
            ):
                raise StaleError(f"{item.dot[0]} had not seen what was collected meanwhile")

    def _insert_behind(self, left: Element | None, value: Any, replica: str, delta: Rga) -> Element:
        stamp = (self._highest if self._highest > self.floor else self.floor) + 1
        item = Element(self.context.next(replica), stamp, left.dot if left else None, value)
        self._elements[item.dot] = item
        self._blocks.insert_behind(item, left)
        self._highest = stamp
        delta.context.add(item.dot)
        if left is None or left.dot in delta._elements:
            delta._place(item.copy())
        else:
            delta._wait(item.copy(), left.dot)
        return item

    def _remove(self, item: Element, replica: str, delta: Rga) -> None:
        removal = self.context.next(replica)
        self._blocks.bury(item, removal)
        delta.context.add(removal)
        delta._removals[item.dot] = removal

    def _become(self, other: Rga) -> None:
        self.context, self.floor = other.context.copy(), other.floor
        self._highest, self._removals = other._highest, dict(other._removals)
        placed = [item.copy() for item in other._blocks]
        self._blocks = Blocks(placed)
        self._elements = {item.dot: item for item in placed}
        self._waiting = {}
        for parent, items in other._waiting.items():
            self._waiting[parent] = [item.copy() for item in items]
            self._elements.update((item.dot, item) for item in self._waiting[parent])

    def _take_out(self, gone: Sequence[Element]) -> None:
        """Forget elements that were collected, here or by another."""
        if not gone:
            return
        for item in gone:
            del self._elements[item.dot]
            self._removals.pop(item.dot, None)
            if item.block is None and item.parent is not None:
                waiting = self._waiting[item.parent]
                waiting.remove(item)
                if not waiting:
                    del self._waiting[item.parent]
        without = {item.dot for item in gone}
        self._blocks.fill([item for item in self._blocks if item.dot not in without])

    def _add(self, items: Iterable[Element], removals: dict[Dot, Dot], seen: Dots) -> None:
        for item in sorted(items, key=_stamp):
            self._place(item.copy())
        for target, removal in removals.items():
            mine = self._elements.get(target)
            if mine is not None and mine.block is not None:
                self._bury(mine, removal)
            elif mine is not None or (target not in self.context and target not in seen):
                self._removals[target] = min(removal, self._removals.get(target, removal))
        self.context.update(seen)
        if self._removals:
            kept = self._removals.items()
            self._removals = {t: r for t, r in kept if t in self._elements or t not in self.context}

    def _place(self, item: Element) -> None:
        """Put in an element, and what has waited for it; or let it wait for its parent."""
        self._elements[item.dot] = item
        ready = [item]
        while ready:
            one = ready.pop()
            left = None if one.parent is None else self._elements.get(one.parent)
            if one.parent is not None and (left is None or left.block is None):
                self._wait(one, one.parent)
                continue
            if one.stamp > self._highest:
                self._highest = one.stamp
            self._blocks.integrate(one, left)
            removal = self._removals.pop(one.dot, None)
            if removal is not None:
                self._bury(one, removal)
            ready += self._waiting.pop(one.dot, ())

    def _wait(self, item: Element, parent: Dot) -> None:
        self._elements[item.dot] = item
        self._waiting.setdefault(parent, []).append(item)
        if item.stamp > self._highest:
            self._highest = item.stamp

    def _bury(self, item: Element, removal: Dot) -> None:
        if item.deleted is None:
            self._blocks.bury(item, removal)
        else:
            item.deleted = min(item.deleted, removal)


def _stamp(item: Element) -> int:
    return item.stamp


KINDS[Rga.KIND] = Rga
