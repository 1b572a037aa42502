"""The machine as its operator sees it: health, readiness, metrics, status, migration triggers.

    /healthz   the process serves
    /readyz    schema, writer, disk and replica are in order; each check's state for the operator
    triggers   ok ──80 % of the threshold──► near ──reached──► over: what to do about it

Nothing here changes a tenant's data. Every figure is read from the part that owns it, through a
callable that the assembly passes in.
"""
