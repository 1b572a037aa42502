"""What a new definition of a collection means for its indexes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from monolite.documents.collection import INDEXES_MAX, Index
from monolite.documents.fields import BUILT_IN, Field
from monolite.errors import Conflict, FieldError, Invalid

TENANT_INDEXES_MAX = 50
"""Of an installation, so that nobody has them by the hundred (docs/documents.md has figures)."""


@dataclass(frozen=True, slots=True)
class IndexChanges:
    """Indexes to drop, to make, and to leave as they are."""

    dropped: tuple[Index, ...]
    added: tuple[Index, ...]
    kept: tuple[Index, ...]


def is_same(old: Field | None, new: Field | None) -> bool:
    """Whether a field is still the same place, read as the same type."""
    return old is not None and new is not None and (old.path, old.kind) == (new.path, new.kind)


def index_changes(
    old: Sequence[Field], new: Sequence[Field], indexes: Sequence[Index], now_ms: int
) -> IndexChanges:
    """Compare fields: an index whose field moved is made anew over the new place.

    One that a field's `index` made goes with that; one asked for by itself only with a field.
    """
    before = {field.name: field for field in old}
    after = {field.name: field for field in new}

    def stays(name: str) -> bool:
        return name in BUILT_IN or is_same(before.get(name), after.get(name))

    dropped: list[Index] = []
    added: list[Index] = []
    kept: list[Index] = []
    for index in indexes:
        exists = all(name in BUILT_IN or name in after for name in index.fields)
        if (index.declared and not (exists and after[index.fields[0]].index)) or not exists:
            dropped.append(index)
        elif all(map(stays, index.fields)):
            kept.append(index)
        else:
            dropped.append(index)
            if not index.declared:
                added.append(index)
    declared = {index.name for index in kept if index.declared}
    added += [
        declared_index(field.name, now_ms)
        for field in new
        if field.index and field.name not in declared
    ]
    return IndexChanges(tuple(dropped), tuple(added), tuple(kept))


def declared_index(name: str, now_ms: int) -> Index:
    """The index that a field's `index` makes."""
    return Index(0, name, (name,), False, True, "building", now_ms)


def without_index(fields: Sequence[Field], name: str) -> list[Field]:
    """Fields as they are when a declared index is dropped: off until it is declared again."""
    return [msgspec.structs.replace(f, index=False) if f.name == name else f for f in fields]


def name_taken(name: str) -> Conflict:
    """There is an index of that name."""
    return Conflict(f"There is an index {name!r} already; drop it first, or name the new one.")


def too_many_indexes() -> Invalid:
    """A collection is over INDEXES_MAX."""
    why = f"a collection has at most {INDEXES_MAX} indexes: each is written with every document"
    return Invalid(why, [FieldError("#/fields", why)], code="too_many_indexes")


def too_many_tenant_indexes() -> Conflict:
    """The installation is at TENANT_INDEXES_MAX."""
    return Conflict(
        f"This installation has {TENANT_INDEXES_MAX} indexes of single tenants, the most it takes:"
        " on PostgreSQL an insert costs 4.6 µs without them, 81 µs at 200 and 3,589 µs at 1,000."
        " Drop one that GET …/indexes shows as unused.",
        code="too_many_tenant_indexes",
    )
