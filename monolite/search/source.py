"""What an index takes of a document of the collection that it follows."""

from __future__ import annotations

from typing import Any

import msgspec

from monolite.search.index import Source


def text_of(data: Any, source: Source) -> str:
    """The named fields' texts, a line each; of a list, its texts are joined."""
    parts = []
    for path in source.text:
        value = _value(data, path)
        if isinstance(value, list):
            value = " ".join(one for one in value if isinstance(one, str))
        if isinstance(value, str) and value:
            parts.append(value)
    return "\n".join(parts)


def metadata_of(data: Any, source: Source) -> str:
    """The named fields as JSON text, under their paths' own shape."""
    shown: dict[str, Any] = {}
    for path in source.metadata:
        value = _value(data, path)
        if value is None:
            continue
        *outer, last = path.split(".")
        place = shown
        for step in outer:
            below = place.get(step)
            if not isinstance(below, dict):
                below = place[step] = {}
            place = below
        place[last] = value
    return msgspec.json.encode(shown).decode()


def _value(data: Any, path: str) -> Any:
    for step in path.split("."):
        if not isinstance(data, dict) or step not in data:
            return None
        data = data[step]
    return data
