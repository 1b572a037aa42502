"""What the relay keeps: documents and their entries."""

from __future__ import annotations

import hashlib
from typing import Literal

import msgspec

Kind = Literal["state", "update", "snapshot"]

FIRST_EPOCH = 1
"""The epoch of a document that was never deleted, and of one that was never written."""


class Document(msgspec.Struct, frozen=True):
    """A document's row. `seq` is the last number given, `floor` the highest one superseded by a
    snapshot, `floor_snapshot` that snapshot; 0 is none. Times are milliseconds.
    """

    id: int
    name: str
    is_live: bool
    epoch: int
    seq: int
    floor: int
    floor_snapshot: int
    entry_count: int
    byte_count: int
    created_at: int
    updated_at: int


class Entry(msgspec.Struct, frozen=True):
    """One entry of a log. `blob` is None where only its description was read.

    `changed_at` (ms) is when it was superseded, else when it was stored.
    """

    seq: int
    kind: Kind
    replica: str | None
    digest: bytes
    size: int
    created_at: int
    changed_at: int
    supersedes: str | None
    blob: bytes | None

    @property
    def etag(self) -> str:
        """The strong ETag: the SHA-256 of its bytes."""
        return etag_of(self.digest)


class Written(msgspec.Struct, frozen=True):
    """What a write did. `is_new` is False where the bytes were there already; `was_there` says
    that a state replaced another.
    """

    seq: int
    etag: str
    epoch: int
    is_new: bool
    was_there: bool
    entry_count: int


class Limits(msgspec.Struct, frozen=True):
    """What a tenant may have at most: bytes of a blob, live entries of a document, live documents,
    and listeners on one server.
    """

    blob_bytes_max: int
    entry_count_max: int
    document_count_max: int
    listener_count_max: int

    @property
    def advised_count(self) -> int:
        """The number of live entries from which compaction is advised: half of the most."""
        return max(1, self.entry_count_max // 2)


class OwnLimits(msgspec.Struct, frozen=True):
    """What a tenant tightened for itself; None is the installation's."""

    blob_bytes_max: int | None = None
    entry_count_max: int | None = None
    document_count_max: int | None = None
    listener_count_max: int | None = None

    def within(self, limits: Limits) -> Limits:
        """The tighter of the two, each."""
        own = (getattr(self, name) for name in self.__struct_fields__)
        most = (getattr(limits, name) for name in limits.__struct_fields__)
        return Limits(
            *(most if own is None else min(own, most) for own, most in zip(own, most, strict=True))
        )


def digest_of(blob: bytes) -> bytes:
    """SHA-256, by which equal bytes are told."""
    return hashlib.sha256(blob).digest()


def etag_of(digest: bytes) -> str:
    """A digest as a strong entity tag (RFC 9110, 8.8.3)."""
    return f'"{digest.hex()}"'
