"""What replication refuses, each with its cause and what to do next."""

from __future__ import annotations

from monolite.errors import Unavailable


class ReplicationUnavailable(Unavailable):
    """Nothing says that the latest commits lie in S3; trying again later is right."""

    code = "replication_unavailable"


class ReplicationMisconfigured(Exception):
    """The executable or its configuration is unusable: starting again won't help."""


class ReplicaUnreachable(Exception):
    """S3 didn't answer, or not as S3: whether a replica exists is unknown."""


class ReplicaUnverified(Exception):
    """A replica is there, and what it gave back could not be proved right."""


class TargetExists(Exception):
    """A database is already where the restored one was to go."""
