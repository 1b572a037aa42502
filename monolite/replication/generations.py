"""Generations: one replica path per life of the database file.

A name is when it began, in milliseconds, and four random bytes, so names sort by age:

    1763871234567-9f03a1bc
    └─ 13 digits ─┘ └ 8 hex ┘

A generation counts once it holds a Litestream file: its first is a full copy, written whole or not
at all, so an interrupted beginning leaves the generation before it the newest.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from monolite.replication.errors import ReplicaUnverified
from monolite.replication.s3 import S3Client
from monolite.replication.settings import ReplicaSettings

NAME = re.compile(r"(\d{13})-[0-9a-f]{8}")
ORIGIN = "origin.json"


@dataclass(frozen=True)
class Generation:
    """One replica path and when it began, in milliseconds since 1970."""

    name: str
    began_at_ms: int


def list_generations(client: S3Client, settings: ReplicaSettings) -> list[Generation]:
    """Every generation, oldest first, whether it holds data or not.

    Raises ReplicaUnreachable; ReplicaUnverified when the prefix holds something else, since an
    empty answer would let a server start empty over a replica made another way.
    """
    prefix = f"{settings.prefix}/" if settings.prefix else ""
    listing = client.list(prefix)
    found: list[Generation] = []
    others = [key for key, _ in listing.objects if key != prefix]
    for folder in listing.folders:
        name = folder.removeprefix(prefix).rstrip("/")
        match = NAME.fullmatch(name)
        if match:
            found.append(Generation(name, int(match[1])))
        else:
            others.append(folder)
    if others and not found:
        raise ReplicaUnverified(
            f"{settings.url} holds {others[0]} and no generation of Monolite's. "
            "Point MONOLITE_REPLICA_URL at an empty prefix, or restore that by hand first"
        )
    return sorted(found, key=lambda generation: generation.name)


def holds_data(client: S3Client, settings: ReplicaSettings, generation: Generation) -> bool:
    """Whether anything but the origin lies there: Litestream wrote."""
    prefix = f"{key_prefix(settings, generation)}/"
    # Two keys tell, whichever of them the origin is.
    listing = client.list(prefix, delimiter="", keys_max=2)
    return any(key != f"{prefix}{ORIGIN}" for key, _ in listing.objects)


def key_prefix(settings: ReplicaSettings, generation: Generation) -> str:
    """What a generation's keys begin with, inside the bucket."""
    return settings.generation_url(generation.name).removeprefix(f"s3://{settings.bucket}/")


def candidates(client: S3Client, settings: ReplicaSettings, at_ms: int | None) -> list[Generation]:
    """The generations to restore from, best first; none when nothing was ever replicated.

    Without a moment that is the newest with data alone: falling back from a bad one to an older
    would lose writes silently. For `at_ms`, those begun by then, newest first, since the moment
    may lie between a generation's beginning and its first file. Raises ReplicaUnreachable;
    ReplicaUnverified when none reaches back to `at_ms`.
    """
    all_of_them = list_generations(client, settings)
    newest_first = all_of_them[::-1]
    if at_ms is None:
        newest = next((g for g in newest_first if holds_data(client, settings, g)), None)
        return [] if newest is None else [newest]
    fitting = [
        g for g in newest_first if g.began_at_ms <= at_ms and holds_data(client, settings, g)
    ]
    if all_of_them and not fitting:
        raise ReplicaUnverified(
            f"no generation in {settings.url} reaches back to that moment; "
            f"the first began at {all_of_them[0].began_at_ms} ms since 1970. Ask for a later one"
        )
    return fitting


def begin(
    client: S3Client,
    settings: ReplicaSettings,
    *,
    now_ms: int,
    random_bytes: Callable[[int], bytes],
    reason: str,
) -> Generation:
    """Names a generation newer than every other, even if the clock jumped back, and records why.

    Raises ReplicaUnreachable.
    """
    earlier = list_generations(client, settings)
    began_at_ms = _later_than(earlier, now_ms)
    generation = Generation(f"{began_at_ms:013d}-{random_bytes(4).hex()}", began_at_ms)
    origin = {
        "began_at_ms": began_at_ms,
        "after": earlier[-1].name if earlier else None,
        "reason": reason,
    }
    client.put(f"{key_prefix(settings, generation)}/{ORIGIN}", json.dumps(origin).encode())
    return generation


def _later_than(earlier: Sequence[Generation], now_ms: int) -> int:
    return max(now_ms, earlier[-1].began_at_ms + 1) if earlier else now_ms
