"""Logs as records of an export, the same over every engine."""

from __future__ import annotations

import base64
from typing import Any, get_args

from monolite.sync.entry import FIRST_EPOCH, Document, Entry, Kind, digest_of

KINDS: tuple[str, ...] = ("sync_document", "sync_entry")
"""A document comes before its entries, a tombstone too: whoever knows an ended epoch is to be told
so by the copy. What is superseded stays behind.
"""


def document_record(document: Document) -> dict[str, Any]:
    """A document or a tombstone."""
    return {
        "kind": "sync_document",
        "name": document.name,
        "is_live": document.is_live,
        "epoch": document.epoch,
        "seq": document.seq,
        "floor": document.floor,
        "floor_snapshot": document.floor_snapshot,
        "created_at": document.created_at,
        "updated_at": document.updated_at,
    }


def entry_record(document: str, entry: Entry) -> dict[str, Any]:
    """A live entry of a document."""
    return {
        "kind": "sync_entry",
        "document": document,
        "seq": entry.seq,
        "entry_kind": entry.kind,
        "replica": entry.replica,
        "supersedes": entry.supersedes,
        "created_at": entry.created_at,
        "data": entry.blob,
    }


def read_document(record: dict[str, Any]) -> Document:
    """A document without entries; KeyError or TypeError where the record is none's."""
    numbers = [record[name] for name in ("epoch", "seq", "floor", "floor_snapshot")]
    if any(type(number) is not int or number < 0 for number in numbers) or numbers[0] < FIRST_EPOCH:
        raise TypeError("sync_document")
    epoch, seq, floor, floor_snapshot = numbers
    return Document(
        id=0,
        name=record["name"],
        is_live=bool(record["is_live"]),
        epoch=epoch,
        seq=seq,
        floor=floor,
        floor_snapshot=floor_snapshot,
        entry_count=0,
        byte_count=0,
        created_at=record["created_at"],
        updated_at=record["updated_at"],
    )


def read_entry(record: dict[str, Any]) -> tuple[str, Entry]:
    """An entry and its document's name; raises as `read_document` does."""
    if record["entry_kind"] not in get_args(Kind):
        raise TypeError("sync_entry")
    try:
        blob = base64.b64decode(record["data"], validate=True)
    except ValueError:
        raise TypeError("sync_entry") from None
    created_at = record["created_at"]
    entry = Entry(
        record["seq"],
        record["entry_kind"],
        record["replica"],
        digest_of(blob),
        len(blob),
        created_at,
        created_at,
        record["supersedes"],
        blob,
    )
    return record["document"], entry
