"""Moving a tenant with its live queues to another installation, of either database.

    export to a file ──► import there ──► export there, compared ──► delete here

The installation it leaves is stopped meanwhile, so nothing is added behind the export and no tick
comes twice. Whatever fails before the last step leaves it as it was, and the file stays.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import cast

import msgspec

from monolite.cli.client import Client, Refused, connected
from monolite.settings import BadSetting, Settings
from monolite.storage.errors import DataDirectoryInUse

_WHOLE = ("job_queue", "job", "job_schedule")
"""Kinds whose records are compared byte for byte; of the others, how many there are."""


class _Head(msgspec.Struct):
    kind: str = ""
    queue: str | None = None
    state: str | None = None


class Sum:
    """What an export holds, in whatever order it comes."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.digest = 0
        self._rest = b""

    def add(self, piece: bytes) -> None:
        """Take the next bytes of an export."""
        *lines, self._rest = (self._rest + piece).split(b"\n")
        for line in lines:
            head = msgspec.json.decode(line, type=_Head)
            if head.kind in ("tenant", "end"):
                continue
            self.counts[head.kind] += 1
            if head.kind in _WHOLE:
                record = hashlib.blake2b(line, digest_size=16).digest()
                self.digest = (self.digest + int.from_bytes(record)) % (1 << 128)
            if head.kind == "job":
                self.counts[f"{head.state or 'live'} in {head.queue}"] += 1

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sum) and (self.counts, self.digest) == (other.counts, other.digest)

    __hash__ = None  # type: ignore[assignment]  # it changes


async def move_tenant(settings: Settings, name: str, to: Path, database_url: str | None) -> int:
    """Move a tenant; prints its key there."""
    if _is_same(to, settings.data):
        raise BadSetting("--to is where the tenant is already; name the other's data directory")
    there_settings = replace(
        settings,
        data=to,
        database_url=database_url,
        streams_url=None,
        replica_url=settings.replica_url if database_url is None else None,
    )
    kept = settings.data / f"{name}.ndjson"
    try:
        async with connected(settings, only_stopped=True) as here:
            async with connected(there_settings) as there:
                key = await _copy(name, here, there, kept)
            await here.call("DELETE", f"/v1/tenants/{name}")
    except DataDirectoryInUse:
        raise BadSetting(
            f"a server runs on {settings.data}: stop it, so that nothing is added behind the"
            " copy's back"
        ) from None
    print(f"Removed here; what it was is in {kept}.", file=sys.stderr)
    print(key)
    return 0


def _is_same(one: Path, other: Path) -> bool:
    return one.resolve() == other.resolve()


async def _copy(name: str, here: Client, there: Client, kept: Path) -> str:
    before, after = Sum(), Sum()
    partial = kept.with_name(kept.name + ".partial")
    try:
        with partial.open("wb") as file:

            def write(piece: bytes) -> None:
                before.add(piece)
                file.write(piece)

            await here.stream("GET", f"/v1/tenants/{name}/export", None, write)
            file.flush()
            os.fsync(file.fileno())
        partial.rename(kept)
    finally:
        partial.unlink(missing_ok=True)
    answer: list[bytes] = []
    with kept.open("rb") as exported:
        await there.stream("POST", f"/v1/tenants/{name}/import", exported, answer.append)
    await there.stream("GET", f"/v1/tenants/{name}/export", None, after.add)
    if before != after:
        await there.call("DELETE", f"/v1/tenants/{name}")
        raise Refused(
            f"The copy is not what was exported, and was removed: {dict(before.counts)} here,"
            f" {dict(after.counts)} there. Nothing was changed here."
        )
    shown = ", ".join(f"{count} {what}" for what, count in sorted(before.counts.items()))
    print(f"Moved and compared: {shown or 'an empty tenant'}.", file=sys.stderr)
    return cast(str, json.loads(b"".join(answer))["key"])
