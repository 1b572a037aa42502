"""JSON paths: the part of SQLite's and PostgreSQL's that says one place in a document.

    $.config.region      config.region      $.tags[0]      $."a key".b

The `$.` may be left out in a filter. A key that is not a plain word stands in double quotes.
"""

from __future__ import annotations

import re

from monolite.errors import FieldError, Invalid

Steps = tuple[str | int, ...]
"""Keys and array positions from the document's root."""

STEPS_MAX = 16
_STEP = re.compile(
    r'(?:\.|^)(?:([A-Za-z_][A-Za-z0-9_-]*)|"([^"\\\x00-\x1f]{1,128})")|\[(\d{1,6})\]'
)


def parse_path(text: str, pointer: str) -> Steps:
    """The steps of a path.

    Raises:
        Invalid: it is not one; the error is at `pointer`.
    """
    rest = text.removeprefix("$") if text.startswith(("$.", "$[")) else text
    steps: list[str | int] = []
    at = 0
    while at < len(rest):
        found = _STEP.match(rest, at)
        if found is None or len(steps) == STEPS_MAX:
            break
        word, quoted, index = found.groups()
        steps.append(int(index) if index is not None else word or quoted)
        at = found.end()
    if not steps or at < len(rest) or isinstance(steps[0], int):
        why = f'{text!r} is not a path; write it as $.config.region, $.tags[0] or $."a key"'
        raise Invalid(f"{pointer}: {why}", [FieldError(pointer, why)])
    return tuple(steps)


def path_text(steps: Steps) -> str:
    """Steps as one canonical `$…` path, in which equal places are spelled equally."""
    parts = [
        f"[{step}]"
        if isinstance(step, int)
        else f".{step}"
        if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", step)
        else f'."{step}"'
        for step in steps
    ]
    return "$" + "".join(parts)
