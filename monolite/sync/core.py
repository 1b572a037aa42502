"""The rules of the relay."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import msgspec

from monolite.clock import Clock
from monolite.errors import FieldError, Gone, Invalid, NotFound, TooLarge
from monolite.preconditions import Precondition
from monolite.sync import ranges
from monolite.sync.channels import Channels, CursorAt, Format, Listener, Outlet, Waiter
from monolite.sync.engine import Also, Read, SyncEngine, Write
from monolite.sync.entry import (
    FIRST_EPOCH,
    Document,
    Entry,
    Limits,
    OwnLimits,
    Written,
    digest_of,
)
from monolite.sync.ranges import Range
from monolite.sync.refusals import cursor_ahead, epoch_ended

PAGE_BYTES_MAX = 8 * 1024 * 1024
"""What the blobs of one page come to together, one entry at least."""

_MISSING = "There is no such document."


class Place(NamedTuple):
    """Where a client is in a log: it has everything up to `seq`, and knows of what was compacted
    when `floor` was the document's.
    """

    epoch: int
    seq: int
    floor: int


class Places(Protocol):
    """Places as opaque cursors, bound to tenant and document."""

    def cursor(self, key: tuple[int, str], place: Place) -> str:
        """A place as text."""
        ...

    def place(self, key: tuple[int, str], cursor: str, pointer: str) -> Place:
        """The place again; raises Invalid at `pointer` for another document's, or none."""
        ...


@dataclass(frozen=True, slots=True)
class Asked:
    """What a reader asks for. `pointer` is where `since` stood."""

    since: str | None = None
    pointer: str = "?since"
    limit: int = 100
    blobs: bool = False


@dataclass(frozen=True, slots=True)
class Listed:
    """A page; `cursor_at` makes the cursor behind an entry of it."""

    document: Document
    entries: Sequence[Entry]
    next_cursor: str
    up_to_date: bool
    cursor_at: CursorAt


class Sender(msgspec.Struct, frozen=True):
    """Who writes where. `epoch` is what X-Epoch said."""

    tenant_id: int
    document: str
    epoch: int | None = None


class Relay:
    """The documents of every tenant. `limits` are the installation's."""

    def __init__(
        self,
        engine: SyncEngine,
        channels: Channels,
        places: Places,
        clock: Clock,
        limits: Limits,
    ) -> None:
        self._engine = engine
        self._channels = channels
        self._places = places
        self._clock = clock
        self._limits = limits
        # What tenants tightened, looked up once and forgotten when it changes.
        self._known: dict[int, Limits] = {}
        engine.follow(channels.changed, channels.heard, self._forget, channels.followed)

    # ── Writes ─────────────────────────────────────────────────────────────────────────────────

    # These take the limits that `limits` answers, and are no coroutines themselves: each layer of
    # them costs at every wake-up.

    def put_state(
        self,
        limits: Limits,
        sender: Sender,
        replica: str,
        blob: bytes,
        precondition: Precondition,
    ) -> Awaitable[Written]:
        """Store a replica's whole state. The same bytes keep their number."""
        _check_size(blob, limits.blob_bytes_max)
        write = self._write(limits, sender)
        return self._engine.put_state(write, replica, blob, digest_of(blob), precondition)

    def append(
        self, limits: Limits, sender: Sender, blob: bytes, also: Also = None
    ) -> Awaitable[Written]:
        """Append an update. The same bytes keep their number."""
        _check_size(blob, limits.blob_bytes_max)
        return self._engine.append(self._write(limits, sender), blob, digest_of(blob), also)

    def compact(
        self,
        limits: Limits,
        sender: Sender,
        blob: bytes,
        supersedes: str | None,
        pointer: str,
        also: Also = None,
    ) -> Awaitable[Written]:
        """Append a snapshot in place of the entries named, `1-41,43`."""
        _check_size(blob, limits.blob_bytes_max)
        numbers = self._numbers(supersedes, pointer)
        write = self._write(limits, sender)
        return self._engine.compact(write, blob, digest_of(blob), numbers, also)

    async def restore(self, sender: Sender, entries: str) -> Sequence[tuple[int, int]]:
        """Make superseded entries live again; (old number, new number) of each."""
        numbers = self._numbers(entries, "#/entries")
        document = await self._engine.document(sender.tenant_id, sender.document)
        if document is not None and sender.epoch not in (None, document.epoch):
            raise epoch_ended(sender.epoch or 0, document.epoch)
        if document is None or not document.is_live:
            raise NotFound(_MISSING)
        limits = await self.limits(sender.tenant_id)
        return await self._engine.restore(self._write(limits, sender), numbers)

    async def delete(self, sender: Sender) -> int:
        """Leave a tombstone; returns the new epoch. NotFound where there is no such document."""
        limits = await self.limits(sender.tenant_id)
        epoch = await self._engine.delete(self._write(limits, sender))
        if epoch is None:
            raise NotFound(_MISSING)
        return epoch

    async def whisper(
        self, tenant_id: int, name: str, blob: bytes, bytes_max: int, sender: object = None
    ) -> None:
        """Push presence to everyone who listens but its sender."""
        _check_size(blob, bytes_max)
        await self._engine.whisper(tenant_id, name, blob, sender)

    # ── Reads ──────────────────────────────────────────────────────────────────────────────────

    async def document(self, tenant_id: int, name: str) -> Document:
        """One document; NotFound where there is none, or a tombstone."""
        document = await self._engine.document(tenant_id, name)
        if document is None or not document.is_live:
            raise NotFound(_MISSING)
        return document

    async def documents(self, tenant_id: int, after: str | None, limit: int) -> Sequence[Document]:
        """A tenant's documents by name."""
        return await self._engine.documents(tenant_id, after, limit)

    async def epoch(self, tenant_id: int, name: str) -> int:
        """The epoch that a write would be in now."""
        document = await self._engine.document(tenant_id, name)
        return FIRST_EPOCH if document is None else document.epoch

    async def state(self, tenant_id: int, name: str, replica: str) -> tuple[Document, Entry]:
        """A replica's state, and its document."""
        document = await self.document(tenant_id, name)
        entry = await self._engine.state(tenant_id, name, replica)
        if entry is None:
            raise NotFound("The replica has no state here, or a snapshot supersedes it.")
        return document, entry

    async def entry(self, tenant_id: int, name: str, seq: int) -> tuple[Document, Entry]:
        """One entry, live or still restorable, and its document."""
        document = await self.document(tenant_id, name)
        entry = await self._engine.entry(tenant_id, name, seq)
        if entry is None:
            raise NotFound("The document has no such entry, or not any more.")
        return document, entry

    async def list(self, tenant_id: int, name: str, asked: Asked) -> Listed:
        """The live entries behind a cursor, a page of them.

        Raises NotFound where there is no document, Gone for a cursor of an ended epoch
        (`epoch_ended`), below the compaction floor (`cursor_compacted`) or beyond the newest entry
        (`cursor_ahead`), Invalid for another document's.
        """
        key = (tenant_id, name)
        place = None
        if asked.since is not None:
            place = self._places.place(key, asked.since, asked.pointer)
        read = await self._engine.entries(
            tenant_id,
            name,
            0 if place is None else place.seq,
            limit=asked.limit,
            bytes_max=PAGE_BYTES_MAX,
            blobs=asked.blobs,
        )
        if place is not None:
            await self._check(key, place, None if read is None else read.document)
        if read is None or not read.document.is_live:
            raise NotFound(_MISSING)
        return self._listed(key, read, 0 if place is None else place.seq)

    async def list_or_wait(self, tenant_id: int, name: str, asked: Asked, time_s: float) -> Listed:
        """As `list`, waiting for the first entry where there is none."""
        listed = await self.list(tenant_id, name, asked)
        if listed.entries:
            return listed
        key = (tenant_id, name)
        place = self._places.place(key, listed.next_cursor, asked.pointer)
        limits = await self.limits(tenant_id)
        waiter = Waiter(key, place.seq)
        await self._channels.wait(waiter, place.epoch, limits.listener_count_max, time_s)
        return await self.list(tenant_id, name, asked)

    async def superseded(
        self, tenant_id: int, name: str, after: int, limit: int
    ) -> tuple[Document, Sequence[Entry], bool]:
        """What can be restored, beyond a number: document, a page, and whether it is the last."""
        await self.document(tenant_id, name)
        read = await self._engine.entries(
            tenant_id,
            name,
            after,
            limit=limit,
            bytes_max=PAGE_BYTES_MAX,
            blobs=False,
            superseded=True,
        )
        if read is None:
            raise NotFound(_MISSING)
        return read.document, read.entries, read.is_whole

    # ── Listening ──────────────────────────────────────────────────────────────────────────────

    async def listen(
        self,
        tenant_id: int,
        name: str,
        asked: Asked,
        format: Format,
        *,
        may_be_absent: bool = False,
    ) -> Listener:
        """A listener from a cursor on, counted and still behind: `follow` it, at last `leave` it.

        Raises as `list` does; a document that `may_be_absent` is waited for.
        """
        key = (tenant_id, name)
        document = await self._engine.document(tenant_id, name)
        seq = 0
        if asked.since is not None:
            place = self._places.place(key, asked.since, asked.pointer)
            await self._check(key, place, document)
            seq = place.seq
        if not may_be_absent and (document is None or not document.is_live):
            raise NotFound(_MISSING)
        epoch = FIRST_EPOCH if document is None else document.epoch
        limits = await self.limits(tenant_id)
        listener = Listener(key, format, epoch, seq)
        self._channels.join(listener, limits.listener_count_max)
        return listener

    async def follow(self, listener: Listener, outlet: Outlet) -> None:
        """Bring it what there is; from then on news are pushed to the outlet."""
        listener.outlet = outlet
        await self._channels.catch_up(listener)

    def follow_beside(self, listener: Listener, outlet: Outlet) -> None:
        """The same beside the caller, who has other things to do; a failure ends the outlet."""
        listener.outlet = outlet
        self._channels.read_on(listener)

    def leave(self, listener: Listener) -> None:
        """It is gone."""
        self._channels.leave(listener)

    # ── Limits ─────────────────────────────────────────────────────────────────────────────────

    def known_limits(self, tenant_id: int) -> Limits | None:
        """What holds for a tenant, where it was asked for before."""
        return self._known.get(tenant_id)

    async def tighten(self, tenant_id: int, own: OwnLimits) -> Limits:
        """Set what a tenant tightens for itself; the installation's limits hold where lower."""
        await self._engine.set_own_limits(tenant_id, own)
        self._forget(tenant_id)
        return await self.limits(tenant_id)

    async def limits(self, tenant_id: int) -> Limits:
        """What holds for a tenant."""
        limits = self._known.get(tenant_id)
        if limits is None:
            own = await self._engine.own_limits(tenant_id)
            limits = self._known[tenant_id] = own.within(self._limits)
        return limits

    def _forget(self, tenant_id: int | None) -> None:
        if tenant_id is None:
            self._known.clear()
        else:
            self._known.pop(tenant_id, None)

    # ── Inside ─────────────────────────────────────────────────────────────────────────────────

    def _write(self, limits: Limits, sender: Sender) -> Write:
        return Write(sender.tenant_id, sender.document, sender.epoch, limits, self._clock.now_ms())

    def _numbers(self, text: str | None, pointer: str) -> Sequence[Range]:
        try:
            if text is None:
                raise ValueError("name the entries, such as 1-41,43")
            return ranges.parse(text)
        except ValueError as error:
            raise Invalid(f"{pointer}: {error}.", [FieldError(pointer, str(error))]) from None

    def _listed(self, key: tuple[int, str], read: Read, after: int) -> Listed:
        document = read.document

        def cursor_at(seq: int) -> str:
            return self._places.cursor(key, Place(document.epoch, seq, document.floor))

        last = read.entries[-1].seq if read.entries else after
        # What is superseded at the end of the log needs no second look.
        last = max(last, document.seq) if read.is_whole else last
        return Listed(document, read.entries, cursor_at(last), read.is_whole, cursor_at)

    async def _check(self, key: tuple[int, str], place: Place, document: Document | None) -> None:
        """Raise Gone unless the log can go on from a place."""
        if document is None:
            raise cursor_ahead()
        if place.epoch < document.epoch:
            raise epoch_ended(place.epoch, document.epoch)
        if place.epoch > document.epoch or place.seq > document.seq:
            raise cursor_ahead()
        if place.seq < document.floor and place.floor < document.floor:
            raise await self._compacted(key, place, document)

    async def _compacted(self, key: tuple[int, str], place: Place, document: Document) -> Gone:
        snapshot = await self._engine.entry(*key, document.floor_snapshot)
        error = Gone(
            f"Entries behind the cursor were superseded by the snapshot {document.floor_snapshot}."
            " Go on from `cursor`: the snapshot is in what follows, and so is all else that lives.",
            code="cursor_compacted",
        )
        error.members = {
            "snapshot": {
                "seq": document.floor_snapshot,
                "etag": None if snapshot is None else snapshot.etag,
                "size": None if snapshot is None else snapshot.size,
            },
            "cursor": self._places.cursor(key, place._replace(floor=document.floor)),
        }
        return error


def _check_size(blob: bytes, bytes_max: int) -> None:
    if not blob:
        why = "an empty body is no state, update or presence"
        raise Invalid(f"#: {why}.", [FieldError("#", why)], code="empty_blob")
    if len(blob) > bytes_max:
        raise TooLarge(f"The body is {len(blob)} bytes; this takes at most {bytes_max}.")
