"""PostgreSQL's mechanics, without a domain word: a pool, migrations, notifications.

    engine ──work──► Pool.transaction ──► PostgreSQL ──NOTIFY──► Notifications ──► every server
    start  ───────► migrate (advisory lock, numbered files)

Authoritative is the database, which several servers share; what one of them remembers it forgets
when a notification says so, and all of it whenever it may have missed one. On failure a request is
refused with 503 and Retry-After; the pool connects anew by itself.

asyncpg is imported when the pool opens: an embedded start doesn't pay for it.
"""
