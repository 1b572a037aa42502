"""A sequence's elements as bytes: runs of what was typed in one go.

    runs   varint count, then each run
    run    form: 0 removed, 1 values, 2 characters
           dot of its first insertion      replica, n
           stamp of its first insertion
           parent of its first insertion   0 for the beginning, or 1 and a dot
           length, at least 1
           by form
           0 dot of the first removal   1 values   2 text

Each insertion of a run but the first is its replica's next dot and next stamp, stands behind the
one before it, and its removal is the next dot of the same replica. A run is as long as it can be,
of the removed at most 1 000 000. Form 2 is for values that are all texts of one code point each:
the text is their concatenation.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from monolite.crdt.dots import Dot, Dots
from monolite.crdt.errors import MalformedError
from monolite.crdt.rga_blocks import Element
from monolite.crdt.wire import WHOLE_MAX, Reader, Writer

REMOVED, VALUES, CHARACTERS = 0, 1, 2
REMOVED_RUN_MAX = 1_000_000


def write_runs(writer: Writer, items: Sequence[Element]) -> None:
    """Elements in this order, as few runs."""
    runs = list(_runs(items))
    writer.varint(len(runs))
    for run in runs:
        first = run[0]
        form = _form(run)
        writer.varint(form)
        writer.dot(first.dot)
        writer.varint(first.stamp)
        writer.varint(0 if first.parent is None else 1)
        if first.parent is not None:
            writer.dot(first.parent)
        writer.varint(len(run))
        if form == CHARACTERS:
            writer.text("".join(item.value for item in run))
        elif form == VALUES:
            for item in run:
                writer.value(item.value)
        else:
            assert first.deleted is not None
            writer.dot(first.deleted)


def read_runs(reader: Reader) -> list[Element]:
    """Elements in their order."""
    items: list[Element] = []
    for _ in range(reader.count()):
        form = reader.varint()
        (name, number), stamp, has_parent = reader.dot(), reader.varint(), reader.varint()
        if form > CHARACTERS or has_parent > 1 or stamp == 0:
            raise MalformedError("no run of a sequence begins like this")
        parent = reader.dot() if has_parent else None
        length = reader.varint() if form == REMOVED else reader.count()
        removal: Dot = ("", 0)
        values: list[Any]
        if form == CHARACTERS:
            values = list(reader.text())
        elif form == VALUES:
            values = [reader.value() for _ in range(length)]
        else:
            removal = reader.dot()
            # A run of the removed takes no byte for each: its length is held by what it numbers.
            if length > REMOVED_RUN_MAX:
                raise MalformedError(f"over {REMOVED_RUN_MAX} removed elements in one run")
            values = [None] * length
        if length == 0 or len(values) != length:
            raise MalformedError("a run has another length than it says")
        if max(number, stamp, removal[1]) + length > WHOLE_MAX:
            raise MalformedError("a number over 2^53 - 1")
        for step, value in enumerate(values):
            deleted = (removal[0], removal[1] + step) if form == REMOVED else None
            items.append(Element((name, number + step), stamp + step, parent, value, deleted))
            parent = (name, number + step)
    return items


def check(
    context: Dots,
    floor: int,
    placed: Sequence[Element],
    waiting: Sequence[Element],
    removals: Mapping[Dot, Dot],
) -> None:
    """Refuse elements that no replica can have come to.

    Raises:
        MalformedError: with what is wrong with which.
    """
    stamps: dict[Dot, int] = {}
    every = {item.dot for item in placed} | {item.dot for item in waiting}
    if len(every) < len(placed) + len(waiting):
        raise MalformedError("a dot is two insertions")
    if any(dot not in context for dot in every):
        raise MalformedError("an insertion is not in the context")
    for item in placed:
        if item.deleted is not None and item.deleted not in context:
            raise MalformedError("a removal is not in the context")
        parent = item.parent
        if parent is not None and parent not in stamps:
            if parent in every or parent not in context:
                raise MalformedError("an element stands before its parent, or without it")
            if not floor:
                raise MalformedError("an element's parent was collected, and nothing was")
        elif parent is not None and stamps[parent] >= item.stamp:
            raise MalformedError("an element's stamp is not over its parent's")
        stamps[item.dot] = item.stamp
    for item in waiting:
        if item.deleted is not None or item.parent is None or item.parent in stamps:
            raise MalformedError("an element waits for nothing")
        if item.parent in context and item.parent not in every:
            raise MalformedError("an element waits for what was collected")
    for target, removal in removals.items():
        if removal not in context or target in stamps:
            raise MalformedError("a removal is not in the context, or has its element")
        if target in context and target not in every:
            raise MalformedError("a removal waits for what was collected")


def _runs(items: Sequence[Element]) -> Iterator[list[Element]]:
    run: list[Element] = []
    for item in items:
        if run and not _follows(item, run[-1], len(run)):
            yield run
            run = []
        run.append(item)
    if run:
        yield run


def _follows(item: Element, last: Element, length: int) -> bool:
    if (
        item.parent != last.dot
        or item.dot != (last.dot[0], last.dot[1] + 1)
        or item.stamp != last.stamp + 1
    ):
        return False
    if item.deleted is None or last.deleted is None:
        return item.deleted is last.deleted
    next_removal = (last.deleted[0], last.deleted[1] + 1)
    return item.deleted == next_removal and length < REMOVED_RUN_MAX


def _form(run: Sequence[Element]) -> int:
    if run[0].deleted is not None:
        return REMOVED
    single = all(type(item.value) is str and len(item.value) == 1 for item in run)
    return CHARACTERS if single else VALUES
