"""The refusal of a query that reads too much, which says what to promote."""

from __future__ import annotations

from collections.abc import Sequence

from monolite.documents.filters import Condition, conditions
from monolite.documents.query import Query
from monolite.errors import FieldError, Invalid


def too_slow(query: Query, sought: Sequence[Condition] = ()) -> Invalid:
    """`filter_too_slow` for a query of which an index served only the conditions `sought`."""
    names = dict.fromkeys(
        c.target.text for c in conditions(query.where) if not any(c is s for s in sought)
    )
    advice = 'promote it with PUT /v1/collections/{c} and "index": true, or ask for less'
    return Invalid(
        "The query reads too many documents. Promote the fields it filters and sorts by, with an"
        " index; GET …/indexes suggests which, GET …/explain shows the plan.",
        [FieldError(f"?{name}", f"no index serves it; {advice}") for name in names],
        code="filter_too_slow",
    )
