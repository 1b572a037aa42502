"""Refusals of a grammar or a schema."""

from __future__ import annotations

from monolite.errors import FieldError, Unenforceable


class NotEnforceable(Unenforceable):
    """A grammar or schema that decoding can't be kept to exactly.

    `construct` is the keyword, rule or limit in question; `pointer` leads to it: a JSON Pointer
    fragment into a schema (`#/properties/a`), a line of a grammar (`line 3`), or nothing.
    """

    def __init__(self, construct: str, why: str, pointer: str = "") -> None:
        place = f"{pointer}: " if pointer else ""
        super().__init__(f"{place}{construct}: {why}.", [FieldError(pointer, why)])
        self.construct = construct
        self.pointer = pointer
        self.why = why
