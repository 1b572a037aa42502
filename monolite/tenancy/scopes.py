"""The words a key's scopes are made of."""

from __future__ import annotations

from collections.abc import Iterable

from monolite.errors import FieldError, Forbidden, Invalid

OPERATOR = "operator"
ADMIN = "admin"
ANY = "any"
"""What an operation declares that every good credential may call; no key carries it."""

TENANT_SCOPES = (
    "documents:read",
    "documents:write",
    "search:read",
    "search:write",
    "sync:read",
    "sync:write",
    "sync:compact",
    "streams:read",
    "streams:write",
    "streams:consume",
    "jobs:enqueue",
    "jobs:work",
    "locks",
    "ai:local",
    "ai:cloud",
    ADMIN,
)
SCOPES = frozenset(TENANT_SCOPES) | {OPERATOR}


def checked(scopes: Iterable[str], *, pointer: str = "#/scopes") -> frozenset[str]:
    """The scopes as a set; raises Invalid naming the first that does not exist."""
    chosen = []
    for index, scope in enumerate(scopes):
        if scope not in SCOPES:
            why = f"no such scope; there are {', '.join(sorted(SCOPES))}"
            raise Invalid(f"{scope!r}: {why}", [FieldError(f"{pointer}/{index}", why)])
        chosen.append(scope)
    if not chosen:
        raise Invalid("At least one scope.", [FieldError(pointer, "at least one scope")])
    return frozenset(chosen)


def require_subset(scopes: frozenset[str], minter: frozenset[str]) -> None:
    """Raise Forbidden unless a holder of `minter` may hand out `scopes`."""
    beyond = scopes - minter
    if beyond:
        raise Forbidden(
            f"A key gives away only scopes it has; this one lacks {', '.join(sorted(beyond))}."
        )
