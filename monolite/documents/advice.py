"""What the counts say: which index is missing, which index or field doesn't earn its keep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from monolite.documents.collection import (
    INDEXED_FIELDS_MAX,
    Collection,
    FieldReport,
    IndexReport,
    UnservedShape,
    UsageReport,
)
from monolite.documents.fields import BUILT_IN

QUERIES_MIN = 3
"""Seen before an index is suggested."""

UNUSED_AFTER_MS = 30 * 86_400_000


@dataclass(frozen=True, slots=True)
class Suggestion:
    """An index that queries would have used. `promote` are its fields that are paths yet."""

    fields: tuple[str, ...]
    promote: tuple[str, ...]
    evidence: UnservedShape


def suggestions(report: UsageReport) -> Sequence[Suggestion]:
    """Missing indexes, the one that would have saved most first."""
    found: dict[tuple[str, ...], Suggestion] = {}
    for shape in report.unserved:
        fields = shape.fields[:INDEXED_FIELDS_MAX]
        served = any(r.index.fields[: len(fields)] == fields for r in report.indexes)
        if shape.queries >= QUERIES_MIN and not served:
            promote = tuple(f for f in fields if not _is_column(report.collection, f))
            found.setdefault(fields, Suggestion(fields, promote, shape))
    return list(found.values())


def is_unused(report: IndexReport, now_ms: int) -> bool:
    """Whether no query has used an index: ever, or for thirty days. Nothing is dropped for it."""
    if report.index.state != "ready":
        return False
    return report.last_used_at is None or now_ms - report.last_used_at > UNUSED_AFTER_MS


def field_flags(
    report: FieldReport, index: IndexReport | None, now_ms: int
) -> Sequence[tuple[str, str]]:
    """What speaks against a promoted field, as a word and a sentence."""
    size = f"its index takes {index.bytes} bytes" if index else "it has no index of its own"
    flags = []
    if report.writes > report.filters:
        flags.append(
            (
                "written_more_than_filtered",
                f"written {report.writes} times and filtered by {report.filters} times; {size}: a"
                " field that changes often or serves only batches is better read by its path",
            )
        )
    last = report.last_filtered_at or report.since
    if now_ms - last > UNUSED_AFTER_MS:
        flags.append(
            ("not_filtered_in_30_days", f"no query has filtered by it for thirty days; {size}")
        )
    return flags


def _is_column(collection: Collection, name: str) -> bool:
    return name in BUILT_IN or collection.field(name) is not None
