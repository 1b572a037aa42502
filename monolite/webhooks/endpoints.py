"""Webhooks over HTTP."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from monolite.errors import FieldError, Invalid
from monolite.web.answer import Answer, json_answer, page_answer
from monolite.web.call import Call
from monolite.web.cursors import Cursors
from monolite.web.operation import Operation
from monolite.web.pages import Page, PageQuery
from monolite.web.timestamps import rfc3339
from monolite.webhooks.core import Webhooks
from monolite.webhooks.webhook import CONCURRENCY, Attempt, Definition, Webhook

CONSUME = "streams:consume"
_ID = r"^(0|[1-9][0-9]{0,18})(-(0|[1-9][0-9]{0,18}))?$"
_TYPE = r"^[A-Za-z0-9][A-Za-z0-9._:/-]{0,127}(\.\*)?$"
_PLACE = r"^\$(\.[A-Za-z_][A-Za-z0-9_-]{0,63}){1,8}$"

EventType = Annotated[str, msgspec.Meta(pattern=_TYPE)]
EventId = Annotated[str, msgspec.Meta(pattern=_ID)]


class WebhookWish(msgspec.Struct, forbid_unknown_fields=True):
    """Where to deliver, and what. `types` are all where they are left out; `invoice.*` stands for
    those that begin so. Events whose data has the same value at `order_by` are delivered one after
    the other. A secret is made where none is given.
    """

    url: Annotated[str, msgspec.Meta(min_length=1, max_length=2048)]
    types: Annotated[list[EventType], msgspec.Meta(min_length=1, max_length=100)] | None = None
    secret: Annotated[str, msgspec.Meta(max_length=128)] | None = None
    order_by: Annotated[str, msgspec.Meta(pattern=_PLACE)] | None = None
    concurrency: Annotated[int, msgspec.Meta(ge=1, le=64)] = CONCURRENCY
    rate_per_s: Annotated[int, msgspec.Meta(ge=1, le=100_000)] | None = None


class ReplayWish(
    msgspec.Struct, forbid_unknown_fields=True, rename={"first": "from", "last": "to"}
):
    """A range of events, both ends included; to the newest where `to` is left out."""

    first: EventId
    last: EventId | None = None


class WebhookShown(msgspec.Struct):
    """A webhook. `reason` says why it is disabled; `failing_since` is null while it works."""

    name: str
    url: str
    types: list[str] | None
    order_by: str | None
    concurrency: int
    rate_per_s: int | None
    state: Literal["enabled", "disabled"]
    reason: str | None
    failing_since: str | None
    created_at: str
    updated_at: str


class WebhookMade(WebhookShown):
    """A webhook with its secret, which is shown when it is new; null where it was kept."""

    secret: str | None


class AttemptShown(msgspec.Struct):
    """One request: `status` is null where no answer came; `response` is the beginning of it."""

    event_id: str | None
    message_id: str
    attempt: int
    at: str
    duration_ms: int
    succeeded: bool
    status: int | None
    error: str | None
    response: str | None


class Replayed(msgspec.Struct):
    """How many events will be delivered again."""

    replayed: int


def operations(webhooks: Webhooks, cursors: Cursors) -> list[Operation]:
    """The route table."""
    e = _Endpoints(webhooks, cursors)
    many = "/v1/streams/{stream}/webhooks"
    one = many + "/{webhook}"
    return [
        Operation(
            "streams.webhooks",
            "GET",
            many,
            CONSUME,
            "Webhooks of a stream",
            e.list,
            {200: Page[WebhookShown]},
        ),
        Operation(
            "streams.put_webhook",
            "PUT",
            one,
            CONSUME,
            "Deliver a stream's events to an address",
            e.put,
            {200: WebhookMade, 201: WebhookMade},
            body=WebhookWish,
            example={"url": "https://example.com/hooks", "types": ["order.created"]},
            description="Events from now on, signed as Standard Webhooks 1.0 says; what isn't"
            " answered with 2xx is tried ten times within four days, then a dead letter of the"
            " group `webhook:{name}`. Enables a webhook that was disabled.",
        ),
        Operation(
            "streams.get_webhook",
            "GET",
            one,
            CONSUME,
            "One webhook",
            e.get,
            {200: WebhookShown},
        ),
        Operation(
            "streams.delete_webhook",
            "DELETE",
            one,
            CONSUME,
            "Remove a webhook, with what was to be delivered",
            e.delete,
            {204: None},
        ),
        Operation(
            "streams.rotate_webhook",
            "POST",
            one + "/rotate",
            CONSUME,
            "Give a webhook a new secret",
            e.rotate,
            {200: WebhookMade},
            description="For a day its messages carry signatures of both.",
        ),
        Operation(
            "streams.test_webhook",
            "POST",
            one + "/test",
            CONSUME,
            "Send a test message now",
            e.test,
            {200: AttemptShown},
            description="Of the type `webhook.test`; the answer says how it went.",
        ),
        Operation(
            "streams.replay_webhook",
            "POST",
            one + "/replay",
            CONSUME,
            "Deliver a range of events again",
            e.replay,
            {200: Replayed},
            body=ReplayWish,
            example={"from": "1763871234567-0", "to": "1763871299999-0"},
            description="At most 10 000 at once. Each keeps its `webhook-id`, so a receiver that"
            " has seen it can tell.",
        ),
        Operation(
            "streams.webhook_attempts",
            "GET",
            one + "/attempts",
            CONSUME,
            "What was tried, the newest first",
            e.attempts,
            {200: Page[AttemptShown]},
            query=PageQuery,
        ),
    ]


class _Endpoints:
    def __init__(self, webhooks: Webhooks, cursors: Cursors) -> None:
        self._webhooks = webhooks
        self._cursors = cursors

    async def list(self, call: Call) -> Answer:
        found = await self._webhooks.list(call.tenant_id, call.params["stream"])
        return page_answer([_shown(webhook) for webhook in found], None)

    async def put(self, call: Call) -> Answer:
        wish: WebhookWish = call.body
        definition = Definition(
            wish.url,
            None if wish.types is None else tuple(wish.types),
            wish.order_by,
            wish.concurrency,
            wish.rate_per_s,
        )
        webhook, is_new, secret = await self._webhooks.put(*_where(call), definition, wish.secret)
        return json_answer(_made(webhook, secret), 201 if is_new else 200)

    async def get(self, call: Call) -> Answer:
        return json_answer(_shown(await self._webhooks.get(*_where(call))))

    async def delete(self, call: Call) -> Answer:
        await self._webhooks.delete(*_where(call))
        return Answer(204)

    async def rotate(self, call: Call) -> Answer:
        return json_answer(_made(*await self._webhooks.rotate(*_where(call))))

    async def test(self, call: Call) -> Answer:
        return json_answer(_attempt(await self._webhooks.test(*_where(call))))

    async def replay(self, call: Call) -> Answer:
        wish: ReplayWish = call.body
        try:
            count = await self._webhooks.replay(*_where(call), wish.first, wish.last or "")
        except ValueError as error:
            raise Invalid(f"#/from: {error}", [FieldError("#/from", str(error))]) from None
        return json_answer(Replayed(count))

    async def attempts(self, call: Call) -> Answer:
        position = self._cursors.decode(call, call.query.cursor)
        limit = call.query.limit
        found = await self._webhooks.attempts(
            *_where(call), None if position is None else int(position[0]), limit + 1
        )
        cursor = None
        if len(found) > limit:
            cursor = self._cursors.encode(call, [found[limit - 1].id])
        return page_answer([_attempt(one) for one in found[:limit]], cursor)


def _where(call: Call) -> tuple[int, str, str]:
    return call.tenant_id, call.params["stream"], call.params["webhook"]


def _members(webhook: Webhook) -> tuple[object, ...]:
    definition = webhook.definition
    failing = webhook.failing_since
    return (
        webhook.name,
        definition.url,
        None if definition.types is None else list(definition.types),
        definition.order_by,
        definition.concurrency,
        definition.rate_per_s,
        webhook.state,
        webhook.reason,
        None if failing is None else rfc3339(failing),
        rfc3339(webhook.created_at),
        rfc3339(webhook.updated_at),
    )


def _shown(webhook: Webhook) -> WebhookShown:
    return WebhookShown(*_members(webhook))  # type: ignore[arg-type]  # in their order


def _made(webhook: Webhook, secret: str | None) -> WebhookMade:
    return WebhookMade(*_members(webhook), secret=secret)  # type: ignore[arg-type,misc]


def _attempt(attempt: Attempt) -> AttemptShown:
    return AttemptShown(
        attempt.event_id,
        attempt.message_id,
        attempt.number,
        rfc3339(attempt.at),
        attempt.duration_ms,
        attempt.succeeded,
        attempt.status,
        attempt.error,
        attempt.response,
    )
