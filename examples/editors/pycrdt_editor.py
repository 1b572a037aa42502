"""python pycrdt_editor.py DOCUMENT FOLDER: a list of lines in pycrdt, which speaks Yjs."""

from __future__ import annotations

import sys
from pathlib import Path

from pycrdt import Array, Doc
from relay import Document, connect, converse


class Replica:
    """A Doc as the relay's client wants it."""

    def __init__(self) -> None:
        self.doc: Doc = Doc()
        self.lines = self.doc.get("lines", type=Array)

    def merge(self, blob: bytes) -> None:
        self.doc.apply_update(blob)

    def encode(self) -> bytes:
        return self.doc.get_update()


replica = Replica()
with connect() as client:
    document = Document(client, sys.argv[1], Path(sys.argv[2]), replica)

    def change(edit) -> None:
        """Edit, and push what that changed."""
        before = replica.doc.get_state()
        edit()
        document.push(replica.doc.get_update(before))

    converse(
        document,
        add=lambda at, text: change(lambda: replica.lines.insert(at, text)),
        remove=lambda at: change(lambda: replica.lines.pop(at)),
        show=lambda: list(replica.lines),
    )
