"""A tenant's adapters as records of an export: each before the pieces of its content."""

from __future__ import annotations

from base64 import b64decode
from typing import Any

import msgspec

from monolite.inference.adapters.engine import StoredAdapter

KINDS: tuple[str, ...] = ("adapter", "adapter_piece")

PIECES = "SELECT seq, data FROM adapter_pieces WHERE tenant_id = "


def record_of(adapter: StoredAdapter) -> dict[str, Any]:
    """One, but for its content."""
    return {"kind": "adapter", **msgspec.to_builtins(adapter)}


def piece_of(name: str, row: Any) -> dict[str, Any]:
    """A piece of its content."""
    return {"kind": "adapter_piece", "adapter": name, "seq": row[0], "data": row[1]}


def read(record: dict[str, Any]) -> StoredAdapter:
    """A record's adapter; raises TypeError where it is none's."""
    try:
        fields = {name: value for name, value in record.items() if name != "kind"}
        return msgspec.convert(fields, StoredAdapter)
    except msgspec.ValidationError:
        raise TypeError("adapter") from None


def read_piece(record: dict[str, Any]) -> tuple[str, int, bytes]:
    """Name, number and data of a piece; raises KeyError or TypeError."""
    try:
        return record["adapter"], record["seq"], b64decode(record["data"], validate=True)
    except ValueError:
        raise TypeError("adapter_piece") from None
