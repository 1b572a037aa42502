"""Event streams: Redis Streams' semantics over SQLite, or over Redis itself.

    stream   absent ──append, PUT──► there ──DELETE──► absent; its ids only grow
    event    appended ──retention──► trimmed
    in a group, each event:
             waiting ──read──► held ──ack──────────────────────────► done
                                 │ ▲
                                 │ └──read, claim── released ◄─┐
                                 ├──nack, or idle too long─────┘   delivered under max_deliveries
                                 └──nack, or idle too long──► dead ──redrive──► released

    event_id.py, event.py    ids, and runs of events whose ids count on     ┐ values, the same
    group.py, tokens.py      groups, what they hold; a delivery's token     ┘ for every engine
    log.py, groups.py        the rules: appending and reading; consuming
    engine.py                what they need of a store
    sqlite*.py, redis*.py    the stores
    waiting.py               consumers that wait, woken at once, one an event

What an append acknowledged is in the store's log. A group delivers each event at least once: a
delivery that is neither acknowledged nor given back within `claim_idle_ms` is made again, to
whoever asks next, and after `max_deliveries` the event is a dead letter. Every delivery has a
token; one that was overtaken by a later delivery acknowledges nothing and changes nothing, so two
consumers that both believe they hold an event can't both finish it.

An engine that fails answers with a StorageError and has changed nothing. A killed server comes
back with every acknowledged append, and with what was delivered and not acknowledged still held.
"""
