"""Documents against their collection's schema, compiled once for each definition."""

from __future__ import annotations

from collections import OrderedDict

import msgspec

from monolite.documents.collection import Collection
from monolite.documents.schemas import DocumentSchema, compile_schema

COMPILED_MAX = 256


class SchemaChecks:
    """The `Validate` of every engine."""

    def __init__(self) -> None:
        self._compiled: OrderedDict[tuple[int, int], DocumentSchema] = OrderedDict()

    def __call__(self, collection: Collection, data: str) -> None:
        """Raise Invalid where `data` doesn't fit."""
        assert collection.schema is not None  # the engine asks for nothing else
        key = (collection.number, collection.version)
        schema = self._compiled.get(key)
        if schema is None:
            schema = compile_schema(msgspec.json.decode(collection.schema))
            self._compiled[key] = schema
            if len(self._compiled) > COMPILED_MAX:
                self._compiled.popitem(last=False)
        schema.check(msgspec.json.decode(data))
