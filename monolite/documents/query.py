"""What a list asks for: filter, order, page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from monolite.documents.document import Document
from monolite.documents.filters import ALL, FilterParser, Group, Target
from monolite.documents.paths import Steps, parse_path
from monolite.errors import FieldError, Invalid

ORDERS_MAX = 4
SELECTED_MAX = 32


@dataclass(frozen=True, slots=True)
class Order:
    """One sort key. Numbers come before strings, and what has no value last; `desc` turns that
    around, as PostgreSQL's defaults do.
    """

    target: Target
    descending: bool = False


@dataclass(frozen=True, slots=True)
class Query:
    """Documents that pass `where`, by `order` and then in the order they were made.

    `after` is the position of the last document of the page before: the values of `order` and the
    engine's own tie-break, as `Found.position` gave it. `descending` turns the tie-break around.
    """

    where: Group = ALL
    order: tuple[Order, ...] = ()
    after: Sequence[Any] | None = None
    limit: int = 50

    @property
    def descending(self) -> bool:
        """Newest first among equals where the last key is descending."""
        return bool(self.order) and self.order[-1].descending


@dataclass(frozen=True, slots=True)
class Found:
    """A page of documents; `position` is where the next begins, or None on the last."""

    documents: Sequence[Document]
    position: list[Any] | None


def parse_order(text: str | None, parser: FilterParser) -> tuple[Order, ...]:
    """`created_at.desc,region` as sort keys; raises Invalid at `?order`."""
    orders: list[Order] = []
    for part in (text or "").split(","):
        if not part and text is None:
            continue
        name, _, direction = part.rpartition(".")
        if direction not in ("asc", "desc") or not name:
            name, direction = part, "asc"
        if name.endswith((".nullsfirst", ".nullslast")) or direction.startswith("nulls"):
            _refuse("?order", "what has no value comes last in asc and first in desc")
        orders.append(Order(parser.target(name, "?order"), direction == "desc"))
    if len(orders) > ORDERS_MAX:
        _refuse("?order", f"a list is sorted by at most {ORDERS_MAX} keys")
    return tuple(orders)


def parse_select(text: str | None, parser: FilterParser) -> tuple[tuple[str, Steps], ...] | None:
    """`region,config.flags` as names and places in `data`; raises Invalid at `?select`."""
    if text is None or text == "*":
        return None
    selected: list[tuple[str, Steps]] = []
    for part in text.split(","):
        target = parser.target(part, "?select")
        if target.field is not None:
            selected.append((target.field.name, target.field.steps))
        elif target.built_in is None:
            selected.append(("", parse_path(part, "?select")))
    if len(selected) > SELECTED_MAX:
        _refuse("?select", f"at most {SELECTED_MAX} places are selected")
    return tuple(selected)


def project(data: Any, selected: Sequence[tuple[str, Steps]]) -> dict[str, Any]:
    """Only the selected places of a document: a promoted field under its name, a path in place."""
    projection: dict[str, Any] = {}
    for name, steps in selected:
        value: Any = data
        for step in steps:
            try:
                value = value[step]
            except (KeyError, IndexError, TypeError):
                break
        else:
            if name:
                projection[name] = value
            else:
                _place(projection, steps, value)
    return projection


def _place(projection: dict[str, Any], steps: Steps, value: Any) -> None:
    # An array is answered by its path's text from the array on: half an array would be a lie.
    keys = [str(step) for step in steps]
    inner = projection
    for key in keys[:-1]:
        below = inner.setdefault(key, {})
        if not isinstance(below, dict):
            return
        inner = below
    inner[keys[-1]] = value


def _refuse(pointer: str, why: str) -> None:
    raise Invalid(f"{pointer}: {why}", [FieldError(pointer, why)])
