"""The relay: opaque blobs of replicas that merge on the clients, in one numbered log a document.

    document  absent ──first write──► live, epoch 1 ──DELETE──► tombstone, epoch 2 ──write──► live
    entry     live ──a snapshot names it, or its replica's next state──► superseded
              superseded ──restored──► live, under a new number
                         └─grace period over──► gone

    entry.py, ranges.py     an entry, a document, the numbers a snapshot names
    core.py                 the rules; cursors, limits, what an epoch and a floor forbid
    channels.py             who listens to a document: the one fan-out path
    formats.py              a batch of entries as list, events, frames and messages
    endpoints.py, socket.py HTTP and WebSocket
    sqlite*.py, postgres.py the engines

It never parses a byte, resolves no conflict and works the same on ciphertext. The log is
authoritative and lies in the database; channels only say that there is more to read. A number is
given in the transaction that stores its entry and never again, not even after a deletion. Bytes
that were sent before are recognised by their SHA-256 and keep their number, so a client that heard
no answer sends again.

A failed read ends a request and never leads to a write: nothing here writes what it did not
receive. A listener that can't keep up is let go; what it got last carries the cursor to come back
with.
"""
