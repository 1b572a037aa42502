"""What else an engine's verb does in its own transaction, as its caller asked."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

T = TypeVar("T")

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


def accompanied(
    work: Callable[[Any], Awaitable[T]], also: Companion | None
) -> Callable[[Any], Awaitable[T]]:
    """Work, and then what goes with its result, in one transaction."""

    async def both(connection: Any) -> T:
        result = await work(connection)
        await accompany(also, connection, result)
        return result

    return work if also is None else both
