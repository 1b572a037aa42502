"""The relay over one WebSocket.

    client                                            server
    {"type": "hello", "token": …, "since": …}   ──►
                                                ◄──  {"type": "ready", "epoch": 1}
                                                ◄──  {"type": "entries", "data": […], …} or frames
                                                ◄──  {"type": "up_to_date", "next_cursor": …}
    {"type": "update", "id": 1, "blob": …}      ──►
                                                ◄──  {"type": "ack", "id": 1, "seq": 7, …}

A message that is refused is answered with `error` and its `id`; one that can't be read closes the
connection. Writes of one connection are carried out in their order, and all in the epoch that
`ready` named, so that none brings a deleted document back.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from monolite.errors import DomainError, Invalid
from monolite.names import is_name
from monolite.preconditions import Precondition, parse_etags
from monolite.storage.errors import StorageError
from monolite.sync.core import Asked, Relay, Sender
from monolite.sync.entry import Written
from monolite.sync.formats import FRAMES, TEXTS
from monolite.sync.frames import PRESENCE, STATE, UPDATE, read
from monolite.sync.refusals import epoch_ended
from monolite.web.decoding import JsonBody
from monolite.web.errors import status_of
from monolite.web.sockets import Hello, Socket

Id = int | str | None


class SyncHello(Hello):
    """`since` is a cursor, `epoch` the one the client knows. `frames` says how entries come."""

    since: str | None = None
    epoch: int | None = None
    blobs: bool = True
    frames: Literal["json", "binary"] = "json"


class Update(msgspec.Struct, tag_field="type", tag="update", forbid_unknown_fields=True):
    """Append an update."""

    blob: bytes
    id: Id = None


class State(msgspec.Struct, tag_field="type", tag="state", forbid_unknown_fields=True):
    """Store a replica's whole state."""

    replica: str
    blob: bytes
    id: Id = None
    if_match: str | None = None
    if_none_match: str | None = None


class Snapshot(msgspec.Struct, tag_field="type", tag="snapshot", forbid_unknown_fields=True):
    """Post a snapshot in place of entries."""

    blob: bytes
    supersedes: str
    id: Id = None


class Ephemeral(msgspec.Struct, tag_field="type", tag="ephemeral", forbid_unknown_fields=True):
    """Tell everyone else who listens; answered only where it has an id."""

    blob: bytes
    id: Id = None


class Pong(msgspec.Struct, tag_field="type", tag="pong"):
    """An answer to the server's ping; none is needed."""


Wanted = Update | State | Snapshot | Ephemeral | Pong

_decode = JsonBody(Wanted)


class SyncSocket:
    """Answers each connection."""

    def __init__(self, relay: Relay, ephemeral_bytes_max: int) -> None:
        self._relay = relay
        self._ephemeral_bytes_max = ephemeral_bytes_max

    async def converse(self, socket: Socket) -> None:
        """One connection from its hello to its end."""
        call, hello = socket.call, socket.hello
        tenant_id, name = call.tenant_id, call.params["doc"]
        format = FRAMES if hello.frames == "binary" else TEXTS[hello.blobs]
        listener = await self._relay.listen(
            tenant_id, name, Asked(hello.since, "since"), format, may_be_absent=True
        )
        try:
            if hello.epoch is not None and hello.epoch != listener.epoch:
                raise epoch_ended(hello.epoch, listener.epoch)
            listener.sender = socket
            socket.send({"type": "ready", "epoch": listener.epoch})
            self._relay.follow_beside(listener, socket.outlet)
            sender = Sender(tenant_id, name, listener.epoch)
            while True:
                for wanted in _read(await socket.receive()):
                    await self._carry_out(socket, sender, wanted)
        finally:
            self._relay.leave(listener)

    async def _carry_out(self, socket: Socket, sender: Sender, wanted: Any) -> None:
        if isinstance(wanted, Pong):
            return
        try:
            written = await self._do(socket, sender, wanted)
        except (DomainError, StorageError) as error:
            socket.send(_refusal(wanted.id, error))
            return
        if written is not None:
            limits = await self._relay.limits(sender.tenant_id)
            advised = written.entry_count >= limits.advised_count
            socket.send(
                {
                    "type": "ack",
                    "id": wanted.id,
                    "seq": written.seq,
                    "etag": written.etag,
                    "epoch": written.epoch,
                    "created": written.is_new,
                    **({"compact_advised": True} if advised else {}),
                }
            )
        elif wanted.id is not None:
            socket.send({"type": "ack", "id": wanted.id})

    async def _do(self, socket: Socket, sender: Sender, wanted: Any) -> Written | None:
        relay, path = self._relay, f"/v1/sync/{sender.document}/"
        limits = await relay.limits(sender.tenant_id)
        match wanted:
            case Update(blob):
                socket.permit("sync:write", path + "updates")
                return await relay.append(limits, sender, blob)
            case State(replica, blob):
                if not is_name(replica):
                    raise Invalid("replica: not a name.")
                socket.permit("sync:write", f"{path}states/{replica}")
                return await relay.put_state(limits, sender, replica, blob, _precondition(wanted))
            case Snapshot(blob, supersedes):
                socket.permit("sync:compact", path + "snapshots")
                return await relay.compact(limits, sender, blob, supersedes, "supersedes")
            case _:
                socket.permit("sync:write", path + "ephemeral")
                await relay.whisper(
                    sender.tenant_id,
                    sender.document,
                    wanted.blob,
                    self._ephemeral_bytes_max,
                    socket,
                )
                return None


def _read(content: str | bytes) -> list[Any]:
    """What a message asks for; raises Malformed or Invalid, with which the connection ends."""
    if isinstance(content, str):
        return [_decode(content.encode())]
    wanted: list[Any] = []
    try:
        for one in read(content):
            if one.kind == UPDATE:
                wanted.append(Update(one.blob, one.number))
            elif one.kind == STATE:
                wanted.append(State(one.replica, one.blob, one.number))
            elif one.kind == PRESENCE:
                wanted.append(Ephemeral(one.blob))
            else:
                raise ValueError(f"a client sends no frame of kind {one.kind}")
    except ValueError as error:
        raise Invalid(f"{error}.") from None
    return wanted


def _precondition(state: State) -> Precondition:
    return Precondition(
        None if state.if_match is None else parse_etags(state.if_match),
        None if state.if_none_match is None else parse_etags(state.if_none_match),
    )


def _refusal(id: Id, error: Exception) -> dict[str, Any]:
    status, code = status_of(error)
    told: dict[str, Any] = {"type": "error", "id": id, "status": status, "code": code}
    told["detail"] = error.detail if isinstance(error, DomainError) else str(error)
    retry_after_s = getattr(error, "retry_after_s", None)
    if retry_after_s is not None:
        told["retry_after_s"] = retry_after_s
    return {**told, **getattr(error, "members", {})}
