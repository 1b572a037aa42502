"""Places in a log as cursors, bound to tenant and document; good on every way to listen to it."""

from __future__ import annotations

import msgspec

from monolite.sync.core import Place
from monolite.web.cursors import Cursors


class CursorPlaces:
    """Places by way of the installation's cursors."""

    def __init__(self, cursors: Cursors) -> None:
        self._cursors = cursors

    def cursor(self, key: tuple[int, str], place: Place) -> str:
        """A place as text."""
        return self._cursors.encode_for(_binding(key), list(place))

    def place(self, key: tuple[int, str], cursor: str, pointer: str) -> Place:
        """The place again; raises Invalid at `pointer`."""
        return Place(*self._cursors.decode_for(_binding(key), cursor, pointer))


def _binding(key: tuple[int, str]) -> bytes:
    return msgspec.json.encode(["sync", *key])
