"""The rules of collections: what is defined about them, and their indexes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from monolite.clock import Clock
from monolite.documents.collection import (
    INDEXED_FIELDS_MAX,
    Collection,
    Index,
    UsageReport,
    schema_text,
)
from monolite.documents.engine import AlsoIndex, DocumentEngine
from monolite.documents.fields import BUILT_IN, FieldDefinition, checked_fields
from monolite.documents.schemas import compile_schema
from monolite.errors import FieldError, Invalid, NotFound
from monolite.preconditions import Precondition

_MISSING = "There is no such collection."


class Collections:
    """Collections of every tenant."""

    def __init__(self, engine: DocumentEngine, clock: Clock) -> None:
        self._engine = engine
        self._clock = clock

    async def define(
        self,
        tenant_id: int,
        name: str,
        fields: Mapping[str, FieldDefinition],
        schema: Any,
        precondition: Precondition,
    ) -> tuple[Collection, bool]:
        """Replace what is defined about a collection, or make it; returns it and whether new.

        Raises Invalid for a bad field or schema. Documents that are there already are not held
        against a new schema.
        """
        checked = checked_fields(fields)
        if schema is not None:
            compile_schema(schema)
        definition = (checked, schema_text(schema))
        return await self._engine.define(
            tenant_id, name, definition, precondition, self._clock.now_ms()
        )

    async def get(self, tenant_id: int, name: str) -> Collection:
        """One collection; NotFound where there is none."""
        collection = await self._engine.collection(tenant_id, name)
        if collection is None:
            raise NotFound(_MISSING)
        return collection

    async def list(self, tenant_id: int, after: str | None, limit: int) -> Sequence[Collection]:
        """A tenant's collections by name."""
        return await self._engine.collections(tenant_id, after, limit)

    async def delete(self, tenant_id: int, name: str) -> None:
        """Remove a collection with its documents; NotFound where there is none."""
        if not await self._engine.delete_collection(tenant_id, name, self._clock.now_ms()):
            raise NotFound(_MISSING)

    async def usage(self, tenant_id: int, name: str) -> UsageReport:
        """How its indexes and fields are used; NotFound where there is no such collection."""
        report = await self._engine.usage(tenant_id, name)
        if report is None:
            raise NotFound(_MISSING)
        return report

    async def create_index(
        self,
        tenant_id: int,
        name: str,
        fields: Sequence[str],
        tenant_only: bool,
        index_name: str | None,
        also: AlsoIndex = None,
    ) -> Index:
        """An index over promoted or built-in fields, in their order.

        Raises Invalid for a field that is neither.
        """
        collection = await self.get(tenant_id, name)
        errors = [
            FieldError(
                f"#/fields/{at}",
                f"{field!r} is not a promoted field; define it with PUT /v1/collections/{name}",
            )
            for at, field in enumerate(fields)
            if field not in BUILT_IN and collection.field(field) is None
        ]
        if not 1 <= len(fields) <= INDEXED_FIELDS_MAX or len(set(fields)) < len(fields):
            why = f"an index has 1 to {INDEXED_FIELDS_MAX} different fields"
            errors.append(FieldError("#/fields", why))
        if errors:
            raise Invalid(f"{errors[0].pointer}: {errors[0].detail}", errors)
        made_name = index_name or "_".join(fields) + ("_tenant" if tenant_only else "")
        return await self._engine.create_index(
            tenant_id, name, made_name, tuple(fields), tenant_only, self._clock.now_ms(), also
        )

    async def drop_index(self, tenant_id: int, name: str, index_name: str) -> None:
        """Drop an index; NotFound where there is none."""
        if not await self._engine.drop_index(tenant_id, name, index_name):
            raise NotFound("There is no such index.")
