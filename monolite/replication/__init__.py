"""Litestream, pinned, supervised, watched and never trusted.

Purpose: everything committed to the database lies in S3 within a fraction of a second, and comes
back, verified, on an empty machine.

    starting ──► running ──► stopped        stop(): a last sync, then SIGTERM
        ▲          │
        │          ▼  exit, stuck, too much CPU, too much disk
        └────── backoff                     exponential, jittered

    s3://bucket/prefix/<generation>/0000/…  one replica path per life of the database file
    s3://bucket/prefix/<generation>/origin.json  when it began, after which, and why

Who is authoritative: the local file while the machine lives; after it, the newest generation that
holds data. A generation is begun for a new file, after a restore, and whenever the file moved on
without Litestream; nothing is ever written to an older one again.

What happens on failure: the server goes on serving and `barrier` refuses; Litestream catches up
from the write-ahead log, which nobody else checkpoints. docs/replication.md is the operator's
view.
"""
