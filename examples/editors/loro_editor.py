"""python loro_editor.py DOCUMENT FOLDER: a list of lines in Loro."""

from __future__ import annotations

import sys
from pathlib import Path

from loro import ExportMode, LoroDoc
from relay import Document, connect, converse


class Replica:
    """A LoroDoc as the relay's client wants it."""

    def __init__(self) -> None:
        self.doc = LoroDoc()
        self.lines = self.doc.get_list("lines")
        self._waiting: list[bytes] = []

    def merge(self, blob: bytes) -> None:
        if self.doc.import_(blob).pending is not None:
            self._waiting.append(blob)
        else:
            self._waiting = [one for one in self._waiting if self.doc.import_(one).pending]

    def encode(self) -> bytes:
        # What waits for an update before it is in no export.
        if self._waiting:
            raise BlockingIOError("an update has not come yet")
        return self.doc.export(ExportMode.Snapshot())


replica = Replica()
with connect() as client:
    document = Document(client, sys.argv[1], Path(sys.argv[2]), replica)

    def change(edit) -> None:
        """Edit, and push what that changed."""
        before = replica.doc.oplog_vv
        edit()
        replica.doc.commit()
        document.push(replica.doc.export(ExportMode.Updates(before)))

    converse(
        document,
        add=lambda at, text: change(lambda: replica.lines.insert(at, text)),
        remove=lambda at: change(lambda: replica.lines.delete(at, 1)),
        show=lambda: replica.lines.get_deep_value(),
    )
