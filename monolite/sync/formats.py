"""A batch of entries as each kind of client wants it."""

from __future__ import annotations

from typing import Literal

import msgspec

from monolite.sync.channels import Batch, Format, Message
from monolite.sync.entry import Entry, Kind
from monolite.sync.frames import KINDS, PRESENCE, frame
from monolite.web.sockets import binary, text
from monolite.web.sse import frame as event
from monolite.web.sse import piece
from monolite.web.timestamps import rfc3339

_encode = msgspec.json.Encoder().encode


class EntryShown(msgspec.Struct, omit_defaults=True):
    """An entry; `blob` is base64, with `blobs=inline`. `supersedes` are the numbers that a snapshot
    stands in for.
    """

    seq: int
    kind: Kind
    replica: str | None
    size: int
    etag: str
    created_at: str
    supersedes: str | None = None
    blob: bytes | None = None


class PresenceShown(msgspec.Struct):
    """Someone's presence, in base64."""

    blob: bytes


class Entries(msgspec.Struct, tag_field="type", tag="entries"):
    """The server's message of some entries."""

    data: list[EntryShown]
    next_cursor: str
    up_to_date: bool


class UpToDate(msgspec.Struct, tag_field="type", tag="up_to_date"):
    """The server's message that everything there was has been sent."""

    next_cursor: str


class Presence(msgspec.Struct, tag_field="type", tag="ephemeral"):
    """The server's message of someone's presence."""

    blob: bytes


class Deleted(msgspec.Struct, tag_field="type", tag="deleted"):
    """The server's last message where the document was deleted; `epoch` is the next one."""

    epoch: int


def shown(entry: Entry) -> EntryShown:
    """An entry as JSON shows it, with its blob where that was read."""
    return EntryShown(
        entry.seq,
        entry.kind,
        entry.replica,
        entry.size,
        entry.etag,
        rfc3339(entry.created_at),
        entry.supersedes,
        entry.blob,
    )


def frames(batch: Batch) -> list[bytes]:
    """Entries as frames."""
    return [
        frame(
            KINDS[entry.kind],
            entry.seq,
            entry.replica,
            batch.cursor_at(entry.seq),
            entry.blob or b"",
        )
        for entry in batch.entries
    ]


class Events:
    """Server-sent events: one an entry, its id the cursor behind it."""

    def __init__(self, blobs: bool) -> None:
        self.blobs = blobs

    def entries(self, batch: Batch) -> Message:
        events = (
            event(_encode(_without(entry, self.blobs)), event_id=batch.cursor_at(entry.seq))
            for entry in batch.entries
        )
        return piece(b"".join(events))

    def up_to_date(self, cursor: str) -> Message:
        # A comment: whoever reads only data sees entries alone.
        return piece(b": up to date\n\n")

    def presence(self, blob: bytes) -> Message:
        return piece(event(_encode(PresenceShown(blob)), event="ephemeral"))

    def deleted(self, epoch: int) -> Message:
        return piece(event(b'{"epoch":%d}' % epoch, event="deleted"))


class Texts:
    """A WebSocket's messages as JSON."""

    def __init__(self, blobs: bool) -> None:
        self.blobs = blobs

    def entries(self, batch: Batch) -> Message:
        data = [_without(entry, self.blobs) for entry in batch.entries]
        cursor = batch.cursor_at(batch.entries[-1].seq)
        return text(_encode(Entries(data, cursor, batch.is_whole)))

    def up_to_date(self, cursor: str) -> Message:
        return text(_encode(UpToDate(cursor)))

    def presence(self, blob: bytes) -> Message:
        return text(_encode(Presence(blob)))

    def deleted(self, epoch: int) -> Message:
        return text(_encode(Deleted(epoch)))


class Frames(Texts):
    """A WebSocket's entries and presence as frames, the rest as JSON."""

    def entries(self, batch: Batch) -> Message:
        return binary(b"".join(frames(batch)))

    def presence(self, blob: bytes) -> Message:
        return binary(frame(PRESENCE, 0, None, "", blob))


def _without(entry: Entry, blobs: bool) -> EntryShown:
    one = shown(entry)
    if not blobs:
        one.blob = None
    return one


EVENTS: dict[bool, Format] = {blobs: Events(blobs) for blobs in (False, True)}
"""By whether blobs are wanted."""

TEXTS: dict[bool, Format] = {blobs: Texts(blobs) for blobs in (False, True)}
"""By whether blobs are wanted."""

FRAMES: Format = Frames(True)

FrameKind = Literal["json", "binary"]
