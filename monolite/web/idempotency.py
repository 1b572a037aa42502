"""`Idempotency-Key`: a retried creation is answered, not done again.

    absent ──begin──► running (in memory; dies with the process)
    running ──the write commits, the answer beside it in the same transaction──► stored, 24 h
    running ──an error is answered──► absent

Because effect and answer are one commit, a kill at any instant leaves both or neither: a retry
either runs for the first time or replays. Refusals are not stored; a corrected retry may use the
same key. An answer over 64 KiB is remembered without its body.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable
from typing import Any, Protocol

import msgspec

from monolite.clock import Clock
from monolite.errors import Conflict, FieldError, Invalid
from monolite.tenancy.principal import Principal
from monolite.web.answer import Answer
from monolite.web.call import Call

KEPT_MS = 24 * 3600 * 1000
KEPT_BODY_BYTES_MAX = 64 * 1024
KEY_CHARACTERS_MAX = 255


class StoredAnswer(msgspec.Struct, frozen=True):
    """A remembered answer; `body` is None where it was too large to keep."""

    fingerprint: bytes
    status: int
    headers: list[tuple[str, str]]
    body: bytes | None


class IdempotencyEngine(Protocol):
    """Where answers are remembered, in the same database as the effects."""

    async def find(
        self, tenant_id: int, identity: str, operation: str, key: str, now_ms: int
    ) -> StoredAnswer | None:
        """The answer that is still kept."""
        ...

    def record(
        self,
        transaction: Any,
        tenant_id: int,
        identity: str,
        operation: str,
        key: str,
        answer: StoredAnswer,
        expires_at_ms: int,
    ) -> Awaitable[None] | None:
        """Store it in the engine's open transaction; what it returns is awaited there.

        In one of its own where `transaction` is None: the effect lies in another store.

        Raises Conflict (`idempotency_in_progress`) where another server has stored one.
        """
        ...

    async def purge(self, now_ms: int, count_max: int) -> int:
        """Drop expired answers, at most `count_max`; returns how many."""
        ...


class Once:
    """One request that carries an Idempotency-Key, while it runs."""

    __slots__ = ("_clock", "_engine", "_operation", "_principal", "fingerprint", "key")

    def __init__(
        self, engine: IdempotencyEngine, clock: Clock, call: Call, principal: Principal, key: str
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._operation = call.operation.id
        self._principal = principal
        self.key = key
        digest = hashlib.sha256()
        for part in (call.path.encode(), call.query_string, call.raw):
            digest.update(len(part).to_bytes(8) + part)
        self.fingerprint = digest.digest()

    def record(self, transaction: Any, answer: Answer) -> Awaitable[None] | None:
        """Store the answer beside the effect, in the transaction that makes it."""
        body = answer.stored_body
        return self._engine.record(
            transaction,
            self._principal.tenant_id,
            self._principal.identity,
            self._operation,
            self.key,
            StoredAnswer(
                self.fingerprint,
                answer.status,
                [(name.decode(), value.decode("latin-1")) for name, value in answer.headers],
                body if len(body) <= KEPT_BODY_BYTES_MAX else None,
            ),
            self._clock.now_ms() + KEPT_MS,
        )


class Idempotency:
    """Decides, before a creation runs, whether it runs at all."""

    def __init__(self, engine: IdempotencyEngine, clock: Clock) -> None:
        self._engine = engine
        self._clock = clock
        self._running: set[tuple[int, str, str, str]] = set()

    async def replay(self, call: Call, key: str) -> Answer | None:
        """The stored answer of this key, or None when the caller is to go on with `begin`.

        Raises:
            Invalid: the key is no header value of 1 to 255 characters, or came with another
                payload before.
            Conflict: the first request with it is still running, or its answer was not kept.
        """
        if not 0 < len(key) <= KEY_CHARACTERS_MAX or not key.isprintable():
            why = f"1 to {KEY_CHARACTERS_MAX} printable characters"
            raise Invalid(f"Idempotency-Key: {why}", [FieldError("Idempotency-Key", why)])
        principal = call.principal
        identity = (principal.tenant_id, principal.identity, call.operation.id, key)
        if identity in self._running:
            raise Conflict(
                "The first request with this Idempotency-Key is still running; try again shortly.",
                code="idempotency_in_progress",
            )
        stored = await self._engine.find(*identity, self._clock.now_ms())
        once = Once(self._engine, self._clock, call, principal, key)
        if stored is None:
            # No suspension between this look and the engine's answer: two requests on the one
            # loop cannot both pass.
            if identity in self._running:
                raise Conflict(
                    "The first request with this Idempotency-Key is still running.",
                    code="idempotency_in_progress",
                )
            self._running.add(identity)
            call.once = once
            return None
        if stored.fingerprint != once.fingerprint:
            why = "used before with another payload; a new request needs a new key"
            raise Invalid(
                f"Idempotency-Key: {why}",
                [FieldError("Idempotency-Key", why)],
                code="idempotency_mismatch",
            )
        headers = [(name.encode(), value.encode("latin-1")) for name, value in stored.headers]
        if stored.body is None:
            raise Conflict(
                "The first request with this Idempotency-Key was carried out; its answer was over "
                f"{KEPT_BODY_BYTES_MAX} bytes and is not kept. Read the result instead.",
                code="idempotency_answer_not_kept",
            )
        return Answer(stored.status, stored.body, [*headers, (b"idempotency-replayed", b"true")])

    def end(self, call: Call) -> None:
        """The request is over, however it went."""
        if call.once is not None:
            principal = call.principal
            self._running.discard(
                (principal.tenant_id, principal.identity, call.operation.id, call.once.key)
            )

    async def purge(self, count_max: int = 500) -> int:
        """Drop expired answers in a small batch; returns how many went."""
        return await self._engine.purge(self._clock.now_ms(), count_max)
