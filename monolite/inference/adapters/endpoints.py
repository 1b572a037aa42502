"""LoRA adapters over HTTP."""

from __future__ import annotations

from typing import Annotated

import msgspec

from monolite.inference.adapters.core import Adapters
from monolite.inference.adapters.engine import StoredAdapter
from monolite.models.registry import DEFAULT
from monolite.web.answer import Answer, json_answer, page_answer
from monolite.web.call import Call
from monolite.web.operation import RAW, Operation
from monolite.web.pages import Page
from monolite.web.timestamps import rfc3339

OCTETS = "application/octet-stream"


class AdapterShown(msgspec.Struct):
    """An adapter. `rank` is the greatest of its matrices, `tensors` how many it changes, `sha256`
    that of its file; the `active` one of a model answers where a request names none.
    """

    name: str
    model: str
    architecture: str
    rank: int
    alpha: float
    tensors: int
    bytes: int
    sha256: str
    active: bool
    created_at: str


class SwappedShown(msgspec.Struct):
    """How long it took until the adapter was ready, and how many of the model's matrices it
    changes.
    """

    swap_ms: float
    fused_tensors: int


class PutQuery(msgspec.Struct):
    """`model`: the one it is for."""

    model: Annotated[str, msgspec.Meta(max_length=64)] = DEFAULT


def operations(adapters: Adapters, bytes_max: int) -> list[Operation]:
    """The route table."""
    e = _Endpoints(adapters)
    one = "/v1/adapters/{adapter}"
    return [
        Operation(
            "adapters.list",
            "GET",
            "/v1/adapters",
            "ai:local",
            "The tenant's adapters, by name",
            e.all,
            {200: Page[AdapterShown]},
        ),
        Operation(
            "adapters.put",
            "PUT",
            one,
            "admin",
            "Store a LoRA adapter, a GGUF file",
            e.put,
            {201: AdapterShown, 200: AdapterShown},
            description="It is read for its model before it is stored: matrices that the model has,"
            " of its shapes, without a value that is no number. In place of its namesake; answers"
            " under way end with what they began with.",
            body=RAW,
            consumes=(OCTETS,),
            body_bytes_max=bytes_max,
            query=PutQuery,
        ),
        Operation(
            "adapters.get", "GET", one, "ai:local", "One adapter", e.get, {200: AdapterShown}
        ),
        Operation(
            "adapters.delete", "DELETE", one, "admin", "Remove an adapter", e.delete, {204: None}
        ),
        Operation(
            "adapters.activate",
            "POST",
            f"{one}/activate",
            "admin",
            "Answer with it where a request names no adapter",
            e.activate,
            {200: SwappedShown},
            description="Of its model, for this tenant, until another is activated or it is"
            ' deleted. A request with `"adapter": null` is answered without any.',
        ),
    ]


class _Endpoints:
    def __init__(self, adapters: Adapters) -> None:
        self._adapters = adapters

    async def all(self, call: Call) -> Answer:
        return page_answer([_shown(one) for one in await self._adapters.all(call.tenant_id)], None)

    async def get(self, call: Call) -> Answer:
        return json_answer(_shown(await self._adapters.get(call.tenant_id, call.params["adapter"])))

    async def put(self, call: Call) -> Answer:
        query: PutQuery = call.query
        made, is_new = await self._adapters.put(
            call.tenant_id, call.params["adapter"], query.model, call.raw
        )
        return json_answer(_shown(made), 201 if is_new else 200)

    async def delete(self, call: Call) -> Answer:
        await self._adapters.delete(call.tenant_id, call.params["adapter"])
        return Answer(204)

    async def activate(self, call: Call) -> Answer:
        swapped = await self._adapters.activate(call.tenant_id, call.params["adapter"])
        return json_answer(SwappedShown(round(swapped.swap_ms, 3), swapped.tensors))


def _shown(one: StoredAdapter) -> AdapterShown:
    return AdapterShown(
        name=one.name,
        model=one.model,
        architecture=one.architecture,
        rank=one.rank,
        alpha=one.alpha,
        tensors=one.tensors,
        bytes=one.bytes,
        sha256=one.digest,
        active=one.is_active,
        created_at=rfc3339(one.created_at),
    )
