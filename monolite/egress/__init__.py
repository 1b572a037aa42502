"""Calls from here to elsewhere: webhooks today, and whatever else sends to an address it was given.

    url ──checked──► host ──resolved once──► addresses ──each checked──► a connection to one of them

An address that a tenant names may lead back into the operator's own network (server-side request
forgery). So a name is resolved once, every address it has is looked at, and the connection goes to
one of those very addresses, under the name for TLS: a name that answers otherwise the second time
is never asked a second time. Redirects are not followed, and no proxy of the environment is used.

    addresses.py     which addresses are refused, and what the operator allows nevertheless
    target.py        a URL taken apart and checked
    connection.py    HTTP/1.1 on one connection (h11)
    client.py        connections kept by target, deadlines, one call
"""
