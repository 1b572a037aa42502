"""The relay over HTTP."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import replace
from typing import Annotated, Literal

import msgspec

from monolite.errors import DomainError, FieldError, Invalid, UpgradeRequired
from monolite.storage.errors import StorageError
from monolite.sync.channels import Batch
from monolite.sync.core import Asked, Listed, Relay, Sender
from monolite.sync.entry import Document, Entry, Kind, Limits, OwnLimits, Written
from monolite.sync.formats import EVENTS, EntryShown, frames, shown
from monolite.sync.frames import END, frame
from monolite.sync.socket import SyncHello, SyncSocket
from monolite.web.answer import JSON_TYPE, Answer, Headers, Live, Stream, json_answer, page_answer
from monolite.web.call import Call
from monolite.web.cursors import Cursors
from monolite.web.operation import RAW, Operation
from monolite.web.outlets import Outlet
from monolite.web.pages import Page, PageQuery
from monolite.web.sse import HEADERS as EVENT_HEADERS
from monolite.web.sse import PING
from monolite.web.timestamps import rfc3339

READ, WRITE, COMPACT = "sync:read", "sync:write", "sync:compact"
OCTETS = "application/octet-stream"
FRAMES_TYPE = "application/vnd.monolite.entries"
WAIT_MS_MAX = 60_000

_X_EPOCH = {"X-Epoch": "The epoch the sender knows; 410 where the document is in another."}
_X_SUPERSEDES = {"X-Supersedes": "The entries that the snapshot stands in for: `1-41,43`."}
_CONDITIONS = {
    "If-Match": "Store only in place of the state with this ETag.",
    "If-None-Match": "`*` stores only where the replica has no state.",
}

Count = Annotated[int, msgspec.Meta(ge=1, le=1 << 40)] | None


class WrittenShown(msgspec.Struct):
    """Where a write stands. The same bytes again give the same."""

    seq: int
    etag: str
    epoch: int


class DocumentShown(msgspec.Struct):
    """A document: `seq` is its newest number, `floor` the highest that a snapshot superseded."""

    name: str
    epoch: int
    seq: int
    floor: int
    entries: int
    bytes: int
    compact_advised: bool
    created_at: str
    updated_at: str


class EntryPage(Page[EntryShown]):
    """A page of live entries; `next_cursor` is always there, and follows what is still to come."""

    up_to_date: bool


class SupersededShown(msgspec.Struct):
    """An entry that can be restored until `restorable_until`."""

    seq: int
    kind: Kind
    replica: str | None
    size: int
    etag: str
    superseded_at: str
    restorable_until: str


class ToRestore(msgspec.Struct, forbid_unknown_fields=True):
    """Superseded entries by number: `1-41,43`."""

    entries: Annotated[str, msgspec.Meta(min_length=1, max_length=8192)]


class Moved(msgspec.Struct):
    """An entry that lives again under a new number."""

    restored: int
    seq: int


class Restored(msgspec.Struct):
    """What was restored, in order."""

    data: list[Moved]
    epoch: int


class OwnLimitsSet(msgspec.Struct, forbid_unknown_fields=True):
    """Limits a tenant sets for itself; null is the installation's, which holds where lower."""

    blob_bytes_max: Count = None
    entry_count_max: Count = None
    document_count_max: Count = None
    listener_count_max: Count = None


class EntriesQuery(msgspec.Struct):
    """`?since=&limit=&live=&blobs=&timeout_ms=`."""

    since: Annotated[str, msgspec.Meta(max_length=4096)] | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 100
    live: Literal["long-poll", "sse"] | None = None
    blobs: Literal["inline"] | None = None
    timeout_ms: Annotated[int, msgspec.Meta(ge=0, le=WAIT_MS_MAX)] = 30_000


class NoQuery(msgspec.Struct):
    """No parameter: a token never travels in an address, where logs would keep it."""


def operations(
    relay: Relay,
    cursors: Cursors,
    *,
    blob_bytes_max: int,
    ephemeral_bytes_max: int,
    grace_s: float,
) -> list[Operation]:
    """The route table."""
    e = _Endpoints(relay, cursors, ephemeral_bytes_max, int(grace_s * 1000))
    socket = SyncSocket(relay, ephemeral_bytes_max)
    document = "/v1/sync/{doc}"
    state = document + "/states/{replica}"
    table = [
        Operation(
            "sync.list_documents",
            "GET",
            "/v1/sync",
            READ,
            "List documents",
            e.list_documents,
            {200: Page[DocumentShown]},
            query=PageQuery,
        ),
        Operation(
            "sync.get_document",
            "GET",
            document,
            READ,
            "One document",
            e.get_document,
            {200: DocumentShown},
        ),
        Operation(
            "sync.delete",
            "DELETE",
            document,
            COMPACT,
            "Delete a document and begin a new epoch",
            e.delete,
            {204: None},
            headers=_X_EPOCH,
            description="A tombstone stays: whoever still writes in the old epoch gets 410.",
        ),
        Operation(
            "sync.put_state",
            "PUT",
            state,
            WRITE,
            "Store a replica's whole state",
            e.put_state,
            {200: WrittenShown, 201: WrittenShown},
            body=RAW,
            consumes=(OCTETS,),
            body_bytes_max=blob_bytes_max,
            hot=True,
            headers={**_CONDITIONS, **_X_EPOCH},
            description="It takes the place of the replica's state before. The same bytes keep"
            " their `seq`.",
        ),
        Operation(
            "sync.get_state",
            "GET",
            state,
            READ,
            "A replica's state",
            e.get_state,
            {200: None, 304: None},
            produces=OCTETS,
            hot=True,
        ),
        Operation(
            "sync.append",
            "POST",
            document + "/updates",
            WRITE,
            "Append an update",
            e.append,
            {201: WrittenShown, 200: WrittenShown},
            body=RAW,
            consumes=(OCTETS,),
            body_bytes_max=blob_bytes_max,
            creates=True,
            hot=True,
            headers=_X_EPOCH,
            description="The same bytes again are 200 with the first `seq`.",
        ),
        Operation(
            "sync.entries",
            "GET",
            document + "/entries",
            READ,
            "The live entries behind a cursor, or follow them",
            e.entries,
            {200: EntryPage, 204: None},
            query=EntriesQuery,
            hot=True,
            description="`live=long-poll` waits for the first one, 204 when none came."
            " `live=sse` goes on for ever: each entry is an event whose id is the cursor behind it."
            f" With `Accept: {FRAMES_TYPE}` all of them as binary frames, in one stream.",
        ),
        Operation(
            "sync.get_entry",
            "GET",
            document + "/entries/{seq}",
            READ,
            "An entry's bytes",
            e.get_entry,
            {200: None, 304: None},
            produces=OCTETS,
            names={"seq": "[1-9][0-9]{0,17}"},
            description="Superseded ones too, until their grace period is over.",
        ),
        Operation(
            "sync.compact",
            "POST",
            document + "/snapshots",
            COMPACT,
            "Post a snapshot in place of the entries it holds",
            e.compact,
            {201: WrittenShown, 200: WrittenShown},
            body=RAW,
            consumes=(OCTETS,),
            body_bytes_max=blob_bytes_max,
            creates=True,
            headers={**_X_SUPERSEDES, **_X_EPOCH},
            description="One transaction: the named entries are superseded, and the snapshot is"
            " there. They can be restored for a grace period.",
        ),
        Operation(
            "sync.superseded",
            "GET",
            document + "/superseded",
            COMPACT,
            "What can be restored",
            e.superseded,
            {200: Page[SupersededShown]},
            query=PageQuery,
        ),
        Operation(
            "sync.restore",
            "POST",
            document + "/restore",
            COMPACT,
            "Make superseded entries live again",
            e.restore,
            {200: Restored},
            body=ToRestore,
            example={"entries": "1-41,43"},
            headers=_X_EPOCH,
            description="Each gets a new number, so that everyone who listens hears of it. A state"
            " comes back as an update: its replica may have another by now.",
        ),
        Operation(
            "sync.whisper",
            "POST",
            document + "/ephemeral",
            WRITE,
            "Tell everyone who listens, and store nothing",
            e.whisper,
            {204: None},
            body=RAW,
            consumes=(OCTETS,),
            body_bytes_max=ephemeral_bytes_max,
        ),
        Operation(
            "sync.connect",
            "GET",
            document + "/ws",
            READ,
            "Everything over one WebSocket",
            e.connect,
            {101: None},
            query=NoQuery,
            socket=(SyncHello, socket.converse),
            description='The first message is `{"type": "hello", "token": …, "since": …}`;'
            " the token may also be the subprotocol `bearer.TOKEN` or the Authorization header."
            " docs/sync.md has the messages and close codes.",
        ),
        Operation(
            "sync.get_limits",
            "GET",
            "/v1/settings/sync",
            "admin",
            "The relay's limits of the caller's tenant",
            e.get_limits,
            {200: Limits},
        ),
        Operation(
            "sync.tighten",
            "PUT",
            "/v1/settings/sync",
            "admin",
            "Tighten the caller's own limits",
            e.tighten,
            {200: Limits},
            body=OwnLimitsSet,
            example={"entry_count_max": 2000},
            description="The answer is what holds: the installation's limit where it is lower.",
        ),
    ]
    return [
        replace(one, on_refusal=e.say_epoch) if "doc" in one.parameters else one for one in table
    ]


class _Endpoints:
    def __init__(
        self, relay: Relay, cursors: Cursors, ephemeral_bytes_max: int, grace_ms: int
    ) -> None:
        self._relay = relay
        self._cursors = cursors
        self._ephemeral_bytes_max = ephemeral_bytes_max
        self._grace_ms = grace_ms

    async def say_epoch(self, call: Call, error: DomainError) -> None:
        """Every answer says the document's epoch, refusals too."""
        with suppress(StorageError):
            epoch = await self._relay.epoch(call.tenant_id, call.params["doc"])
            error.headers = (_epoch(epoch),)

    async def list_documents(self, call: Call) -> Answer:
        limit = call.query.limit
        after = self._cursors.after(call, call.query.cursor)
        found = await self._relay.documents(call.tenant_id, after, limit + 1)
        limits = await self._relay.limits(call.tenant_id)
        cursor = None
        if len(found) > limit:
            cursor = self._cursors.encode(call, [found[limit - 1].name])
        return page_answer([_document(one, limits) for one in found[:limit]], cursor)

    async def get_document(self, call: Call) -> Answer:
        document = await self._relay.document(call.tenant_id, call.params["doc"])
        limits = await self._relay.limits(call.tenant_id)
        return json_answer(_document(document, limits), 200, [_epoch(document.epoch)])

    async def delete(self, call: Call) -> Answer:
        return Answer(204, b"", [_epoch(await self._relay.delete(_sender(call)))])

    async def put_state(self, call: Call) -> Answer:
        relay = self._relay
        limits = relay.known_limits(call.tenant_id) or await relay.limits(call.tenant_id)
        written = await relay.put_state(
            limits, _sender(call), call.params["replica"], call.raw, call.precondition()
        )
        return _written(written, 200 if written.was_there else 201, limits)

    async def get_state(self, call: Call) -> Answer:
        params = call.params
        document, entry = await self._relay.state(call.tenant_id, params["doc"], params["replica"])
        return _bytes(call, document, entry)

    async def append(self, call: Call) -> Answer:
        relay = self._relay
        limits = relay.known_limits(call.tenant_id) or await relay.limits(call.tenant_id)

        def answer(written: Written) -> Answer:
            return _written(written, 201 if written.is_new else 200, limits)

        return answer(await relay.append(limits, _sender(call), call.raw, call.companion(answer)))

    async def compact(self, call: Call) -> Answer:
        limits = await self._relay.limits(call.tenant_id)

        def answer(written: Written) -> Answer:
            return _written(written, 201 if written.is_new else 200, limits)

        return answer(
            await self._relay.compact(
                limits,
                _sender(call),
                call.raw,
                call.header(b"x-supersedes"),
                "X-Supersedes",
                call.companion(answer),
            )
        )

    async def entries(self, call: Call) -> Answer | Stream | Live:
        query, tenant_id, name = call.query, call.tenant_id, call.params["doc"]
        if query.live == "sse":
            return await self._follow(call)
        wants_frames = FRAMES_TYPE in (call.header(b"accept") or "").lower()
        blobs = wants_frames or query.blobs is not None
        asked = Asked(query.since, limit=query.limit, blobs=blobs)
        if query.live is None:
            listed = await self._relay.list(tenant_id, name, asked)
        else:
            time_s = query.timeout_ms / 1000
            listed = await self._relay.list_or_wait(tenant_id, name, asked, time_s)
        headers = self._heads(listed.document, await self._relay.limits(tenant_id))
        if query.live is not None and not listed.entries:
            return Answer(204, b"", headers)
        if wants_frames:
            is_one_page = query.live is not None or b"limit=" in call.query_string
            pages = self._frames(call, listed, asked, is_one_page)
            return Stream(200, pages, [(b"content-type", FRAMES_TYPE.encode()), *headers])
        page = EntryPage(
            [shown(entry) for entry in listed.entries], listed.next_cursor, listed.up_to_date
        )
        return json_answer(page, 200, headers)

    async def _frames(
        self, call: Call, listed: Listed, asked: Asked, is_one_page: bool
    ) -> AsyncGenerator[bytes, None]:
        while True:
            batch = Batch(listed.entries, listed.cursor_at, listed.up_to_date)
            for one in frames(batch):
                yield one
            if listed.up_to_date or is_one_page:
                break
            asked = Asked(listed.next_cursor, limit=asked.limit, blobs=True)
            listed = await self._relay.list(call.tenant_id, call.params["doc"], asked)
        seq = listed.entries[-1].seq if listed.entries else listed.document.seq
        yield frame(END, seq, None, listed.next_cursor, bytes([listed.up_to_date]))

    async def _follow(self, call: Call) -> Live:
        last_event_id = call.header(b"last-event-id")
        asked = Asked(call.query.since)
        if last_event_id:
            asked = Asked(last_event_id, "Last-Event-ID")
        format = EVENTS[call.query.blobs is not None]
        relay = self._relay
        listener = await relay.listen(call.tenant_id, call.params["doc"], asked, format)

        async def follow(outlet: Outlet) -> None:
            await relay.follow(listener, outlet)

        headers = [*EVENT_HEADERS, _epoch(listener.epoch)]
        return Live(follow, lambda: relay.leave(listener), headers, PING)

    async def get_entry(self, call: Call) -> Answer:
        params = call.params
        document, entry = await self._relay.entry(call.tenant_id, params["doc"], int(params["seq"]))
        return _bytes(call, document, entry)

    async def superseded(self, call: Call) -> Answer:
        position = self._cursors.decode(call, call.query.cursor)
        after = 0 if position is None else int(position[0])
        document, entries, is_last = await self._relay.superseded(
            call.tenant_id, call.params["doc"], after, call.query.limit
        )
        data = [self._superseded(entry) for entry in entries]
        cursor = None if is_last else self._cursors.encode(call, [entries[-1].seq])
        page = {"data": data, "next_cursor": cursor}
        return json_answer(page, 200, [_epoch(document.epoch)])

    async def restore(self, call: Call) -> Answer:
        sender = _sender(call)
        moved = await self._relay.restore(sender, call.body.entries)
        epoch = await self._relay.epoch(call.tenant_id, sender.document)
        data = [Moved(old, new) for old, new in moved]
        return json_answer(Restored(data, epoch), 200, [_epoch(epoch)])

    async def whisper(self, call: Call) -> Answer:
        tenant_id, name = call.tenant_id, call.params["doc"]
        await self._relay.whisper(tenant_id, name, call.raw, self._ephemeral_bytes_max)
        return Answer(204, b"", [_epoch(await self._relay.epoch(tenant_id, name))])

    async def connect(self, call: Call) -> Answer:
        raise UpgradeRequired("This address is a WebSocket: connect with ws:// or wss://.")

    async def get_limits(self, call: Call) -> Answer:
        return json_answer(await self._relay.limits(call.tenant_id))

    async def tighten(self, call: Call) -> Answer:
        own = OwnLimits(*msgspec.structs.astuple(call.body))
        return json_answer(await self._relay.tighten(call.tenant_id, own))

    def _heads(self, document: Document, limits: Limits) -> Headers:
        return [_epoch(document.epoch), *_advice(document.entry_count, limits)]

    def _superseded(self, entry: Entry) -> SupersededShown:
        return SupersededShown(
            entry.seq,
            entry.kind,
            entry.replica,
            entry.size,
            entry.etag,
            rfc3339(entry.changed_at),
            rfc3339(entry.changed_at + self._grace_ms),
        )


def _sender(call: Call) -> Sender:
    given = call.headers.get(b"x-epoch")
    if given is None:
        return Sender(call.tenant_id, call.params["doc"])
    if not given.isdigit() or len(given) > 18:
        why = "takes the epoch, a whole number"
        raise Invalid(f"X-Epoch: {why}.", [FieldError("X-Epoch", why)])
    return Sender(call.tenant_id, call.params["doc"], int(given))


def _written(written: Written, status: int, limits: Limits) -> Answer:
    # By hand: three known members, on the hottest path there is.
    etag = written.etag
    body = f'{{"seq":{written.seq},"etag":"\\"{etag[1:-1]}\\"","epoch":{written.epoch}}}'
    headers = [JSON_TYPE, (b"etag", etag.encode()), _epoch(written.epoch)]
    return Answer(status, body.encode(), [*headers, *_advice(written.entry_count, limits)])


def _bytes(call: Call, document: Document, entry: Entry) -> Answer:
    headers = [
        (b"etag", entry.etag.encode()),
        (b"x-seq", b"%d" % entry.seq),
        _epoch(document.epoch),
    ]
    if b"if-none-match" in call.headers and call.is_fresh(entry.etag):
        return Answer(304, b"", headers)
    return Answer(200, entry.blob or b"", [(b"content-type", OCTETS.encode()), *headers])


def _document(document: Document, limits: Limits) -> DocumentShown:
    return DocumentShown(
        document.name,
        document.epoch,
        document.seq,
        document.floor,
        document.entry_count,
        document.byte_count,
        document.entry_count >= limits.advised_count,
        rfc3339(document.created_at),
        rfc3339(document.updated_at),
    )


def _epoch(epoch: int) -> tuple[bytes, bytes]:
    return (b"x-epoch", b"%d" % epoch)


def _advice(entry_count: int, limits: Limits) -> Headers:
    """`Compact-Advised` from half of the most on."""
    if entry_count < limits.advised_count:
        return []
    return [(b"compact-advised", b"entries=%d, max=%d" % (entry_count, limits.entry_count_max))]
