"""Adapters at rest: values, and what the core needs of a database."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, Protocol

import msgspec

PIECE_BYTES = 1 << 20

Also = Callable[[Any, Any], Awaitable[None] | None] | None


class StoredAdapter(msgspec.Struct, frozen=True):
    """One, but for its content. `model_digest` and `digest` are SHA-256 of the model's file and of
    its own, in hexadecimal; the model's `active` one answers where a request names none.
    """

    name: str
    model: str
    model_digest: str
    architecture: str
    rank: int
    alpha: float
    tensors: int
    bytes: int
    digest: str
    is_active: bool
    created_at: int


COLUMNS = StoredAdapter.__struct_fields__
"""The table's columns have the fields' names and order."""

TENANT_TABLES = ("adapter_pieces", "adapters")


def pieces_of(content: bytes) -> Iterator[bytes]:
    """As they are stored."""
    for at in range(0, len(content), PIECE_BYTES):
        yield content[at : at + PIECE_BYTES]


class AdapterEngine(Protocol):
    """A tenant's adapters, by name."""

    async def get(self, tenant_id: int, name: str) -> StoredAdapter | None:
        """One."""
        ...

    async def active(self, tenant_id: int, model: str) -> StoredAdapter | None:
        """The active one of a model."""
        ...

    async def all(self, tenant_id: int) -> Sequence[StoredAdapter]:
        """All, by name."""
        ...

    async def content(self, tenant_id: int, name: str, digest: str) -> bytes | None:
        """Its file; None where another is there by now."""
        ...

    async def put(
        self,
        tenant_id: int,
        adapter: StoredAdapter,
        content: bytes,
        count_max: int,
        also: Also = None,
    ) -> bool | None:
        """Store it in place of its namesake, which stays active where it was; whether it is new,
        None where there are `count_max` others. `also` gets what is stored, and is told nothing
        where nothing is.
        """
        ...

    async def delete(self, tenant_id: int, name: str) -> bool:
        """Remove it; whether it was there."""
        ...

    async def activate(self, tenant_id: int, name: str, model: str) -> bool:
        """Make it the active one of its model; whether it is there."""
        ...
