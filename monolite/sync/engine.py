"""What the relay needs of a database."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from monolite.preconditions import Precondition
from monolite.sync.entry import Document, Entry, Limits, OwnLimits, Written
from monolite.sync.ranges import Range

Also = Callable[[Any, Written], Awaitable[None] | None] | None
"""What else to do in the same transaction, given the engine's handle and what was written. What it
returns is awaited there, over an engine that awaits; over SQLite it returns None.
"""

Changed = Callable[[int, str], None]
"""Told of a tenant and a document in which something may have been committed."""

Heard = Callable[[int, str, bytes, object], None]
"""Given a tenant, a document, the bytes of someone's presence, and who sent them, if one here."""


class Write(msgspec.Struct, frozen=True):
    """Where a write goes and what it must find. `epoch` is the one its sender knows, or None."""

    tenant_id: int
    document: str
    epoch: int | None
    limits: Limits
    now_ms: int


@dataclass(frozen=True, slots=True)
class Read:
    """A document as it was, and its entries beyond a place; `is_whole` where there are no more."""

    document: Document
    entries: Sequence[Entry]
    is_whole: bool


class SyncEngine(Protocol):
    """Logs at rest. A document comes into being with its first entry.

    Writes raise Gone (`epoch_ended`) where their epoch is another than the document's, and Conflict
    (`too_many_documents`, `too_many_entries`) past a limit. Reads answer None where there is no
    such document; of a deleted one they answer its tombstone, `is_live` False and without entries.
    """

    # ── Writes ─────────────────────────────────────────────────────────────────────────────────

    def put_state(
        self, write: Write, replica: str, blob: bytes, digest: bytes, precondition: Precondition
    ) -> Awaitable[Written]:
        """Store a replica's state in place of its last one. Not a coroutine itself: each layer of
        them costs at every wake-up.
        """
        ...

    def append(
        self, write: Write, blob: bytes, digest: bytes, also: Also = None
    ) -> Awaitable[Written]:
        """Append an update, or find the same bytes among the document's updates."""
        ...

    def compact(
        self,
        write: Write,
        blob: bytes,
        digest: bytes,
        supersedes: Sequence[Range],
        also: Also = None,
    ) -> Awaitable[Written]:
        """Append a snapshot and supersede the live entries among the numbers.

        Raises Invalid (`unknown_entries`) for numbers that were never given, Conflict
        (`already_superseded`) where none of them is live and these bytes did not supersede them.
        """
        ...

    def restore(
        self, write: Write, numbers: Sequence[Range]
    ) -> Awaitable[Sequence[tuple[int, int]]]:
        """Make superseded entries live again under new numbers: (old, new) of each. A state becomes
        an update, since its replica may have another by now.

        Raises Invalid (`unknown_entries`) where none of the numbers is restorable.
        """
        ...

    async def delete(self, write: Write) -> int | None:
        """Leave a tombstone; returns the new epoch, or None where there is no live document."""
        ...

    # ── Reads ──────────────────────────────────────────────────────────────────────────────────

    async def document(self, tenant_id: int, name: str) -> Document | None:
        """One document, or its tombstone."""
        ...

    async def documents(self, tenant_id: int, after: str | None, limit: int) -> Sequence[Document]:
        """A tenant's live documents by name, beyond `after`."""
        ...

    async def state(self, tenant_id: int, name: str, replica: str) -> Entry | None:
        """A replica's live state with its blob."""
        ...

    async def entry(self, tenant_id: int, name: str, seq: int) -> Entry | None:
        """One entry with its blob, live or superseded."""
        ...

    async def entries(
        self,
        tenant_id: int,
        name: str,
        after: int,
        *,
        limit: int,
        bytes_max: int,
        blobs: bool,
        superseded: bool = False,
    ) -> Read | None:
        """Live (or superseded) entries beyond a number, in order: at most `limit`, and as many as
        have blobs of `bytes_max` bytes together, one at least.
        """
        ...

    # ── Tenants ────────────────────────────────────────────────────────────────────────────────

    async def own_limits(self, tenant_id: int) -> OwnLimits:
        """What the tenant tightened."""
        ...

    async def set_own_limits(self, tenant_id: int, limits: OwnLimits) -> None:
        """Replace them."""
        ...

    # ── News ───────────────────────────────────────────────────────────────────────────────────

    def follow(
        self,
        changed: Changed,
        heard: Heard,
        limits_changed: Callable[[int | None], None],
        followed: Callable[[], Sequence[tuple[int, str]]],
    ) -> None:
        """Call these on the loop: `changed` soon after each commit, of this server or another,
        `heard` for each presence, `limits_changed` with the tenant, or None where it may be any.
        `followed` names the documents that someone listens to.
        """
        ...

    async def whisper(self, tenant_id: int, name: str, blob: bytes, sender: object) -> None:
        """Bring presence to every server; it is stored nowhere."""
        ...
