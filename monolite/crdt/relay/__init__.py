"""A state that is kept on disk, works offline, and follows a document of the relay.

    push ──► disk: the delta ──► relay ──acknowledged──► disk: marked sent
    relay ──entries──► merged ──► disk: the state with its cursor, sent deltas gone; one transaction

A kill at any instant leaves a cursor that is not ahead of its state, and each delta in the queue or
in the state. What is sent or read twice changes nothing. See docs/crdt.md.
"""

from monolite.crdt.relay.cipher import AesGcm, Cipher, new_key
from monolite.crdt.relay.requests import Answer, HttpSender, Offline, Refused
from monolite.crdt.relay.synced import DocumentDeleted, Synced

__all__ = [
    "AesGcm",
    "Answer",
    "Cipher",
    "DocumentDeleted",
    "HttpSender",
    "Offline",
    "Refused",
    "Synced",
    "new_key",
]
