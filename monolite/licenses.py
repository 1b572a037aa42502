"""The licence of every part that travels with the program."""

from __future__ import annotations

from monolite.bundle import resource


def text() -> str:
    """THIRD_PARTY_NOTICES as it was shipped. Raises FileNotFoundError where it was not."""
    return resource("THIRD_PARTY_NOTICES").read_text("utf-8")
