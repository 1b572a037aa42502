"""The configured provider over egress: the one place that knows both."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import cache
from typing import Any, cast

from monolite.documents.schemas import compile_schema
from monolite.egress.addresses import Allowed, parsed, why_refused
from monolite.egress.client import Client, Streamed
from monolite.egress.errors import EgressError
from monolite.egress.target import Guard, parse_url
from monolite.errors import Invalid
from monolite.inference.routing.answering import CloudAnswers
from monolite.inference.routing.anthropic import Anthropic
from monolite.inference.routing.calling import Cloud, Patience
from monolite.inference.routing.decision import Tier
from monolite.inference.routing.ledger import Ledger
from monolite.inference.routing.openai import OpenAi
from monolite.inference.routing.provider import CloudModel, Provider, ProviderError, Reply, Send
from monolite.settings import BadSetting, Settings

URLS = {"anthropic": "https://api.anthropic.com", "openai": "https://api.openai.com/v1"}


def cloud_answers(settings: Settings, provider: str, ledger: Ledger) -> CloudAnswers:
    """What asks the provider of the settings.

    Raises:
        BadSetting: its URL is private or without TLS, and not allowed.
    """
    return CloudAnswers(_cloud(settings, provider), ledger, _check)


async def check_cloud(settings: Settings, provider: str) -> str:
    """Ask the provider for what costs nothing; says what was found.

    Raises:
        ProviderError: its address or its key don't do.
        BadSetting: as `cloud_answers`.
    """
    cloud = _cloud(settings, provider)
    await cloud.check()
    return f"{cloud.model.provider} at {cloud.model.url} takes the key"


def _cloud(settings: Settings, provider: str) -> Cloud:
    model = CloudModel(
        provider,
        settings.cloud_url or URLS[provider],
        settings.cloud_model or "",
        settings.cloud_key or "",
        cast(Tier, settings.cloud_tier),
        settings.cloud_context_tokens,
        settings.cloud_price_input,
        settings.cloud_price_output,
    )
    send = _send(model.url, settings.allow_private_cloud)
    patience = Patience(settings.cloud_first_token_s, settings.cloud_between_tokens_s)
    return Cloud(model, _provider(model, send), patience, time.monotonic)


def _provider(model: CloudModel, send: Send) -> Provider:
    return Anthropic(model, send) if model.provider == "anthropic" else OpenAi(model, send)


def _send(url: str, allowed_text: str) -> Send:
    allowed = Allowed.parse(allowed_text)
    guard = Guard(allowed, setting="MONOLITE_ALLOW_PRIVATE_CLOUD")
    _require_tls(url, allowed)

    @cache
    def client() -> Client:
        return Client(guard)

    async def send(
        method: str, url: str, headers: Sequence[tuple[str, str]], body: bytes, first_s: float
    ) -> Reply:
        try:
            streamed = await client().stream(
                method, parse_url(url), headers, body, deadline_s=first_s
            )
        except EgressError as error:
            raise _failed(error) from None
        return _Reply(streamed)

    return send


def _require_tls(url: str, allowed: Allowed) -> None:
    try:
        target = parse_url(url)
    except ValueError as error:
        raise BadSetting(f"MONOLITE_CLOUD_URL: {error}") from None
    address = parsed(target.host)
    if allowed.has_host(target.host) or (address is not None and allowed.has_address(address)):
        return
    why = None if address is None else why_refused(address)
    if target.scheme != "https":
        why = "it is without TLS, and prompts would be read on the way"
    if why is not None:
        raise BadSetting(
            f"MONOLITE_CLOUD_URL {url}: {why}. MONOLITE_ALLOW_PRIVATE_CLOUD={target.host} allows it"
        )


class _Reply:
    """An answer of egress as routing reads it."""

    def __init__(self, streamed: Streamed) -> None:
        self._streamed = streamed
        self.status = streamed.status
        self.headers: Mapping[bytes, bytes] = streamed.headers

    async def pieces(self) -> AsyncIterator[bytes]:
        try:
            async for piece in self._streamed.pieces():
                yield piece
        except EgressError as error:
            raise _failed(error) from None

    async def finish(self) -> None:
        await self._streamed.finish()

    def close(self) -> None:
        self._streamed.close()


def _failed(error: EgressError) -> ProviderError:
    code = {"timed_out": "timed_out", "bad_answer": "bad_answer"}.get(
        error.code, "connection_failed"
    )
    return ProviderError(code, error.detail)


def _check(schema: Any) -> Callable[[Any], str | None]:
    compiled = compile_schema(schema)

    def mismatch(document: Any) -> str | None:
        try:
            compiled.check(document)
        except Invalid as error:
            return error.detail
        return None

    return mismatch
