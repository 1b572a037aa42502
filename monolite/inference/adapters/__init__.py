"""LoRA adapters: uploaded by a tenant, kept in the database, applied beside the model's weights.

    PUT ──► read for the model, every value looked at ──► stored in pieces, replicated with the rest
    request, `adapter` named or active ──► of three in memory, else read again ──► a span's own

The base file is never written and no weight changes: an answer takes the adapter it began with to
its end, whoever replaces or deletes it meanwhile, and answers with different ones, or with none,
share each pass. Keys and values of one are never another's: its digest is part of their scope.

    core.py          what may be stored, which one a request means
    engine.py        what is at rest: values, and the engine's Protocol
    sqlite.py        the embedded engine
    postgres.py      the scale-out engine
    archive.py       records of an export
    endpoints.py     over HTTP
"""
