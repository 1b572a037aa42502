"""Webhooks: a stream's events, posted to an address of the tenant's.

    enabled ──410, five days of failures, a secret that is lost──► disabled ──PUT──► enabled
    event:  read ──2xx──► acknowledged
                 └─anything else──► given back for 5 s … 24 h ──ten attempts──► dead letter

Requests are signed as Standard Webhooks 1.0 says (standardwebhooks.com): the receiver can tell who
sent them, that nothing was changed, and which it has seen.

    webhook.py      values               schedule.py    when a failed event is tried again
    signing.py      the signature        sealing.py     secrets at rest
    core.py         the rules            delivery.py    one webhook's deliveries
    engine.py       what they need of    dispatch.py    all webhooks of this server
    sqlite.py       a database           ordering.py    events of one key, one after the other

Each webhook is a consumer group of its stream, `webhook:{name}`, so what one receiver does never
holds up another's events. A delivery that was answered and not yet noted when the server died is
made again: receivers tell repeated messages by `webhook-id`, which an event keeps for ever. An
endpoint that fails again and again is probed with one event at a time, and its others wait; when
it answers, all of them go at once.
"""
