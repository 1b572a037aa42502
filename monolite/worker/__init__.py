"""A worker for Monolite's queues: functions of this process, given jobs over HTTP.

    worker = Worker("http://127.0.0.1:8080", key)

    @worker.on("mail")
    def send(job: Job) -> object: ...

    worker.run()

    claim ─► handler ─┬─► complete    what it returns is the job's result
               ▲      └─► fail        it raised; the server retries later and later
               └── heartbeat: extends the lease at a third of its time, and hears of a cancel

Coroutines run on the worker's loop, other functions in threads, at most `concurrency` of a queue at
once. It needs the standard library alone, and nothing else of Monolite.

Guarantees: no more is claimed than can start at once. What a handler returned is reported until the
server answers or the lease is over. A delivery that is over, since the job was cancelled or its
lease ended, is never reported: a coroutine is cancelled, a function in a thread finds
`job.is_lost`. A stop lets handlers finish.

Failure cases: a server that doesn't answer is asked again, later and later, by chance a little more
or less. A worker that dies leaves its jobs to the end of their leases; the effect of one that was
at work may then come twice. A function in a thread can't be broken off.
"""

from __future__ import annotations

from monolite.worker.job import Job, Retry
from monolite.worker.requests import Refused
from monolite.worker.worker import Worker

__all__ = ["Job", "Refused", "Retry", "Worker"]
