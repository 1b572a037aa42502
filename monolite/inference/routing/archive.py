"""A tenant's policy, days and cloud calls as records of an export."""

from __future__ import annotations

from base64 import b64decode, b64encode
from typing import Any

import msgspec

from monolite.inference.routing.budget import CloudCall
from monolite.inference.routing.rows import COLUMNS

KINDS: tuple[str, ...] = ("ai_policy", "ai_day", "ai_call")

_DAY = ("day", "tokens", "micros", "calls", "warned")
DAYS = f"SELECT {', '.join(_DAY)} FROM ai_days WHERE tenant_id = "  # noqa: S608
POLICY = "SELECT policy, updated_at FROM ai_policies WHERE tenant_id = "
CALLS = f"SELECT {', '.join(COLUMNS)} FROM ai_calls WHERE tenant_id = "  # noqa: S608


def policy_record(row: Any) -> dict[str, Any]:
    """A policy as a record."""
    return {"kind": "ai_policy", "policy": msgspec.json.decode(row[0]), "updated_at": row[1]}


def policy_row(record: dict[str, Any]) -> tuple[str, int]:
    """A policy's row, but for the tenant."""
    return msgspec.json.encode(record["policy"]).decode(), record["updated_at"]


def day_record(row: Any) -> dict[str, Any]:
    """A day as a record; what was reserved is not in it."""
    return {"kind": "ai_day", **dict(zip(_DAY, row, strict=True)), "warned": bool(row[4])}


def day_row(record: dict[str, Any]) -> tuple[str, int, int, int, int]:
    """A day's row, but for the tenant."""
    return (
        *(record["day"], record["tokens"], record["micros"], record["calls"]),
        int(record["warned"]),
    )


def call_record(row: Any) -> dict[str, Any]:
    """A call as a record."""
    fields = dict(zip(COLUMNS, row, strict=True))
    if fields["outcome"] is None:
        # Only the server that called can settle it.
        fields |= {"outcome": "lost", "prompt_tokens": fields["reserved_tokens"]}
    return {"kind": "ai_call", **fields, "prompt_hash": b64encode(row[_HASH]).decode()}


_HASH = COLUMNS.index("prompt_hash")


def read_call(record: dict[str, Any]) -> CloudCall:
    """A record's call."""
    fields = {name: record[name] for name in COLUMNS}
    return CloudCall(**{**fields, "prompt_hash": b64decode(fields["prompt_hash"])})
