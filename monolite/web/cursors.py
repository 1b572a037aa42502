"""Opaque cursors that hold a position, bound to tenant, address and filter.

    base64url( HMAC-SHA-256(key, binding ‖ position)[:16] ‖ position as JSON )

A cursor made up, or carried to another tenant, list or filter, is refused and reads nothing.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from typing import Any

import msgspec

from monolite.errors import FieldError, Invalid
from monolite.web.call import Call
from monolite.web.decoding import query_pairs

_TAG_BYTES = 16
# What may differ between two pages of one list.
_UNBOUND = frozenset({"cursor", "limit", "count"})


class Cursors:
    """Makes and reads cursors with one key of the installation."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def encode(self, call: Call, position: list[Any]) -> str:
        """`position` (plain JSON values) as a cursor for the list that `call` reads."""
        return self.encode_for(_binding(call), position)

    def decode(self, call: Call, cursor: str | None) -> list[Any] | None:
        """The position again, or None where there is no cursor.

        Raises:
            Invalid: it was not made here, or for another tenant, list or filter.
        """
        return None if cursor is None else self.decode_for(_binding(call), cursor, "?cursor")

    def encode_for(self, binding: bytes, position: list[Any]) -> str:
        """`position` as a cursor that is good only with the same binding."""
        payload = msgspec.json.encode(position)
        tag = self._tag(binding, payload)
        return base64.urlsafe_b64encode(tag + payload).decode().rstrip("=")

    def decode_for(self, binding: bytes, cursor: str, pointer: str) -> list[Any]:
        """The position again; raises Invalid at `pointer` where it was not made for the binding."""
        try:
            raw = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        except (binascii.Error, ValueError):
            raw = b""
        tag, payload = raw[:_TAG_BYTES], raw[_TAG_BYTES:]
        if not payload or not hmac.compare_digest(tag, self._tag(binding, payload)):
            why = "not a cursor of this list; start again without it"
            raise Invalid(f"{pointer}: {why}", [FieldError(pointer, why)])
        position: list[Any] = msgspec.json.decode(payload)
        return position

    def after(self, call: Call, cursor: str | None) -> str | None:
        """The one name or id that a list goes on behind, or None at its start."""
        position = self.decode(call, cursor)
        return None if position is None else str(position[0])

    def _tag(self, binding: bytes, payload: bytes) -> bytes:
        size = len(binding).to_bytes(4)
        return hmac.digest(self._key, size + binding + payload, "sha256")[:_TAG_BYTES]


def _binding(call: Call) -> bytes:
    filters = sorted(p for p in query_pairs(call.query_string) if p[0] not in _UNBOUND)
    return msgspec.json.encode([call.tenant_id, call.operation.id, call.path, filters])
