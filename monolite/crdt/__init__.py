"""Conflict-free replicated data types: a library of its own, with the relay or without it.

    wire.py, encoding.py    bytes: varints, values; the versioned encoding with its checksum
    dots.py                 what a state has seen
    hybrid_clock.py         stamps for what the last write wins
    vector_clock.py         compare, merge, prune
    lww_register.py, g_counter.py, pn_counter.py, or_set.py, rga.py, lww_map.py     the types
    rga_blocks.py, rga_body.py  a sequence's elements in memory, and as bytes
    stability.py            what every replica has seen, so that tombstones can go
    relay/                  a state on disk that follows a document of the relay; not imported here

A state is changed by its verbs, each of which returns a delta: a small state of the same type.
`merge` joins states and deltas alike, in any order and as often as they come: it is commutative,
associative and idempotent, and all or nothing. A replica's name belongs to one replica, which keeps
its state; one that lost it takes a new name.

It imports the standard library alone, and nothing else of Monolite.
"""

from monolite.crdt.dots import Dot, Dots
from monolite.crdt.encoding import TYPES, decode, encode
from monolite.crdt.errors import AheadError, ConflictError, CrdtError, MalformedError, StaleError
from monolite.crdt.g_counter import GCounter
from monolite.crdt.hybrid_clock import HybridClock, Stamp
from monolite.crdt.lww_map import LwwMap
from monolite.crdt.lww_register import LwwRegister
from monolite.crdt.or_set import OrSet
from monolite.crdt.pn_counter import PnCounter
from monolite.crdt.rga import Rga
from monolite.crdt.stability import Stability
from monolite.crdt.vector_clock import Order, VectorClock
from monolite.crdt.wire import State

__all__ = [
    "TYPES",
    "AheadError",
    "ConflictError",
    "CrdtError",
    "Dot",
    "Dots",
    "GCounter",
    "HybridClock",
    "LwwMap",
    "LwwRegister",
    "MalformedError",
    "OrSet",
    "Order",
    "PnCounter",
    "Rga",
    "Stability",
    "StaleError",
    "Stamp",
    "State",
    "VectorClock",
    "decode",
    "encode",
]
