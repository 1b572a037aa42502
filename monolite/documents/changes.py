"""What both engines' change logs have in common: positions, and the end of what is kept."""

from __future__ import annotations

from monolite.errors import Gone

_POSITION_MAX = 2**63 - 1


def position(text: str) -> int:
    """A position as the number it is; ValueError where it is none, 0 before every change."""
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 20 else -1
    if not 0 <= number <= _POSITION_MAX:
        raise ValueError(f"not a position: {text!r}")
    return number


def changes_expired() -> Gone:
    """Some changes behind a position are not in the log."""
    return Gone(
        "The log can't go on from this id: what came behind it was dropped, or was lost when the"
        " database was restored. List the documents again, then follow from now on.",
        code="changes_expired",
    )
