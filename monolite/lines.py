"""NDJSON as it arrives: pieces of any length into lines."""

from __future__ import annotations

from collections.abc import AsyncIterator


async def lines_of(
    pieces: AsyncIterator[bytes], line_bytes_max: int
) -> AsyncIterator[bytes | None]:
    """Lines without their ends; None for one that is too long, which is skipped."""
    rest, is_skipping = b"", False
    async for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            yield None if is_skipping or len(line) > line_bytes_max else line
            is_skipping = False
        if len(rest) > line_bytes_max:
            rest, is_skipping = b"", True
    if rest or is_skipping:
        yield None if is_skipping else rest
