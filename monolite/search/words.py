"""Words of a text, as `keyword` looks for them.

A word is a run of letters, digits and underscores, in lower case and without diacritics; a Chinese
or Japanese character is one by itself, since nothing there separates words.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping

WORD_CHARACTERS_MAX = 64
"""What is longer is cut: it is no word but an encoded file."""

COUNT_MAX = 4096
"""A word that comes more often in one text counts as if it came so often."""

LONG_CHARACTERS = 20_000
"""Counting the words of so long a text takes a millisecond: too long for an event loop."""

_IDEOGRAPHS = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_IDEOGRAPHS}]|(?:(?![{_IDEOGRAPHS}])\w)+")
_ASCII_WORD = re.compile(r"[a-z0-9_]+")
_GAP = re.compile(r"\W")


def words_of(text: str) -> list[str]:
    """The words in their order.

    >>> words_of("Déjà vu: naïve_1, 日本")
    ['deja', 'vu', 'naive_1', '日', '本']
    """
    return [word for piece in _pieces(text) for word in _split(piece)]


def counted(text: str) -> Mapping[str, int]:
    """How often each word comes, COUNT_MAX at most."""
    counts: Counter[str] = Counter()
    for piece in _pieces(text):
        counts.update(_split(piece))
    if counts and max(counts.values()) > COUNT_MAX:
        return {word: min(count, COUNT_MAX) for word, count in counts.items()}
    return counts


def _split(text: str) -> list[str]:
    if text.isascii():
        found: list[str] = _ASCII_WORD.findall(text.lower())
    else:
        plain = unicodedata.normalize("NFKD", text.lower())
        found = _WORD.findall("".join(c for c in plain if unicodedata.category(c) != "Mn"))
    if len(text) > WORD_CHARACTERS_MAX:
        return [word[:WORD_CHARACTERS_MAX] for word in found]
    return found


def _pieces(text: str) -> Iterator[str]:
    """The text in pieces, none of which holds the interpreter's lock for long."""
    start = 0
    while len(text) - start > LONG_CHARACTERS:
        gap = _GAP.search(text, start + LONG_CHARACTERS)
        end = gap.end() if gap else len(text)
        yield text[start:end]
        start = end
    yield text[start:]
