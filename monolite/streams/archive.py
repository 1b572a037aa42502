"""Records of a tenant's streams in an export, the same from every store."""

from __future__ import annotations

KINDS: tuple[str, ...] = (
    "stream",
    "stream_events",
    "stream_group",
    "stream_pending",
    "stream_dead_letter",
)
"""A stream comes before its events, and they before what groups have of them."""

EVENTS_AT_ONCE = 1000
PENDING_AT_ONCE = 500
