"""A document as it is stored and answered."""

from __future__ import annotations

import msgspec

ID_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"


class Document(msgspec.Struct, frozen=True):
    """One version of a document; `data` is JSON text, times are milliseconds."""

    id: str
    data: str
    revision: int
    created_at: int
    updated_at: int

    @property
    def etag(self) -> str:
        """Its strong entity tag."""
        return f'"{self.revision}-{self.updated_at:x}"'


class Collection(msgspec.Struct, frozen=True):
    """A collection and how much is in it."""

    name: str
    created_at: int
