"""HTTP: how a request becomes a call of a core, and its answer bytes.

    Granian ─► server ─► application ─┬─ hot operations ──────────────► Endpoint
               (loop)                 └─ Starlette's router, on demand ─► the same Endpoint

    Endpoint: route → principal → scope → rate limit → body → idempotency → handler → answer

Every operation of the product is one `Operation` value: method, path, scope, what it reads and
what it answers. Its Endpoint validates with it and the OpenAPI document is made from it. Starlette
routes to Endpoints; the few hottest are found by a dictionary first, which is the same Endpoint
reached by a shorter way (docs/decisions/0002-one-pipeline-two-ways-in.md has the figures).

A handler that raises a domain error gets the status of the table in errors.py; anything else is a
500 with the request id and a logged traceback, and has written nothing, since a write is one
function run in one savepoint.
"""
