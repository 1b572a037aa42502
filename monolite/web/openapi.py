"""The OpenAPI 3.1 document, made from the declarations that validate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from monolite import __version__
from monolite.names import NAME_PATTERN
from monolite.web.errors import OpenAIError, Problem
from monolite.web.operation import LOOPBACK, PUBLIC, RAW, Chunks, ObjectText, Operation

_REF = "#/components/schemas/{name}"
_IDEMPOTENCY = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "The stored answer is replayed for 24 hours.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255},
}
_EVENT = {
    "name": "X-Event",
    "in": "header",
    "description": "A stream, and a type: the answer is appended to it in the same commit.",
    "schema": {"type": "string", "pattern": f"^{NAME_PATTERN}(; type=[A-Za-z0-9._:/-]+)?$"},
    "example": "orders; type=order.created",
}
_ACK = {
    "name": "X-Ack",
    "in": "header",
    "description": "A stream, a group and tokens: their deliveries are acknowledged in the same"
    " commit, or nothing is written (409, `delivery_lost`).",
    "schema": {"type": "string", "pattern": f"^{NAME_PATTERN}/{NAME_PATTERN} [0-9.,-]+$"},
    "example": "orders/mailer 1763871234567890.1",
}
_LOCK = {
    "name": "X-Lock",
    "in": "header",
    "description": "A lock that is held for exactly this write; with owner and token, one that they"
    " hold. Else nothing is written (409, `lock_held` or `lock_lost`).",
    "schema": {"type": "string", "pattern": f"^{NAME_PATTERN}/[^/\\s;]+( *;.*)?$"},
    "example": "imports/sales",
}
_PREFER = {
    "name": "Prefer",
    "in": "header",
    "description": "`durability=replicated` answers once the write lies in S3.",
    "schema": {"type": "string"},
}


def document(operations: Sequence[Operation]) -> dict[str, Any]:
    """The document of all operations; each names its scope as its security requirement."""
    schemas, components = _schemas(operations)
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(
            operation, schemas
        )
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Monolite",
            "version": __version__,
            "summary": "A SaaS's whole backend in one executable.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": tag} for tag in dict.fromkeys(o.tag for o in operations)],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "key": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "An API key mk_<id>_<secret><crc>, or a token it minted.",
                }
            },
        },
    }


def _schemas(operations: Sequence[Operation]) -> tuple[dict[Any, Any], dict[str, Any]]:
    kinds: list[Any] = [Problem]
    if any(operation.errors == "openai" for operation in operations):
        kinds.append(OpenAIError)
    for operation in operations:
        if operation.body not in (None, RAW, ObjectText, Chunks):
            kinds.append(operation.body)
        if operation.socket is not None:
            kinds.append(operation.socket[0])
        kinds.extend(kind for kind in operation.answers.values() if kind is not None)
    unique = list({str(kind): kind for kind in kinds}.values())
    made, components = msgspec.json.schema_components(unique, ref_template=_REF)
    return {str(kind): schema for kind, schema in zip(unique, made, strict=True)}, components


def _operation(operation: Operation, schemas: dict[Any, Any]) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "operationId": operation.id,
        "summary": operation.summary,
        "tags": [operation.tag],
        "parameters": _parameters(operation),
        "responses": _responses(operation, schemas),
        "x-scope": operation.scope,
        "security": [] if operation.scope == PUBLIC else [{"key": [operation.scope]}],
    }
    if operation.scope == LOOPBACK:
        entry["security"] = [{"key": ["operator"]}, {}]
    if operation.socket is not None:
        # OpenAPI has no word for a WebSocket: the handshake is a GET, and this marks it.
        entry["x-websocket"] = {"hello": schemas[str(operation.socket[0])]}
    if operation.description:
        entry["description"] = operation.description
    if operation.body is not None:
        entry["requestBody"] = _body(operation, schemas)
    return entry


def _parameters(operation: Operation) -> list[dict[str, Any]]:
    parameters: list[dict[str, Any]] = [
        {
            "name": name,
            "in": "path",
            "required": True,
            "schema": {
                "type": "string",
                "pattern": f"^{operation.names.get(name, NAME_PATTERN)}$",
            },
        }
        for name in operation.parameters
    ]
    if operation.query is not None:
        schema = msgspec.json.schema(operation.query)
        (properties,) = (s["properties"] for s in schema["$defs"].values())
        for name, kind in properties.items():
            parameters.append(
                {"name": name, "in": "query", "required": False, "schema": _without_null(kind)}
            )
    for name, description in operation.headers.items():
        parameters.append(
            {
                "name": name,
                "in": "header",
                "description": description,
                "schema": {"type": "string"},
            }
        )
    if operation.creates:
        parameters.append(_IDEMPOTENCY)
    if operation.joins:
        parameters += [_EVENT, _ACK, _LOCK]
    if operation.is_write:
        parameters.append(_PREFER)
    return parameters


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """A query parameter is absent, never null."""
    choices = [s for s in schema.get("anyOf", ()) if s.get("type") != "null"]
    if len(choices) == 1:
        rest = {k: v for k, v in schema.items() if k not in ("anyOf", "default")}
        return {**choices[0], **rest}
    if "enum" in schema:
        return {"enum": [value for value in schema["enum"] if value is not None]}
    return schema


def _body(operation: Operation, schemas: dict[Any, Any]) -> dict[str, Any]:
    if operation.body is ObjectText:
        schema: dict[str, Any] = {"type": "object"}
    elif operation.body in (RAW, Chunks):
        schema = {"type": "string", "contentMediaType": operation.consumes[0]}
    else:
        schema = schemas[str(operation.body)]
    content: dict[str, Any] = {"schema": schema}
    if operation.example is not None:
        content["example"] = operation.example
    # Lines of JSON are no JSON.
    lines = [media for media in operation.consumes if media.endswith("ndjson")]
    return {
        "required": not operation.body_optional,
        "content": {
            **dict.fromkeys(operation.consumes, content),
            **{media: {"schema": {"type": "string"}} for media in (*lines, *operation.streams)},
        },
    }


def _responses(operation: Operation, schemas: dict[Any, Any]) -> dict[str, Any]:
    responses: dict[str, Any] = {}
    for status, kind in operation.answers.items():
        entry: dict[str, Any] = {"description": _PHRASES.get(status, "Done")}
        if kind is not None:
            entry["content"] = {operation.produces: {"schema": schemas[str(kind)]}}
        elif status == 200:
            entry["content"] = {operation.produces: {}}
        responses[str(status)] = entry
    responses["default"] = _OPENAI_ERROR if operation.errors == "openai" else _PROBLEM
    return responses


_PROBLEM = {
    "description": "A problem (RFC 9457); `code` says which",
    "content": {"application/problem+json": {"schema": {"$ref": _REF.format(name="Problem")}}},
}
_OPENAI_ERROR = {
    "description": "An error as OpenAI's API has it; `code` says which",
    "content": {"application/json": {"schema": {"$ref": _REF.format(name="OpenAIError")}}},
}


_PHRASES = {
    101: "Switching protocols",
    200: "OK",
    201: "Created",
    204: "Done",
    304: "Not modified",
    503: "Not in order",
}
