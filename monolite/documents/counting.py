"""What is counted of a query that ran."""

from __future__ import annotations

import msgspec

from monolite.documents.access import shape
from monolite.documents.filters import conditions
from monolite.documents.query import Query
from monolite.documents.usage import Key, Usage


def count_query(
    usage: Usage,
    tenant_id: int,
    number: int,
    query: Query,
    now_ms: int,
    elapsed_s: float,
    *,
    is_served: bool,
) -> None:
    """Count the promoted fields that a query filtered by, and its shape where no index served."""
    for condition in conditions(query.where):
        if condition.target.field is not None:
            usage.add(Key(tenant_id, number, "filter", condition.target.field.name), now_ms)
    if not is_served and (wanted := shape(query)):
        name = msgspec.json.encode(wanted).decode()
        usage.add(Key(tenant_id, number, "unserved", name), now_ms, elapsed_s * 1000)
