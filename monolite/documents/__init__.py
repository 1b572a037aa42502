"""Documents: a tenant's JSON objects in named collections.

    absent ──POST, PUT──► revision 1 ──PUT, PATCH──► revision n+1 ──DELETE──► absent

The `documents` table is authoritative. A write is one function in one savepoint of a group commit,
conditions included, so two writers of one document are told apart by `If-Match` and never by luck.
An id made by the server is a UUIDv7, so the order of ids is the order of creation, which a list's
cursor follows: documents created while someone pages appear at the end, none is seen twice.

The ETag is the revision and the time of the change: a document deleted and made again under the
same id never repeats one.
"""
