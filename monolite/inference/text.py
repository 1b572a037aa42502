"""Tokens' bytes to text that can be sent: whole characters, and no beginning of a stop string."""

from __future__ import annotations

import codecs
from collections.abc import Sequence


class TextStream:
    """The text of one answer, as it comes. `stopped` once a stop string has come."""

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stops = [stop for stop in stops if stop]
        self._held = ""
        self.stopped = False

    def push(self, content: bytes) -> str:
        """Add a token's bytes; returns the text that is certain by now."""
        if self.stopped:
            return ""
        return self._certain(self._held + self._decoder.decode(content))

    def end(self) -> str:
        """The rest: nothing will come that could complete a stop string, or a character."""
        if self.stopped:
            return ""
        rest = self._certain(self._held + self._decoder.decode(b"", True))
        rest, self._held = rest + self._held, ""
        return rest

    def _certain(self, text: str) -> str:
        found = [place for stop in self._stops if (place := text.find(stop)) >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)]
        hold = max((_beginning(text, stop) for stop in self._stops), default=0)
        cut = len(text) - hold
        self._held = text[cut:]
        return text[:cut]


def _beginning(text: str, stop: str) -> int:
    """How many of the text's last characters may be the first ones of a stop string."""
    for count in range(min(len(stop) - 1, len(text)), 0, -1):
        if text.endswith(stop[:count]):
            return count
    return 0
