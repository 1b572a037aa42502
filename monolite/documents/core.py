"""The rules of documents."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Sequence
from dataclasses import dataclass
from typing import Any

from monolite.clock import Clock, Identifiers
from monolite.documents.collection import Change, Collection, Explanation
from monolite.documents.document import Document
from monolite.documents.engine import Also, AlsoDelete, AlsoPut, DocumentEngine
from monolite.documents.filters import FilterParser
from monolite.documents.paths import Steps
from monolite.documents.query import Query, parse_order, parse_select
from monolite.documents.text import checked
from monolite.errors import DomainError, FieldError, Invalid, NotFound
from monolite.lines import lines_of
from monolite.preconditions import Precondition

_MISSING = "There is no such document."
_NO_COLLECTION = "There is no such collection."

EXPORTED_AT_ONCE = 250
CHANGES_AT_ONCE = 100
IMPORTED_AT_ONCE = 200
FAILURES_SHOWN_MAX = 1000


@dataclass(frozen=True, slots=True)
class Ask:
    """A list as a caller writes it: filters as pairs, the rest as text."""

    filters: Sequence[tuple[str, str]] = ()
    order: str | None = None
    select: str | None = None
    limit: int = 50
    counts: bool = False


@dataclass(frozen=True, slots=True)
class Listed:
    """A page. `position` is where the next one begins; `selected` what of each document is shown,
    None for all of it; `total` counts all that match, where it was asked for.
    """

    documents: Sequence[Document]
    position: list[Any] | None
    selected: tuple[tuple[str, Steps], ...] | None
    total: int | None


@dataclass(slots=True)
class Imported:
    """How far an import is; `failures` are the first lines that failed, and why."""

    inserted: int = 0
    failed: int = 0
    failures: list[tuple[int, str]] | None = None

    def fail(self, line: int, why: str) -> None:
        """One line failed."""
        self.failed += 1
        self.failures = [] if self.failures is None else self.failures
        if len(self.failures) < FAILURES_SHOWN_MAX:
            self.failures.append((line, why))


class Documents:
    """Documents of every tenant. `line_bytes_max` bounds one of an import's lines."""

    def __init__(
        self, engine: DocumentEngine, clock: Clock, identifiers: Identifiers, line_bytes_max: int
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._identifiers = identifiers
        self._line_bytes_max = line_bytes_max

    # ── One document ───────────────────────────────────────────────────────────────────────────

    def create(
        self, tenant_id: int, collection: str, raw: bytes, also: Also = None
    ) -> Awaitable[Document]:
        """Store the JSON object `raw` under a new id."""
        return self._engine.insert(
            tenant_id, collection, self._first(self._identifiers.new(), checked(raw)), also
        )

    async def put(
        self,
        tenant_id: int,
        collection: str,
        document_id: str,
        raw: bytes,
        precondition: Precondition,
        also: AlsoPut = None,
    ) -> tuple[Document, bool]:
        """Replace a document, or create it under its caller's id; returns it and whether new."""
        return await self._engine.put(
            tenant_id, collection, self._first(document_id, checked(raw)), precondition, also
        )

    async def patch(
        self,
        tenant_id: int,
        collection: str,
        document_id: str,
        merge_patch: bytes,
        precondition: Precondition,
        also: Also = None,
    ) -> Document:
        """Apply a merge patch (RFC 7396) to a document."""
        now_ms = self._clock.now_ms()
        return await self._engine.patch(
            tenant_id, collection, document_id, checked(merge_patch), precondition, now_ms, also
        )

    async def delete(
        self,
        tenant_id: int,
        collection: str,
        document_id: str,
        precondition: Precondition,
        also: AlsoDelete = None,
    ) -> None:
        """Remove a document; NotFound where there is none."""
        now_ms = self._clock.now_ms()
        place = (tenant_id, collection, document_id)
        if not await self._engine.delete(*place, precondition, now_ms, also):
            raise NotFound(_MISSING)

    async def get(self, tenant_id: int, collection: str, document_id: str) -> Document:
        """One document; NotFound where there is none."""
        document = await self._engine.get(tenant_id, collection, document_id)
        if document is None:
            raise NotFound(_MISSING)
        return document

    # ── Many ───────────────────────────────────────────────────────────────────────────────────

    async def list(
        self, tenant_id: int, collection: str, ask: Ask, after: Sequence[Any] | None
    ) -> Listed:
        """A page of the documents that pass the filters; NotFound where there is no collection."""
        defined = await self._defined(tenant_id, collection)
        parser = FilterParser(defined.fields)
        query = _query(parser, ask, after)
        selected = parse_select(ask.select, parser)
        found = await self._engine.find(tenant_id, defined, query)
        total = None
        if ask.counts:
            total = await self._engine.count(tenant_id, defined, query.where)
        return Listed(found.documents, found.position, selected, total)

    async def export(
        self, tenant_id: int, collection: str, ask: Ask
    ) -> AsyncGenerator[Document, None]:
        """Every document that passes, page by page; what comes meanwhile may be among them."""
        defined = await self._defined(tenant_id, collection)
        parser = FilterParser(defined.fields)
        return self._pages(tenant_id, defined, parser, ask)

    async def _pages(
        self, tenant_id: int, collection: Collection, parser: FilterParser, ask: Ask
    ) -> AsyncGenerator[Document, None]:
        after: Sequence[Any] | None = None
        while True:
            query = _query(parser, ask, after)
            found = await self._engine.find(tenant_id, collection, query)
            for document in found.documents:
                yield document
            if found.position is None:
                return
            after = found.position

    async def explain(self, tenant_id: int, collection: str, ask: Ask) -> Explanation:
        """How a list would be answered; NotFound where there is no such collection."""
        defined = await self._defined(tenant_id, collection)
        parser = FilterParser(defined.fields)
        parse_select(ask.select, parser)
        query = _query(parser, ask, None)
        return await self._engine.explain(tenant_id, defined, query)

    async def import_lines(
        self, tenant_id: int, collection: str, pieces: AsyncIterator[bytes]
    ) -> AsyncGenerator[Imported, None]:
        """Store each line of NDJSON as a document; yields how far it is after each batch.

        A line that is not a document, or doesn't fit the schema, fails by itself. What was yielded
        is committed.
        """
        state = Imported()
        batch: list[tuple[int, Document]] = []
        number = 0
        async for line in lines_of(pieces, self._line_bytes_max):
            number += 1
            try:
                if line is None:
                    raise Invalid(f"longer than {self._line_bytes_max} bytes")
                if not line.strip():
                    continue
                batch.append((number, self._first(self._identifiers.new(), checked(line))))
            except DomainError as error:
                state.fail(number, error.detail)
            if len(batch) == IMPORTED_AT_ONCE:
                await self._store(tenant_id, collection, batch, state)
                batch = []
                yield state
        if batch:
            await self._store(tenant_id, collection, batch, state)
        yield state

    async def _store(
        self,
        tenant_id: int,
        collection: str,
        batch: Sequence[tuple[int, Document]],
        state: Imported,
    ) -> None:
        outcomes = await self._engine.insert_many(
            tenant_id, collection, [document for _, document in batch]
        )
        for (number, _), error in zip(batch, outcomes, strict=True):
            if error is None:
                state.inserted += 1
            else:
                state.fail(number, error.detail if isinstance(error, DomainError) else str(error))

    # ── Changes ────────────────────────────────────────────────────────────────────────────────

    async def follow(
        self, tenant_id: int, collection: str, after: str | None, pointer: str
    ) -> AsyncGenerator[Change, None]:
        """The changes beyond a position, then each new one as it is committed.

        From now on where `after` is None. Raises NotFound where there is no collection, Invalid
        at `pointer` for what is not a position, Gone (`changes_expired`) for one that the log
        can't go on from; ends when the collection is deleted.
        """
        defined = await self._defined(tenant_id, collection)
        if after is None:
            position = await self._engine.last_change(tenant_id, defined)
        else:
            position = after
            # Refused here, before the stream has begun to answer.
            try:
                await self._engine.changes(tenant_id, defined, position, 1)
            except ValueError:
                why = "not the id of one of this feed's events"
                raise Invalid(f"{pointer}: {why}", [FieldError(pointer, why)]) from None
        return self._changes(tenant_id, defined, position)

    async def _changes(
        self, tenant_id: int, collection: Collection, position: str
    ) -> AsyncGenerator[Change, None]:
        with self._engine.watch(tenant_id, collection) as changed:
            while True:
                changed.clear()
                found = await self._engine.changes(tenant_id, collection, position, CHANGES_AT_ONCE)
                for change in found:
                    yield change
                    position = change.position
                if len(found) < CHANGES_AT_ONCE:
                    current = await self._engine.collection(tenant_id, collection.name)
                    if current is None or current.number != collection.number:
                        return
                    await changed.wait()

    async def _defined(self, tenant_id: int, collection: str) -> Collection:
        defined = await self._engine.collection(tenant_id, collection)
        if defined is None:
            raise NotFound(_NO_COLLECTION)
        return defined

    def _first(self, document_id: str, data: str) -> Document:
        now_ms = self._clock.now_ms()
        return Document(document_id, data, 1, now_ms, now_ms)


def _query(parser: FilterParser, ask: Ask, after: Sequence[Any] | None) -> Query:
    query = Query(parser.parse(ask.filters), parse_order(ask.order, parser), after, ask.limit)
    if after is not None and len(after) != len(query.order) + 1:
        why = "not a cursor of this list; start again without it"
        raise Invalid(f"?cursor: {why}", [FieldError("?cursor", why)])
    return query
