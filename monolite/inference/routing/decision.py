"""Where a request goes, and why: a pure function, and the table of its cases for the docs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import msgspec
from msgspec.structs import replace

Tier = Literal["basic", "standard", "advanced"]
TIERS: tuple[Tier, ...] = ("basic", "standard", "advanced")

LOCAL_MAX_TOKENS = 512
BUSY_HEADROOM = 0.15

Where = Literal["local", "cloud", "refused"]


class Facts(msgspec.Struct, frozen=True):
    """What the decision looks at.

    `private` says why nothing may leave, if so. `tokens` are the prompt's and `max_tokens`
    together, `tokens_left` what the tightest budget has. `needs_local` names what only the local
    model does, `needs_cloud` what it can't. `local_tier` is None where no model is installed.
    `headroom` is from 0 (starved) to 1; `is_queue_full` where a local request would wait in vain.
    """

    has_provider: bool = True
    private: str | None = None
    has_scope: bool = True
    policy_allows: bool = True
    tier: Tier = "basic"
    local_tier: Tier | None = "basic"
    tokens: int = 0
    local_max_tokens: int = LOCAL_MAX_TOKENS
    needs_local: str | None = None
    needs_cloud: str | None = None
    tokens_left: int = 100_000
    tokens_reserved: int = 0
    is_healthy: bool = True
    headroom: float = 1.0
    is_queue_full: bool = False
    may_overflow: bool = False
    refuses_beyond_local: bool = False
    cloud_context_tokens: int = 200_000


class Route(msgspec.Struct, frozen=True):
    """Where, and the word for why."""

    where: Where
    reason: str


def decide(facts: Facts) -> Route:
    """The route of a request.

    Privacy comes first, then what the caller and the tenant may, then whether the local model is
    enough, then whether the cloud can be had.
    """
    wanted = _wanted(facts)
    barred = _barred(facts)
    if barred is not None:
        if wanted is not None and barred != "no_cloud_provider" and facts.refuses_beyond_local:
            return Route("refused", barred)
        return Route("local", barred)
    if facts.needs_local is not None:
        return Route("local", facts.needs_local)
    if wanted is None:
        return Route("local", "within_local")
    unavailable = _unavailable(facts)
    return Route("cloud", wanted) if unavailable is None else Route("local", unavailable)


def _barred(facts: Facts) -> str | None:
    """Why nothing of this may go to a cloud."""
    if facts.private is not None:
        return facts.private
    if not facts.has_provider:
        return "no_cloud_provider"
    if not facts.has_scope:
        return "no_cloud_scope"
    if not facts.policy_allows:
        return "policy_forbids_cloud"
    return None


def _wanted(facts: Facts) -> str | None:
    """Why the cloud's model is wanted."""
    if facts.needs_cloud is not None:
        return facts.needs_cloud
    if facts.local_tier is None:
        return "no_local_model"
    if TIERS.index(facts.tier) > TIERS.index(facts.local_tier):
        return "tier_above_local"
    if facts.tokens >= facts.local_max_tokens:
        return "tokens_beyond_local"
    if facts.may_overflow and (facts.is_queue_full or facts.headroom < BUSY_HEADROOM):
        return "local_busy"
    return None


def _unavailable(facts: Facts) -> str | None:
    """Why the cloud's model can't be had now."""
    if facts.tokens > facts.cloud_context_tokens:
        return "beyond_cloud_context"
    if facts.tokens_reserved > facts.tokens_left:
        return "budget_spent"
    if not facts.is_healthy:
        return "provider_unavailable"
    return None


def cases() -> Iterator[tuple[str, Facts]]:
    """A request that the cloud would get, and each thing that changes that."""
    cloud = Facts(tier="advanced", tokens=900, tokens_reserved=1200)
    yield "public, `tier` above the local model's", replace(cloud, tokens=100, tokens_reserved=200)
    yield "public, tokens not under `local_max_tokens`", replace(cloud, tier="basic")
    yield "public, an image", replace(cloud, tier="basic", tokens=9, needs_cloud="image")
    yield "public, with `tools`", replace(cloud, tier="basic", tokens=9, needs_cloud="tools")
    yield "public, no local model is installed", replace(cloud, tier="basic", local_tier=None)
    busy = replace(cloud, tier="basic", tokens=9, may_overflow=True)
    yield "public, `overflow`, this machine is starved", replace(busy, headroom=0.1)
    yield "public, `overflow`, the queue is full", replace(busy, is_queue_full=True)
    yield "public, `overflow`, neither", busy
    yield "public, short and `basic`", replace(cloud, tier="basic", tokens=100)
    yield "as the first, but private", replace(cloud, private="private")
    yield "as the first, of a private data class", replace(cloud, private="private_data_class")
    yield "as the first, the tenant's policy says private", replace(cloud, private="private_policy")
    refusing = replace(cloud, private="private", refuses_beyond_local=True)
    yield "private, `beyond_local` is `refuse`", refusing
    yield "private and short, `beyond_local` is `refuse`", replace(refusing, tier="basic", tokens=9)
    yield "no provider is configured", replace(cloud, has_provider=False)
    yield "the credential lacks `ai:cloud`", replace(cloud, has_scope=False)
    yield "the tenant's policy has `allowed: false`", replace(cloud, policy_allows=False)
    yield "a `grammar`", replace(cloud, needs_local="grammar")
    yield "an `adapter`", replace(cloud, needs_local="adapter")
    yield "`logprobs` or `logit_bias`", replace(cloud, needs_local="token_detail")
    yield "longer than the cloud's context", replace(cloud, tokens=300_000)
    yield "the day's budget is spent", replace(cloud, tokens_left=1000)
    yield "the provider's circuit is open", replace(cloud, is_healthy=False)


def table() -> str:
    """The cases as a Markdown table, for docs/routing.md."""
    rows = ["| the request | goes | `route_reason` |", "|---|---|---|"]
    for text, facts in cases():
        route = decide(facts)
        where = {"local": "local", "cloud": "cloud", "refused": "refused, 422"}[route.where]
        rows.append(f"| {text} | {where} | `{route.reason}` |")
    return "\n".join(rows)
