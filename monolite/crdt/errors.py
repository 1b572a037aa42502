"""What a replica refuses. Nothing was changed where one of these is raised."""

from __future__ import annotations


class CrdtError(ValueError):
    """The parent of every refusal here."""


class MalformedError(CrdtError):
    """Bytes that are no encoding, were cut or changed, or are not the canonical one."""


class ConflictError(CrdtError):
    """One stamp, or one dot, with two meanings: two replicas use the same name."""


class AheadError(CrdtError):
    """A stamp lies more than five minutes ahead of this replica's clock."""


class StaleError(CrdtError):
    """An insertion by a replica that had not seen what was collected; see `Rga.rebase`."""
