"""What a tenant allows, and of what class a request's data are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgspec

from monolite.errors import FieldError, Invalid
from monolite.inference.routing.decision import LOCAL_MAX_TOKENS
from monolite.names import NAME_PATTERN

Privacy = Literal["private", "public"]
PRIVATE, PUBLIC = "private", "public"
CLASSES_MAX = 64
TOKENS_MAX = 1 << 40

ClassName = Annotated[str, msgspec.Meta(pattern=f"^{NAME_PATTERN}$")]


class CloudPolicy(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """Whether and what may go to a cloud.

    `classes` says of each data class whether it is private. `beyond_local` is what becomes of a
    request that may not leave and is more than the local model is for: answered by it nevertheless,
    or refused. With `overflow`, a public request also goes when this machine is too busy.
    `daily_usd` bounds what the provider charges, where the operator has named its prices.
    """

    allowed: bool = True
    privacy: Privacy | None = None
    classes: dict[ClassName, Privacy] = {}
    beyond_local: Literal["answer", "refuse"] = "answer"
    overflow: bool = False
    daily_usd: Annotated[float, msgspec.Meta(ge=0, le=1e9)] | None = None


class Policy(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A tenant's own policy; what it leaves out is as the operator has it. `timezone` is where the
    budget's day begins.
    """

    daily_cloud_tokens: Annotated[int, msgspec.Meta(ge=0, le=TOKENS_MAX)] | None = None
    local_max_tokens: Annotated[int, msgspec.Meta(ge=0, le=TOKENS_MAX)] = LOCAL_MAX_TOKENS
    timezone: Annotated[str, msgspec.Meta(max_length=64)] = "UTC"
    cloud: CloudPolicy = CloudPolicy()


def checked(policy: Policy) -> Policy:
    """The policy; raises Invalid for what its types don't say."""
    try:
        ZoneInfo(policy.timezone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        why = f"there is no time zone {policy.timezone!r}; Europe/Berlin is one"
        raise Invalid(f"timezone: {why}.", [FieldError("#/timezone", why)]) from None
    if len(policy.cloud.classes) > CLASSES_MAX:
        why = f"at most {CLASSES_MAX}"
        raise Invalid(f"cloud.classes: {why}.", [FieldError("#/cloud/classes", why)])
    for name in policy.cloud.classes:
        if name in (PRIVATE, PUBLIC):
            why = f"{name} is no data class: it says what a class is"
            raise Invalid(f"cloud.classes: {why}.", [FieldError(f"#/cloud/classes/{name}", why)])
    return policy


def why_private(policy: Policy, of_key: str | None, asked: str | None) -> str | None:
    """Why nothing of a request may leave; None where it is public.

    `of_key` and `asked` are `private`, `public`, a data class, or None. What the policy or the key
    makes private, a request can't make public. A key's class that the policy no longer has is
    private.

    Raises:
        Invalid: the request names a class that isn't there.
    """
    classes = policy.cloud.classes
    if asked is not None and asked not in (PRIVATE, PUBLIC, *classes):
        known = ", ".join([PRIVATE, PUBLIC, *sorted(classes)])
        why = f"{asked!r} is none of {known}"
        raise Invalid(f"privacy: {why}.", [FieldError("#/privacy", why)])
    if policy.cloud.privacy == PRIVATE:
        return "private_policy"
    for said in (of_key, asked):
        if said == PRIVATE:
            return "private"
        if said is not None and said != PUBLIC and _kind(classes, said) == PRIVATE:
            return "private_data_class"
    # What nobody has said to be public is private.
    return "private" if asked is None and of_key is None else None


def _kind(classes: Mapping[str, Privacy], name: str) -> Privacy:
    return classes.get(name, "private")


def is_known(policy: Policy, privacy: str) -> bool:
    """Whether a key may carry it: `private`, `public`, or one of the tenant's data classes."""
    return privacy in (PRIVATE, PUBLIC, *policy.cloud.classes)
