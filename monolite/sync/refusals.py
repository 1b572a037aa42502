"""What the relay refuses, in its users' words."""

from __future__ import annotations

from collections.abc import Sequence

from monolite.errors import Conflict, FieldError, Gone, Invalid
from monolite.sync.entry import Limits
from monolite.sync.ranges import Range, text_of


def epoch_ended(given: int, current: int) -> Gone:
    """The sender knows another epoch than the document's."""
    error = Gone(
        f"The document was deleted, or restored, since epoch {given}: this is epoch {current}. Drop"
        " what you kept of it, or write again without X-Epoch if it is to come back.",
        code="epoch_ended",
    )
    error.members = {"epoch": current}
    return error


def cursor_ahead() -> Gone:
    """A place that this database has not reached."""
    return Gone(
        "The cursor lies beyond the newest entry: the database was restored to an earlier moment."
        " List without ?since, and send again what is missing.",
        code="cursor_ahead",
    )


def too_many_entries(limits: Limits) -> Conflict:
    """The hard stop that Compact-Advised announced."""
    return Conflict(
        f"The document has {limits.entry_count_max} entries, the most it may. Merge them and post"
        " a snapshot that supersedes them; a state of a replica that has one is still taken.",
        code="too_many_entries",
    )


def too_many_documents(limits: Limits) -> Conflict:
    """One more document would be over the tenant's limit."""
    return Conflict(
        f"The tenant has {limits.document_count_max} documents, the most it may. Delete some.",
        code="too_many_documents",
    )


def unknown_entries(pointer: str, numbers: Sequence[Range], newest: int) -> Invalid:
    """Numbers that were never given."""
    why = f"no entry has the number {text_of(numbers)}; the newest is {newest}"
    return Invalid(f"{pointer}: {why}.", [FieldError(pointer, why)], code="unknown_entries")


def already_superseded() -> Conflict:
    """Someone else compacted first."""
    return Conflict(
        "None of these entries is live any more: another snapshot supersedes them. List the entries"
        " again; your snapshot may not be needed.",
        code="already_superseded",
    )
