"""What an index can do for a query: where to seek in it, and in which order it gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from monolite.documents.collection import Index
from monolite.documents.filters import Condition, Group
from monolite.documents.query import Query


@dataclass(frozen=True, slots=True)
class Access:
    """One way to the documents: an index with the conditions that seek in it, or none of them.

    `equal_count` fields are fixed to one value each. `is_ordered` says that entries come in the
    query's order, `is_few` that the documents are named by their ids. `sought` are the conditions
    that need no look any more.
    """

    index: Index | None
    sought: tuple[Condition, ...] = ()
    equal_count: int = 0
    is_ordered: bool = False
    by_id: bool = False
    is_few: bool = False


def access_of(index: Index, wanted: Sequence[Condition], query: Query) -> Access:
    """What an index does for a query whose every match fulfils the conditions `wanted`."""
    sought: list[Condition] = []
    equal_count = 0
    is_single = True
    for name in index.fields:
        here = [c for c in wanted if c.target.column == name and _seeks(c)]
        equal = next((c for c in here if c.operator in ("eq", "is") and not c.negated), None)
        if equal is not None:
            sought.append(equal)
            equal_count += 1
            continue
        listed = next((c for c in here if c.operator == "in"), None)
        if listed is not None:
            sought.append(listed)
            is_single = False
            equal_count += 1
            continue
        sought += here
        break
    return Access(
        index, tuple(sought), equal_count, is_single and _is_ordered(index, equal_count, query)
    )


def _seeks(condition: Condition) -> bool:
    """Whether a condition says where in an index to look."""
    match condition.operator:
        case "is":
            # not.is.null is a range; the negations of the others are not.
            return not condition.negated or condition.value is None
        case "like":
            return not condition.negated and not condition.value.startswith("*")
        case "neq" | "cs":
            return False
    return not condition.negated


def _is_ordered(index: Index, equal_count: int, query: Query) -> bool:
    """Whether the entries behind the fixed fields lie in the query's order, or its reverse."""
    fixed = set(index.fields[:equal_count])
    orders = [order for order in query.order if order.target.column not in fixed]
    directions = {order.descending for order in orders} | {query.descending}
    return (
        len(directions) == 1
        and tuple(order.target.column for order in orders) == (index.fields[equal_count:])
    )


def conjunction(group: Group) -> list[Condition]:
    """The conditions that every match fulfils."""
    if group.negated or (group.joint == "or" and len(group.members) > 1):
        return []
    found: list[Condition] = []
    for member in group.members:
        found += conjunction(member) if isinstance(member, Group) else [member]
    return found


def is_served(indexes: Sequence[Index], query: Query) -> bool:
    """Whether some index that is ready seeks for a query, or gives its order."""
    wanted = conjunction(query.where)
    if any(c.target.built_in == "id" and c.operator in ("eq", "in") for c in wanted):
        return True
    ways = [access_of(index, wanted, query) for index in indexes if index.state == "ready"]
    return any(way.sought or (query.order and way.is_ordered) for way in ways)


def shape(query: Query) -> list[str]:
    """What an index for a query would hold: the fields fixed by equality, then one more."""
    wanted = [c for c in query.where.members if not isinstance(c, Group) and not c.negated]
    equal = [c.target.text for c in wanted if c.operator in ("eq", "in", "is")]
    others = [c.target.text for c in wanted if c.operator in ("gt", "gte", "lt", "lte", "like")]
    others += [order.target.text for order in query.order]
    return list(dict.fromkeys([*sorted(equal), *others[:1]]))
