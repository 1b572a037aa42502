"""A tenant's policy, what the cloud took, and the calls themselves, over HTTP."""

from __future__ import annotations

from typing import Any

import msgspec

from monolite.clock import Clock
from monolite.inference.routing.budget import CloudCall
from monolite.inference.routing.ledger import Ledger
from monolite.inference.routing.policy import Policy, checked
from monolite.web.answer import Answer, json_answer, page_answer
from monolite.web.call import Call
from monolite.web.cursors import Cursors
from monolite.web.operation import Operation
from monolite.web.pages import Page, PageQuery
from monolite.web.timestamps import rfc3339


class InForce(msgspec.Struct):
    """What holds: the tighter of the operator's limits and the tenant's."""

    daily_cloud_tokens: int | None
    daily_usd: float | None
    cloud_configured: bool


class PolicyShown(msgspec.Struct):
    """The tenant's own policy, and what holds."""

    daily_cloud_tokens: int | None
    local_max_tokens: int
    timezone: str
    cloud: dict[str, Any]
    in_force: InForce


class UsageShown(msgspec.Struct):
    """Today's cloud tokens and money. `spent` when no more can be reserved: answers are then the
    local model's, whose `route_reason` is `budget_spent`. `reserved` is what calls under way may
    still take.
    """

    day: str
    timezone: str
    resets_at: str
    daily_cloud_tokens: int | None
    cloud_tokens: int
    cloud_tokens_reserved: int
    cloud_tokens_left: int | None
    daily_usd: float | None
    usd: float
    usd_reserved: float
    calls: int
    spent: bool


class CloudCallShown(msgspec.Struct):
    """A call that went to a cloud. `outcome` is null while it is under way; `prompt_hash` is keyed
    and tells equal prompts, and nothing else of them.
    """

    id: str
    at: str
    day: str
    key_id: str
    subject: str | None
    privacy: str
    tier: str
    route_reason: str
    provider: str
    model: str
    prompt_hash: str
    outcome: str | None
    prompt_tokens: int
    completion_tokens: int
    reserved_tokens: int
    usd: float


def operations(
    ledger: Ledger,
    cursors: Cursors,
    clock: Clock,
    *,
    has_cloud: bool,
) -> list[Operation]:
    """The route table."""
    e = _Endpoints(ledger, cursors, clock, has_cloud=has_cloud)
    return [
        Operation(
            "ai.usage",
            "GET",
            "/v1/ai/usage",
            "ai:local",
            "What the cloud took today, and what is left",
            e.usage,
            {200: UsageShown},
        ),
        Operation(
            "ai.policy",
            "GET",
            "/v1/ai/policy",
            "admin",
            "What may go to a cloud",
            e.policy,
            {200: PolicyShown},
        ),
        Operation(
            "ai.put_policy",
            "PUT",
            "/v1/ai/policy",
            "admin",
            "Say what may go to a cloud",
            e.put_policy,
            {200: PolicyShown},
            description="It can only tighten what the operator allows: of two limits the lower one"
            " holds. What is left out is as the operator has it.",
            body=Policy,
            example={
                "daily_cloud_tokens": 50000,
                "local_max_tokens": 512,
                "timezone": "Europe/Berlin",
                "cloud": {"allowed": True, "classes": {"health": "private", "help": "public"}},
            },
        ),
        Operation(
            "ai.calls",
            "GET",
            "/v1/ai/calls",
            "admin",
            "The calls that went to a cloud, the newest first",
            e.calls,
            {200: Page[CloudCallShown]},
            query=PageQuery,
        ),
    ]


class _Endpoints:
    def __init__(
        self,
        ledger: Ledger,
        cursors: Cursors,
        clock: Clock,
        *,
        has_cloud: bool,
    ) -> None:
        self._ledger = ledger
        self._has_cloud = has_cloud
        self._cursors = cursors
        self._clock = clock

    async def usage(self, call: Call) -> Answer:
        policy = await self._ledger.policy(call.tenant_id)
        limits = self._ledger.limits(policy)
        balance = await self._ledger.balance(call.tenant_id, policy)
        left = balance.left(limits)
        return json_answer(
            UsageShown(
                day=self._ledger.day(policy),
                timezone=policy.timezone,
                resets_at=rfc3339(self._ledger.resets_at_ms(policy)),
                daily_cloud_tokens=limits.tokens,
                cloud_tokens=balance.tokens,
                cloud_tokens_reserved=balance.reserved_tokens,
                cloud_tokens_left=left,
                daily_usd=_usd(limits.micros),
                usd=balance.micros / 1e6,
                usd_reserved=balance.reserved_micros / 1e6,
                calls=balance.calls,
                spent=left == 0 or not balance.has_room(limits, 1, 0),
            )
        )

    async def policy(self, call: Call) -> Answer:
        return json_answer(self._shown(await self._ledger.policy(call.tenant_id)))

    async def put_policy(self, call: Call) -> Answer:
        policy: Policy = checked(call.body)
        answer = json_answer(self._shown(policy))
        text = msgspec.json.encode(policy).decode()
        await self._ledger.engine.put_policy(
            call.tenant_id, text, self._clock.now_ms(), call.companion(lambda _: answer)
        )
        return answer

    async def calls(self, call: Call) -> Answer:
        query: PageQuery = call.query
        position = self._cursors.decode(call, query.cursor)
        before = None if position is None else str(position[0])
        found = await self._ledger.engine.calls(call.tenant_id, before, query.limit + 1)
        cursor = None
        if len(found) > query.limit:
            cursor = self._cursors.encode(call, [found[query.limit - 1].id])
        return page_answer([_call_shown(one) for one in found[: query.limit]], cursor)

    def _shown(self, policy: Policy) -> PolicyShown:
        limits = self._ledger.limits(policy)
        return PolicyShown(
            policy.daily_cloud_tokens,
            policy.local_max_tokens,
            policy.timezone,
            msgspec.to_builtins(policy.cloud),
            InForce(limits.tokens, _usd(limits.micros), self._has_cloud),
        )


def _usd(micros: int | None) -> float | None:
    return None if micros is None else micros / 1e6


def _call_shown(one: CloudCall) -> CloudCallShown:
    return CloudCallShown(
        id=one.id,
        at=rfc3339(one.at),
        day=one.day,
        key_id=one.key_id,
        subject=one.subject,
        privacy=one.privacy,
        tier=one.tier,
        route_reason=one.reason,
        provider=one.provider,
        model=one.model,
        prompt_hash=one.prompt_hash.hex(),
        outcome=one.outcome,
        prompt_tokens=one.prompt_tokens,
        completion_tokens=one.completion_tokens,
        reserved_tokens=one.reserved_tokens,
        usd=one.micros / 1e6,
    )
