"""Documents: a tenant's JSON objects in named collections.

    absent ──POST, PUT──► revision 1 ──PUT, PATCH──► revision n+1 ──DELETE──► absent
    index: building ──every document entered──► ready ──dropped──► dropping ──► absent

    filters.py, query.py     a query string as a tree          ┐ compiled by sqlite_filters.py and
    access.py                what an index can do for it       ┘ postgres_filters.py
    sqlite*.py, postgres*.py the engines, file by file
    usage.py, advice.py      what was used, and what to make of it

The `documents` table is authoritative; indexes, columns and counts follow from it. A write is one
function in one savepoint of a group commit, or one transaction of PostgreSQL's, conditions, index
entries and history included, so two writers of one document are told apart by `If-Match` and never
by luck. A live row is its own newest change, and what it replaces moves to `document_changes`:
together they are the change feed. What takes long, filling or removing, is done in slices and goes
on where a killed server stopped.

A list follows the order of creation: documents created while someone pages appear at the end, none
is seen twice. The ETag is the revision and the time of the change: a document deleted and made
again under the same id never repeats one.
"""
