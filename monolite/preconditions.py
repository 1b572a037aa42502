"""Conditional requests (RFC 9110, 13): which version of a thing the caller means."""

from __future__ import annotations

from monolite.errors import Malformed, PreconditionFailed


class Precondition:
    """`If-Match` and `If-None-Match`, checked inside the transaction that writes."""

    __slots__ = ("if_match", "if_none_match")

    def __init__(
        self,
        if_match: frozenset[str] | None = None,
        if_none_match: frozenset[str] | None = None,
    ) -> None:
        self.if_match = if_match
        self.if_none_match = if_none_match

    def check(self, etag: str | None) -> None:
        """Raise PreconditionFailed unless a thing whose strong ETag is `etag` may be written.

        `etag` is None where there is no such thing yet. Weak tags never match (RFC 9110, 13.1.1).
        """
        if self.if_match is not None and (
            etag is None or not ("*" in self.if_match or etag in self.if_match)
        ):
            raise PreconditionFailed(
                "If-Match names another version; read it again, then repeat the change."
                if etag is not None
                else "If-Match was given and there is nothing here to match."
            )
        if (
            self.if_none_match is not None
            and etag is not None
            and ("*" in self.if_none_match or etag in self.if_none_match)
        ):
            raise PreconditionFailed("If-None-Match forbids it: this version exists already.")


ANY = Precondition()


def parse_etags(header: str) -> frozenset[str]:
    """The quoted tags of a list header, `W/` kept, or `*` alone.

    Raises:
        Malformed: an element is neither.
    """
    tags = set()
    for part in header.split(","):
        tag = part.strip()
        bare = tag.removeprefix("W/")
        if tag != "*" and not (len(bare) >= 2 and bare[0] == bare[-1] == '"'):
            raise Malformed(f'{tag!r} is not an entity tag; write it in quotes, like "3-18f0".')
        tags.add(tag)
    return frozenset(tags)


def not_modified(if_none_match: str, etag: str) -> bool:
    """Whether a GET is answered with 304: the weak comparison of RFC 9110, 13.1.2."""
    tags = {tag.removeprefix("W/") for tag in parse_etags(if_none_match)}
    return "*" in tags or etag in tags
