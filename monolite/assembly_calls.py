"""Jobs' calls over egress, signed as webhooks are: the one place that knows all three."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable
from functools import cache
from typing import TYPE_CHECKING

from monolite import __version__
from monolite.clock import Clock
from monolite.egress.addresses import Allowed
from monolite.egress.errors import EgressError
from monolite.egress.target import Guard, parse_url
from monolite.errors import FieldError, Invalid
from monolite.jobs.calling import Post, Reply
from monolite.jobs.job import Job
from monolite.tenancy.secret import RootSecret
from monolite.webhooks.schedule import retry_after_s
from monolite.webhooks.signing import secret_text, signature

if TYPE_CHECKING:
    from monolite.egress.client import Client


class JobCalls:
    """What jobs need of the outside: a check of a URL, a call, and what it is signed with."""

    def __init__(self, secret: RootSecret, clock: Clock, allowed: str) -> None:
        self._key = secret.draw("job-calls")
        self._clock = clock
        self._guard = Guard(Allowed.parse(allowed))

        @cache
        def client() -> Client:
            from monolite.egress.client import Client

            return Client(self._guard)

        self._client = client

    async def check(self, url: str, pointer: str) -> None:
        """Raise Invalid for a URL that can't be called (`address_refused`)."""
        try:
            await self._guard.addresses(parse_url(url))
        except ValueError as error:
            raise _invalid(pointer, str(error)) from None
        except EgressError as error:
            # A name may get its address later; each call looks again.
            if error.code == "address_refused":
                raise _invalid(pointer, error.detail, error.code) from None

    def secret_of(self, tenant_id: int) -> str:
        """What a tenant's calls are signed with, as its receivers are given it."""
        return secret_text(self._key_of(tenant_id))

    @property
    def post(self) -> Post:
        """The call."""
        call: Callable[[int, Job, float], Awaitable[Reply]] = self._post
        return call

    async def _post(self, tenant_id: int, job: Job, deadline_s: float) -> Reply:
        assert job.url is not None  # it was claimed in the lane of those that have one
        body = job.payload.encode()
        seconds = self._clock.now_ms() // 1000
        id = f"job_{job.id}"
        headers = [
            ("content-type", "application/json"),
            ("user-agent", f"Monolite/{__version__}"),
            ("x-job-attempt", str(job.attempt)),
            ("x-job-queue", job.queue),
            ("webhook-id", id),
            ("webhook-timestamp", str(seconds)),
            ("webhook-signature", signature(id, seconds, body, [self._key_of(tenant_id)])),
        ]
        try:
            answer = await self._client().call(
                "POST", parse_url(job.url), headers, body, deadline_s=deadline_s
            )
        except (EgressError, ValueError) as error:
            return Reply(None, error=str(error))
        text = answer.body.decode("utf-8", "replace").replace("\0", "\ufffd")
        header = answer.headers.get(b"retry-after")
        wanted = None if header is None else header.decode("latin-1")
        return Reply(answer.status, text, "", retry_after_s(wanted, self._clock.now_ms()))

    def _key_of(self, tenant_id: int) -> bytes:
        return hmac.digest(self._key, b"%d" % tenant_id, "sha256")


def _invalid(pointer: str, why: str, code: str | None = None) -> Invalid:
    return Invalid(f"{pointer}: {why}", [FieldError(pointer, why)], code=code)
