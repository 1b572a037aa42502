"""What may be stored as an adapter, and which one a request means."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

from msgspec import UNSET, UnsetType

from monolite.clock import Clock
from monolite.errors import Conflict, FieldError, Invalid, NotFound
from monolite.inference.adapters.engine import AdapterEngine, Also, StoredAdapter
from monolite.inference.chat import Chat, bad
from monolite.inference.request import Fitted
from monolite.models.decoder import Decoder

COUNT_MAX = 64
"""Of a tenant."""

KEPT_COUNT = 3
"""Ready in memory, of all tenants."""

NO_ADAPTER = "There is no such adapter."


class Swapped(NamedTuple):
    """How long it took until the adapter was ready, and how many matrices it changes."""

    swap_ms: float
    tensors: int


class Adapters:
    """A tenant's adapters. Those used last stay in memory, KEPT_COUNT of them; equal files of two
    tenants are one there, and each has to have it to use it.
    """

    def __init__(self, engine: AdapterEngine, chat: Chat, clock: Clock) -> None:
        self._engine = engine
        self._chat = chat
        self._clock = clock
        self._kept: OrderedDict[tuple[str, str], Fitted] = OrderedDict()
        self._reading: asyncio.Lock | None = None

    async def all(self, tenant_id: int) -> Sequence[StoredAdapter]:
        """All, by name."""
        return await self._engine.all(tenant_id)

    async def get(self, tenant_id: int, name: str) -> StoredAdapter:
        """One; NotFound where there is none."""
        found = await self._engine.get(tenant_id, name)
        if found is None:
            raise NotFound(NO_ADAPTER)
        return found

    async def put(
        self, tenant_id: int, name: str, model: str, content: bytes, also: Also = None
    ) -> tuple[StoredAdapter, bool]:
        """Store a file for a model, in place of its namesake; returns it, and whether it is new.

        Raises:
            NoSuchModel: the model is not installed.
            Invalid: `invalid_adapter`, and why.
            Conflict: `too_many_adapters`.
        """
        decoder = await self._chat.decoder(model)
        fitted = await self._read(decoder, name, content)
        about = fitted.about
        made = StoredAdapter(
            name,
            decoder.name,
            await asyncio.to_thread(lambda: decoder.digest),
            about.architecture,
            about.rank,
            about.alpha,
            about.tensors,
            len(content),
            fitted.digest,
            False,
            self._clock.now_ms(),
        )
        is_new = await self._engine.put(tenant_id, made, content, COUNT_MAX, also)
        if is_new is None:
            raise Conflict(
                f"There are {COUNT_MAX} adapters already: delete one.", code="too_many_adapters"
            )
        self._keep(made.model_digest, fitted)
        return await self.get(tenant_id, name), is_new

    async def delete(self, tenant_id: int, name: str) -> None:
        """Remove one; answers under way end with it. NotFound where there is none."""
        if not await self._engine.delete(tenant_id, name):
            raise NotFound(NO_ADAPTER)

    async def activate(self, tenant_id: int, name: str) -> Swapped:
        """Have it ready, and answer with it where a request to its model names none.

        Raises:
            NotFound: there is none.
            Invalid: it is not for the model as it is by now.
        """
        stored = await self.get(tenant_id, name)
        decoder = await self._chat.decoder(stored.model)
        started = time.perf_counter()
        fitted = await self._fitted(tenant_id, decoder, stored)
        swap_ms = (time.perf_counter() - started) * 1000
        if not await self._engine.activate(tenant_id, name, stored.model):
            raise NotFound(NO_ADAPTER)
        return Swapped(swap_ms, fitted.about.tensors)

    async def wanted(
        self, tenant_id: int, decoder: Decoder, name: str | UnsetType | None
    ) -> Fitted | None:
        """The adapter of a request: the one it names; where it names none, the active one; none
        where it says null.

        Raises:
            Invalid: there is none of that name, or it is for another model.
        """
        if name is None:
            return None
        if name is UNSET:
            stored = await self._engine.active(tenant_id, decoder.name)
            if stored is None:
                return None
        else:
            stored = await self._engine.get(tenant_id, str(name))
        if stored is None:
            raise bad("#/adapter", f"there is no adapter {name}")
        if stored.model != decoder.name:
            raise bad("#/adapter", f"{name} is for {stored.model}, and not for {decoder.name}")
        return await self._fitted(tenant_id, decoder, stored)

    async def _fitted(self, tenant_id: int, decoder: Decoder, stored: StoredAdapter) -> Fitted:
        found = self._kept.get((stored.model_digest, stored.digest))
        if found is not None and stored.model_digest == decoder.digest:
            self._kept.move_to_end((stored.model_digest, stored.digest))
            return found._replace(name=stored.name)
        if stored.model_digest != await asyncio.to_thread(lambda: decoder.digest):
            why = f"{stored.name} was made for another {stored.model} than is installed"
            raise bad("#/adapter", f"{why}: PUT it again")
        if self._reading is None:
            self._reading = asyncio.Lock()
        async with self._reading:
            found = self._kept.get((stored.model_digest, stored.digest))
            if found is None:
                content = await self._engine.content(tenant_id, stored.name, stored.digest)
                if content is None:
                    raise bad("#/adapter", f"{stored.name} has just been replaced or deleted")
                found = await self._read(decoder, stored.name, content)
                self._keep(stored.model_digest, found)
        return found._replace(name=stored.name)

    def _keep(self, model_digest: str, fitted: Fitted) -> None:
        self._kept[model_digest, fitted.digest] = fitted
        self._kept.move_to_end((model_digest, fitted.digest))
        while len(self._kept) > KEPT_COUNT:
            self._kept.popitem(last=False)

    @staticmethod
    async def _read(decoder: Decoder, name: str, content: bytes) -> Fitted:
        from monolite.models.file import BadModelFile

        try:
            made = await asyncio.to_thread(decoder.read_adapter, name, content)
        except BadModelFile as error:
            why = str(error)
            raise Invalid(
                f"The adapter can't be used: {why}.", [FieldError("#", why)], code="invalid_adapter"
            ) from None
        digest = await asyncio.to_thread(lambda: hashlib.sha256(content).hexdigest())
        return Fitted(name, digest, made.about, made.weights)
