"""A collection's definition, and its indexes as they are stored and reported."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from monolite.documents.fields import Field

INDEXED_FIELDS_MAX = 3
"""Fields of one composite index."""

INCLUDED_FIELDS_MAX = 2

INDEXES_MAX = 16
"""Indexes of one collection: each is written again with every document."""

IndexState = Literal["building", "ready", "dropping"]


class Index(msgspec.Struct, frozen=True):
    """An index of one collection. `fields` are promoted fields' names or built-in ones, in order.

    `declared` is true for one that a field's `"index": true` made, which goes with that. `included`
    are fields whose values an entry carries for filters, beside those it is sorted by.
    """

    id: int
    name: str
    fields: tuple[str, ...]
    tenant_only: bool
    declared: bool
    state: IndexState
    created_at: int
    included: tuple[str, ...] = ()


class Collection(msgspec.Struct, frozen=True):
    """A collection and what is defined about it. `number` is never used again; `version` grows
    with each change of the definition. `schema` is JSON text.
    """

    number: int
    name: str
    created_at: int
    updated_at: int
    version: int = 1
    fields: tuple[Field, ...] = ()
    schema: str | None = None
    indexes: tuple[Index, ...] = ()

    @property
    def etag(self) -> str:
        """The strong entity tag of its definition."""
        return f'"{self.number}-{self.version}"'

    def field(self, name: str) -> Field | None:
        """A promoted field by its name."""
        return next((field for field in self.fields if field.name == name), None)


class IndexReport(msgspec.Struct, frozen=True):
    """How an index earns its keep. `bytes` may be an estimate; `scans` counts since `since`."""

    index: Index
    where: str | None
    bytes: int
    scans: int
    since: int
    last_used_at: int | None
    progress: float


class FieldReport(msgspec.Struct, frozen=True):
    """How often a promoted field was written (a value given or changed) and filtered by."""

    name: str
    writes: int
    filters: int
    since: int
    last_filtered_at: int | None


class UnservedShape(msgspec.Struct, frozen=True):
    """Queries of one shape that no index served: equality first, then a range or an order."""

    fields: tuple[str, ...]
    queries: int
    mean_ms: float
    last_seen_at: int


class UsageReport(msgspec.Struct, frozen=True):
    """A collection's indexes, fields and unserved queries."""

    collection: Collection
    indexes: tuple[IndexReport, ...]
    fields: tuple[FieldReport, ...]
    unserved: tuple[UnservedShape, ...]


class Explanation(msgspec.Struct, frozen=True):
    """How a query would run. `parses_json_per_row` says whether the filter or the order looks into
    each document's JSON; `plan` is the engine's own words.
    """

    engine: str
    index: str | None
    parses_json_per_row: bool
    plan: tuple[str, ...]
    statement: str


class Change(msgspec.Struct, frozen=True):
    """One entry of a collection's change log. `position` is opaque and grows; `data` is JSON text,
    None for `deleted`.
    """

    position: str
    type: Literal["created", "updated", "deleted"]
    id: str
    revision: int
    data: str | None


Definition = tuple[tuple[Field, ...], str | None]
"""What PUT sets: the fields, and the schema as JSON text."""


def schema_text(schema: Any) -> str | None:
    """A parsed schema as it is stored."""
    return None if schema is None else msgspec.json.encode(schema).decode()
