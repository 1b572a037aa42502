"""Tenants, their keys and tokens, and what each may do.

    tenant   active ──delete──► deleting ──(rows removed in batches)──► gone
             importing ──(whole stream verified)──► active
    key      live ──revoke | expire | tenant deleted──► ended
    token    live ──expire | its key ended──► ended

Who is authoritative: the `tenants` and `keys` tables. A key is stored as HMAC-SHA-256 under a
pepper that lies outside the database and its replica, so a stolen replica opens nothing. A token
is a signed statement (RFC 7519) by a key and dies with it. Principals are cached in memory by the
process that alone writes; every change of a key or tenant empties the cache before it is answered.

On failure: a delete or an import that was cut short by a crash is finished, or undone, at the next
start, before anything is served.
"""
