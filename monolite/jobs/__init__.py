"""Jobs: work that is stored before it is acknowledged, and given to one worker at a time.

    scheduled ──due──► available ──claim──► running ──complete──► completed
                          ▲                    │ fail, lease over, time-out
                          │                    ├──attempts left──► retryable ──due──► available
                          └──resume, retry     ├──none left──────► discarded
                                               └──cancel─────────► cancelled   (from any live state)

    job.py                  a job, what a worker was given, a queue with its counts
    schedule.py, cron.py    when a schedule ticks
    core.py, schedules.py   the rules: leases, retries, waiting; ticks
    *endpoints.py           HTTP
    sqlite*.py, postgres*.py the engines, which move jobs between states

A job is in one state at a time, and every move is one transaction together with its counts. A claim
gives a lease and a token. The lease ends by itself; whoever looks next gives the job to another.
The token is a secret of that one delivery, so a worker that was paused, and wakes after its lease
was given away, changes nothing: it is told 409 `lease_lost`. The effect of a job may therefore
happen more than once, its completion once.

Order: by priority, then `run_at`, then as they were added. A job that runs later lies apart from
those that are ready, so it costs claims nothing, whatever its priority.

A worker that dies holds its jobs until their leases end. A server that dies loses nothing that it
answered; what it was asked and did not answer may have happened, so clients repeat with an
Idempotency-Key or a `unique_key`.
"""
