"""Semantic search: texts become vectors, queries find the nearest, filters hold before the scan.

    upsert ─► embed ─► rows of one commit: document, vector, words, removals, version + 1
                                │
    search ─► embed ─► read ────┴─► the view follows the rows up to the reader's `version`
                                     filter ─► signs ─► int8 ─► float32 from the rows ─► hits
                                     filter ─► who has each word ─► BM25 ─────────────► hits

**Who is authoritative.** The rows in the database, which are replicated. The mapped file of an
index (`DATA/search/N.vectors`) is derived: it is compared with the rows when it is opened, block by
block by checksum and row by row by key, and what is missing, torn or from another past is made
again from the rows. It may be removed at any time.

**What is found** is what was committed when the search began to read. Keys are never used again
and a row's vector never changes: an upsert removes one row and adds another. Rows that the file
lacks yet are scored from the database, so a search is complete while the file catches up.

**Words.** `keyword` is BM25 with FTS5's formula and constants; FTS5 says which rows have a word,
and the statistics are the index's own: no other index, and so no other tenant, moves its scores.
`hybrid` is reciprocal rank fusion (Cormack et al. 2009) of both.

**An index with a `source`** follows its collection by the change log, from a position that is
committed with the rows it led to; a search waits until the index has seen what was committed.

**On failure.** A crash at any instant leaves rows and position of one commit. Where the disk takes
no file, searches read the database, slower, and the log says so.

**In PostgreSQL** the same rules hold over pgvector: exact up to some size, then an HNSW graph built
beside; BM25 in one statement. Of several servers one follows, under a session's lock.
"""
