"""Storage mechanics without domain words: files, locks, connections, one writer, many readers.

    caller ──work──► Writer (one thread, group commit) ──► monolite.db-wal ──► Checkpointer
    caller ──read──► Readers (inline, or a bounded pool) ◄── monolite.db

The writer is the only thing that changes the database file while a server runs. Subsystems hand
it functions of a connection; they never open a connection themselves.
"""
