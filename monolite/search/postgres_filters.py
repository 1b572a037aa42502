"""Filters as SQL over `metadata`, jsonb: the same conditions as columns.py, of the same rows."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from monolite.search.index import Condition

_ORDER = {"gt": ">", "gte": ">=", "lt": "<", "lte": "<="}


def value_at(path: Sequence[str], values: list[object]) -> str:
    """The expression of what lies at a path; its steps are appended to `values`.

    `-> text` finds a member of an object alone, `#>` would find an array's element too.
    """
    steps = []
    for step in path:
        values.append(step)
        steps.append(f" -> ${len(values)}::text")
    return "(d.metadata" + "".join(steps) + ")"


def conditions(where: Sequence[Condition], values: list[object]) -> str:
    """Each condition with AND before it; what they compare with is appended to `values`."""
    return "".join(f" AND {_condition(one, values)}" for one in where)


def _condition(condition: Condition, values: list[object]) -> str:
    value = value_at(condition.path, values)
    # The planner may move a condition on elements before one on the kind, so one CASE has both.
    elements = (
        f"jsonb_array_elements(CASE jsonb_typeof({value}) WHEN 'array' THEN {value}"
        f" ELSE jsonb_build_array({value}) END)"
    )
    return (
        f"({value} IS NOT NULL AND EXISTS (SELECT FROM {elements} e"
        f" WHERE {_compared(condition, values)}))"
    )


def _compared(condition: Condition, values: list[object]) -> str:
    operator, wanted = condition.operator, condition.value
    scalar = "jsonb_typeof(e) NOT IN ('array', 'object')"
    if operator in ("eq", "neq"):
        sign = "=" if operator == "eq" else "<>"
        return f"{scalar} AND e {sign} {_json(wanted, values)}"
    if operator == "in":
        values.append([msgspec.json.encode(one).decode() for one in wanted])
        return f"{scalar} AND e = ANY (${len(values)}::text[]::jsonb[])"
    sign = _ORDER[operator]
    if isinstance(wanted, str):
        values.append(wanted)
        # By code points, as everywhere: a database's own collation is another order.
        text = "(e #>> '{}') COLLATE \"C\""
        return (
            f"CASE jsonb_typeof(e) WHEN 'string' THEN {text} {sign} ${len(values)}::text"
            " ELSE false END"
        )
    return (
        f"CASE jsonb_typeof(e) WHEN 'number' THEN (e #>> '{{}}')::numeric {sign}"
        f" ({_json(wanted, values)} #>> '{{}}')::numeric ELSE false END"
    )


def _json(value: object, values: list[object]) -> str:
    values.append(msgspec.json.encode(value).decode())
    return f"${len(values)}::text::jsonb"
