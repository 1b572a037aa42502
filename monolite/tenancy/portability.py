"""One tenant's whole data out of an installation, and into this or another.

    {"kind":"tenant","format":1,"name":…,"created_at":…}
    {"kind":"collection",…}            records of every subsystem, what is referenced first
    {"kind":"document",…}
    {"kind":"end","records":2,"sha256":…}     of every byte before this line

An export is one snapshot. An import is stored in batches under a tenant that nobody sees, and
shown in one commit when the last line has been verified; anything else leaves no tenant at all.
Keys stay where they are: their digests mean nothing under another root secret.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

import msgspec

from monolite.errors import FieldError, Invalid, Malformed, TooLarge
from monolite.tenancy.core import IMPORTING, Tenancy
from monolite.tenancy.engine import Tenant

FORMAT = 1
_BATCH_COUNT = 500
_LINE_BYTES_MAX = 64 << 20

BATCH_BYTES = 8 << 20
"""A batch ends where the large values in it come to more."""

Record = dict[str, Any]


def size_of(record: Record) -> int:
    """The bytes of a record that may be large."""
    return sum(len(value) for value in record.values() if isinstance(value, bytes))


class ArchiveEngine(Protocol):
    """All subsystems' rows of a tenant, as records."""

    kinds: frozenset[str]

    def snapshot(
        self, tenant_number: int, batch_count: int
    ) -> AbstractAsyncContextManager[AsyncIterator[Sequence[Record]]]:
        """Batches of records as of one instant."""
        ...

    async def store(self, tenant_number: int, records: Sequence[Record]) -> None:
        """Store a batch; raises Invalid where a record does not fit."""
        ...


class Portability:
    """Exports and imports tenants."""

    def __init__(self, tenancy: Tenancy, engine: ArchiveEngine) -> None:
        self._tenancy = tenancy
        self._engine = engine

    async def export(self, tenant: Tenant) -> AsyncGenerator[bytes, None]:
        """The stream of one tenant, in pieces of many lines."""
        digest = hashlib.sha256()
        count = 0
        head = _line(
            {
                "kind": "tenant",
                "format": FORMAT,
                "name": tenant.name,
                "created_at": tenant.created_at,
            }
        )
        digest.update(head)
        yield head
        async with self._engine.snapshot(tenant.number, _BATCH_COUNT) as batches:
            async for batch in batches:
                piece = b"".join(_line(record) for record in batch)
                digest.update(piece)
                count += len(batch)
                yield piece
        yield _line({"kind": "end", "records": count, "sha256": digest.hexdigest()})

    async def import_(self, name: str, chunks: AsyncIterator[bytes]) -> tuple[Tenant, str]:
        """Make the tenant `name` from a stream; returns it and its first key's text.

        Raises:
            Invalid: the stream is not a whole export, or was changed on its way.
            Conflict: there is a tenant of that name.
        """
        lines = _lines(chunks)
        head = await anext(lines, b"")
        tenant, _ = await self._tenancy.create_tenant(
            name, state=IMPORTING, created_at=_created_at(head)
        )
        try:
            await self._store(tenant, head, lines)
            return await self._tenancy.activate(tenant)
        except BaseException:
            await self._tenancy.abandon(tenant)
            raise

    async def _store(self, tenant: Tenant, head: bytes, lines: AsyncIterator[bytes]) -> None:
        digest = hashlib.sha256(head + b"\n")
        batch: list[Record] = []
        number, count, size = 1, 0, 0
        async for line in lines:
            number += 1
            record = _record(line, number)
            kind = record.get("kind")
            if kind == "end":
                if record.get("records") != count or record.get("sha256") != digest.hexdigest():
                    raise _bad(number, "the records before it are not those that were exported")
                await self._engine.store(tenant.number, batch)
                return
            elif kind not in self._engine.kinds:
                raise _bad(number, f"this release knows no records of kind {kind!r}")
            else:
                batch.append(record)
                count += 1
                size += len(line)
                if len(batch) >= _BATCH_COUNT or size >= BATCH_BYTES:
                    await self._engine.store(tenant.number, batch)
                    batch, size = [], 0
            digest.update(line + b"\n")
        raise _bad(number, "the stream ends before its last line")


async def _lines(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    rest = b""
    async for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line
        if len(rest) > _LINE_BYTES_MAX:
            raise TooLarge(f"A line is over {_LINE_BYTES_MAX} bytes.")
    if rest:
        yield rest


def _created_at(head: bytes) -> int:
    """When the tenant of an export was made, in ms, from its first line."""
    record = _record(head, 1)
    created_at = record.get("created_at")
    if (
        record.get("kind") != "tenant"
        or record.get("format") != FORMAT
        or type(created_at) is not int
        or not 0 <= created_at < 1 << 46
    ):
        raise _bad(1, f"an export of format {FORMAT} begins with its tenant")
    return created_at


def _line(record: Record) -> bytes:
    return msgspec.json.encode(record) + b"\n"


def _record(line: bytes, number: int) -> Record:
    try:
        members = msgspec.json.decode(line, type=dict[str, msgspec.Raw])
        # Objects stay the bytes they are: decoding would round their numbers.
        return {
            name: value if bytes(value)[:1] in b"{[" else msgspec.json.decode(value)
            for name, value in members.items()
        }
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Malformed(f"Line {number} is not a JSON object.") from None


def _bad(number: int, why: str) -> Invalid:
    return Invalid(f"Line {number}: {why}.", [FieldError(f"#/{number}", why)])
