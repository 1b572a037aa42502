"""Locks: one owner at a time, for as long as it says, in the order of asking.

    free ──acquire──► held ──release──────────► free
                       │ ▲                       │
                       │ └──renew                └──the first that waits──► held
                       └──its time is over──────► free

    lock.py       a lock's name, who holds it, who waits
    core.py       the rules; waiting in line
    endpoints.py  HTTP
    sqlite.py, postgres.py

A lock is named by a namespace and a key, compared whole and never by a hash. Its row is
authoritative and survives a restart; the line of those who wait does not, since waiting is an open
request. Whoever stands in line goes before whoever comes.

Each holding has a fencing number that only grows. A holder that was paused past its time may still
believe in its lock: give the number along with what it writes, and let the other side refuse a
smaller one than it has seen. Numbers can be guessed, so renewing and releasing need the owner too.
The same owner asking again gets the lock it holds, under the same number: an answer may be lost.
"""
