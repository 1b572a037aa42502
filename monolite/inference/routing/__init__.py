"""Routing: answers stay on this machine, and go to a cloud's model only by rule.

    request ──► privacy, scope, policy ──► decide (pure) ──► local: chat.py
                                              │
                                              └─► reserve (database) ─► provider ─► settle
                                                       │ spent            │ failed, nothing streamed
                                                       └──────► local ◄───┘

What a call may cost is reserved in the database before a byte leaves, and settled from the
provider's own count behind it, so no number of concurrent calls spends more than the day's budget.
A call whose server died is settled as all of what was reserved once its lease is over, since the
provider may have charged it. The row of a reservation is the audit row of its call.

    decision.py      where a request goes, and why: a pure function
    policy.py        what a tenant allows, and what class of data a request is
    budget.py        days, limits, reservations: values, and the engine's Protocol
    ledger.py        reserve, settle, usage
    provider.py      a cloud's model: one Protocol, one kind of event
    anthropic.py     Anthropic's Messages API
    openai.py        OpenAI's chat completions, and everything compatible
    calling.py       one call: time-outs, Retry-After, the circuit breaker
    answering.py     the choices of a request from the cloud, held to their form before they leave
    breaker.py       the circuit breaker
    router.py        all of it together

Without a provider the last six are not even imported.

A private prompt is never in a request to a provider, a log, an error or a metric; an audit row has
its keyed hash.
"""
