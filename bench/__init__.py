"""Benchmarks: one script per figure, each beside its peer in the same run.

    python -m bench --list
    python -m bench get_document --seconds 3
    python -m bench                     every figure, about twenty minutes

load.c makes the requests; servers.py starts the contenders; rounds.py runs them in turn and takes
every ratio within a round, so that a slow minute of the machine slows both sides of it; machine.py
says how quiet the machine was; seeding.py fills both databases with the same documents.

The figures about documents share orders.py, which records.py turns into PocketBase's. Those without
HTTP measure the engine in this process: embedded.py opens it, postgres.py starts PostgreSQL beside
it, timing.py keeps the latencies.
"""
