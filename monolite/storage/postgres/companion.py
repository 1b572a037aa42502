"""What else an engine's verb does in its own transaction, as its caller asked."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

Companion = Callable[[Any, Any], Awaitable[None] | None]
"""Given the connection and the verb's result. It answers None where all is done, as every
companion does over SQLite, or what is still to be awaited before the commit.
"""


async def accompany(also: Companion | None, connection: Any, result: Any) -> None:
    """Run it, to its end."""
    if also is not None:
        rest = also(connection, result)
        if rest is not None:
            await rest
