"""The rules of search."""

from __future__ import annotations

import re
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from monolite.clock import Clock
from monolite.embedder import Embedded, Embedder
from monolite.errors import DomainError, FieldError, Invalid, NotFound
from monolite.lines import lines_of
from monolite.search import filters
from monolite.search.engine import Also, SearchEngine
from monolite.search.entries import Draft, entries_of
from monolite.search.following import Followers, Following
from monolite.search.index import (
    Entry,
    Extent,
    Hit,
    Index,
    Mode,
    Query,
    Source,
    Stored,
    follows,
)
from monolite.search.words import words_of

K_MAX = 1000
TEXT_CHARACTERS_MAX = 1_000_000
QUERY_CHARACTERS_MAX = 10_000
METADATA_BYTES_MAX = 64 * 1024
DIMENSIONS_MAX = 4096
BATCH_MAX = 1000
IMPORTED_AT_ONCE = 64
FAILURES_SHOWN_MAX = 1000
QUERIES_KEPT_MAX = 2048
WORDS_MAX = 64

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}\Z")

_NO_INDEX = "There is no such index."
_NO_DOCUMENT = "There is no such document."


class DocumentIn(msgspec.Struct, forbid_unknown_fields=True):
    """A document as it comes: a text, or a vector, or both."""

    id: str
    text: str | None = None
    metadata: dict[str, Any] | None = None
    vector: list[float] | None = None


@dataclass(frozen=True, slots=True)
class Upserted:
    """How many documents were stored, and which texts were longer than the model reads."""

    indexed: int
    truncated: Sequence[str]


@dataclass(frozen=True, slots=True)
class Asked:
    """A search as it comes."""

    query: str | None
    k: int
    mode: Mode
    filter: dict[str, Any] | None
    vector: list[float] | None
    exact: bool


@dataclass(frozen=True, slots=True)
class Answered:
    """What was found, and where the milliseconds went."""

    hits: Sequence[Hit]
    tokenize_ms: float
    embed_ms: float
    scan_ms: float
    total_ms: float
    truncated: bool


@dataclass(slots=True)
class Imported:
    """How far an import is; `failures` are the first lines that failed, and why."""

    indexed: int = 0
    failed: int = 0
    failures: list[tuple[int, str]] = field(default_factory=list)
    truncated: int = 0

    def fail(self, line: int, why: str) -> None:
        """One line failed."""
        self.failed += 1
        if len(self.failures) < FAILURES_SHOWN_MAX:
            self.failures.append((line, why))


class Search:
    """Indexes of every tenant; `followers` keep those with a source up to it."""

    def __init__(
        self,
        engine: SearchEngine,
        embedder: Embedder,
        clock: Clock,
        followers: Followers,
    ) -> None:
        self._engine = engine
        self._embedder = embedder
        self._clock = clock
        self._followers = followers
        self._queries: OrderedDict[tuple[int, str, str], Embedded] = OrderedDict()

    # ── Indexes ────────────────────────────────────────────────────────────────────────────────

    async def define(
        self, tenant_id: int, name: str, model: str | None, source: Source | None
    ) -> tuple[Index, bool]:
        """Make or change an index; returns it and whether it is new."""
        if source is not None:
            _check_source(source)
        now_ms = self._clock.now_ms()
        made = await self._engine.define(
            tenant_id, name, self._embedder.resolve(model), source, now_ms
        )
        self._followers.look()
        return made

    async def index(self, tenant_id: int, name: str) -> tuple[Index, Extent, Following | None]:
        """One index, how large it is, and how it stands to its source where it has one; NotFound
        where there is none.
        """
        index = await self._defined(tenant_id, name)
        extent = await self._engine.extent(tenant_id, index)
        if index.source is None:
            return index, extent, None
        return index, extent, await self._followers.state(tenant_id, index)

    async def indexes(self, tenant_id: int, after: str | None, limit: int) -> Sequence[Index]:
        """A tenant's indexes by name."""
        return await self._engine.indexes(tenant_id, after, limit)

    async def delete_index(self, tenant_id: int, name: str) -> None:
        """Remove an index with its documents; NotFound where there is none."""
        if not await self._engine.delete_index(tenant_id, name, self._clock.now_ms()):
            raise NotFound(_NO_INDEX)
        self._followers.look()

    # ── Documents ──────────────────────────────────────────────────────────────────────────────

    async def upsert(
        self,
        tenant_id: int,
        name: str,
        documents: Sequence[DocumentIn],
        also: Also = None,
        *,
        is_list: bool = True,
    ) -> Upserted:
        """Embed and store documents, all or none. An id that comes twice is refused."""
        if len(documents) > BATCH_MAX:
            why = f"at most {BATCH_MAX} at once; send more as NDJSON"
            raise Invalid(f"#: {why}", [FieldError("#", why)])
        errors, seen = [], set()
        for number, document in enumerate(documents):
            at = f"#/{number}" if is_list else "#"
            errors += _faults(document, at)
            if document.id in seen:
                errors.append(FieldError(f"{at}/id", "this id is twice in the batch"))
            seen.add(document.id)
        if errors:
            raise Invalid(f"{errors[0].pointer}: {errors[0].detail}", errors)
        model = await self._writable(tenant_id, name)
        entries = await self._entries(model, documents)
        indexed = await self._engine.upsert(
            tenant_id, name, model, entries, self._clock.now_ms(), also
        )
        return Upserted(indexed, [entry.id for entry in entries if entry.truncated])

    async def import_lines(
        self, tenant_id: int, name: str, pieces: AsyncIterator[bytes], line_bytes_max: int
    ) -> AsyncGenerator[Imported, None]:
        """Store each line of NDJSON as a document; yields how far it is after each batch.

        A line that is no document fails by itself; a later line with the same id wins. What was
        yielded is committed.
        """
        state = Imported()
        batch: dict[str, tuple[int, DocumentIn]] = {}
        model = await self._writable(tenant_id, name)
        number = 0
        async for line in lines_of(pieces, line_bytes_max):
            number += 1
            if line is not None and not line.strip():
                continue
            try:
                document = _line(line, line_bytes_max)
            except DomainError as error:
                state.fail(number, error.detail)
                continue
            if document.id in batch or len(batch) == IMPORTED_AT_ONCE:
                await self._store(tenant_id, name, model, batch, state)
                batch = {}
                yield state
            batch[document.id] = number, document
        if batch:
            await self._store(tenant_id, name, model, batch, state)
        yield state

    async def _store(
        self,
        tenant_id: int,
        name: str,
        model: str,
        batch: dict[str, tuple[int, DocumentIn]],
        state: Imported,
    ) -> None:
        entries = await self._entries(model, [document for _, document in batch.values()])
        now_ms = self._clock.now_ms()
        try:
            state.indexed += await self._engine.upsert(tenant_id, name, model, entries, now_ms)
            state.truncated += sum(entry.truncated for entry in entries)
        except Invalid:
            # One vector of the wrong length fails alone.
            for (number, _), entry in zip(batch.values(), entries, strict=True):
                try:
                    await self._engine.upsert(tenant_id, name, model, [entry], now_ms)
                    state.indexed += 1
                    state.truncated += entry.truncated
                except Invalid as error:
                    state.fail(number, error.detail)

    async def _writable(self, tenant_id: int, name: str) -> str:
        """The model to embed with. Raises Conflict where the index has a source."""
        index = await self._engine.index(tenant_id, name)
        if index is None:
            return self._embedder.resolve(None)
        if index.source is not None:
            raise follows(index)
        return index.model

    async def _entries(self, model: str, documents: Sequence[DocumentIn]) -> list[Entry]:
        drafts = [
            Draft(
                document.id,
                document.text,
                msgspec.json.encode(document.metadata or {}).decode(),
                None if document.vector is None else unit(document.vector, "#/vector"),
            )
            for document in documents
        ]
        return await entries_of(self._embedder, model, drafts)

    async def remove(self, tenant_id: int, name: str, document_id: str) -> None:
        """Remove a document; NotFound where there is none."""
        if not await self._engine.remove(tenant_id, name, document_id, self._clock.now_ms()):
            raise NotFound(_NO_DOCUMENT)

    async def get(self, tenant_id: int, name: str, document_id: str) -> Stored:
        """One document; NotFound where there is none."""
        found = await self._engine.get(tenant_id, name, document_id)
        if found is None:
            raise NotFound(_NO_DOCUMENT)
        return found

    # ── Search ─────────────────────────────────────────────────────────────────────────────────

    async def search(self, tenant_id: int, name: str, asked: Asked) -> Answered:
        """The best hits; NotFound where there is no such index."""
        started = time.perf_counter()
        words = _check(asked)
        where = filters.parse(asked.filter)
        index = await self._defined(tenant_id, name)
        if index.source is not None:
            await self._followers.caught_up(tenant_id, index)
            index = await self._defined(tenant_id, name)
        vector, tokenize_ms, embed_ms, truncated = None, 0.0, 0.0, False
        if asked.mode != "keyword":
            if asked.vector is not None:
                vector = unit(asked.vector, "#/vector")
            else:
                assert asked.query is not None
                embedded = await self._embedded(tenant_id, index.model, asked.query)
                vector, truncated = embedded.vectors[0], embedded.truncated[0]
                tokenize_ms, embed_ms = embedded.tokenize_ms, embedded.embed_ms
        query = Query(asked.mode, asked.k, vector, words, where, asked.exact)
        found = await self._engine.search(tenant_id, index, query)
        total_ms = (time.perf_counter() - started) * 1000
        return Answered(found.hits, tokenize_ms, embed_ms, found.scan_ms, total_ms, truncated)

    async def _embedded(self, tenant_id: int, model: str, text: str) -> Embedded:
        key = tenant_id, model, text
        kept = self._queries.get(key)
        if kept is not None:
            self._queries.move_to_end(key)
            return kept
        made = await self._embedder.query(model, text)
        # Its time was spent once.
        self._queries[key] = Embedded(made.vectors, made.tokens, made.truncated, 0.0, 0.0)
        if len(self._queries) > QUERIES_KEPT_MAX:
            self._queries.popitem(last=False)
        return made

    async def _defined(self, tenant_id: int, name: str) -> Index:
        index = await self._engine.index(tenant_id, name)
        if index is None:
            raise NotFound(_NO_INDEX)
        return index


def unit(values: Sequence[float], pointer: str) -> bytes:
    """A vector as float32 of length 1; raises Invalid where it is none."""
    from monolite.search.vectors import as_unit

    try:
        return as_unit(values)
    except ValueError as error:
        raise Invalid(f"{pointer}: {error}", [FieldError(pointer, str(error))]) from None


def _check(asked: Asked) -> tuple[str, ...]:
    def refuse(pointer: str, why: str) -> Invalid:
        return Invalid(f"{pointer}: {why}", [FieldError(pointer, why)])

    if not 1 <= asked.k <= K_MAX:
        raise refuse("#/k", f"takes 1 to {K_MAX}")
    needs_text = asked.mode != "semantic" or asked.vector is None
    if needs_text and not (asked.query or "").strip():
        raise refuse("#/query", "is empty" if asked.query else "is missing")
    if asked.query is not None and len(asked.query) > QUERY_CHARACTERS_MAX:
        raise refuse("#/query", f"is longer than {QUERY_CHARACTERS_MAX} characters")
    if asked.vector is not None:
        if asked.mode == "keyword":
            raise refuse("#/vector", "a keyword search takes none")
        if not 0 < len(asked.vector) <= DIMENSIONS_MAX:
            raise refuse("#/vector", f"takes 1 to {DIMENSIONS_MAX} numbers")
    if asked.mode == "semantic":
        return ()
    words = tuple(words_of(asked.query or ""))[:WORDS_MAX]
    if not words and asked.mode == "keyword":
        raise refuse("#/query", "has no word to look for")
    return words


def _faults(document: DocumentIn, at: str) -> list[FieldError]:
    faults = []
    if not _NAME.match(document.id):
        faults.append(FieldError(f"{at}/id", f"must match {_NAME.pattern[:-2]}"))
    if document.text is None and document.vector is None:
        faults.append(FieldError(f"{at}/text", "is missing, and there is no vector"))
    if document.text is not None:
        if document.vector is None and not document.text.strip():
            faults.append(FieldError(f"{at}/text", "is empty"))
        if len(document.text) > TEXT_CHARACTERS_MAX:
            why = f"is longer than {TEXT_CHARACTERS_MAX} characters"
            faults.append(FieldError(f"{at}/text", why))
    if document.vector is not None and not 0 < len(document.vector) <= DIMENSIONS_MAX:
        faults.append(FieldError(f"{at}/vector", f"takes 1 to {DIMENSIONS_MAX} numbers"))
    elif document.vector is not None:
        try:
            unit(document.vector, f"{at}/vector")
        except Invalid as error:
            faults += error.errors
    if document.metadata is not None:
        try:
            size = len(msgspec.json.encode(document.metadata))
        except UnicodeEncodeError:
            faults.append(FieldError(f"{at}/metadata", "holds half of a surrogate pair"))
        else:
            if size > METADATA_BYTES_MAX:
                why = f"is larger than {METADATA_BYTES_MAX} bytes"
                faults.append(FieldError(f"{at}/metadata", why))
            elif _holds_nul(document.metadata):
                why = "holds the character U+0000, which PostgreSQL can't store"
                faults.append(FieldError(f"{at}/metadata", why))
    return faults


def _holds_nul(metadata: dict[str, Any]) -> bool:
    waiting: list[Any] = [metadata]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str) and "\0" in value:
            return True
        if isinstance(value, dict):
            waiting += value.keys()
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
    return False


def _line(line: bytes | None, bytes_max: int) -> DocumentIn:
    if line is None:
        raise Invalid(f"longer than {bytes_max} bytes")
    try:
        document = msgspec.json.decode(line, type=DocumentIn)
    except msgspec.DecodeError as error:
        raise Invalid(str(error)) from None
    except UnicodeDecodeError:
        raise Invalid("not UTF-8") from None
    faults = _faults(document, "#")
    if faults:
        raise Invalid(f"{faults[0].pointer}: {faults[0].detail}")
    return document


def _check_source(source: Source) -> None:
    if not _NAME.match(source.collection):
        why = f"must match {_NAME.pattern[:-2]}"
        raise Invalid(f"#/source/collection: {why}", [FieldError("#/source/collection", why)])
    if not source.text:
        why = "names at least one field"
        raise Invalid(f"#/source/text: {why}", [FieldError("#/source/text", why)])
    for pointer, names in (("text", source.text), ("metadata", source.metadata)):
        for number, name in enumerate(names):
            if not all(name.split(".")) or len(name) > 256 or len(names) > 64:
                at = f"#/source/{pointer}/{number}"
                why = "a field's name, with dots between the parts of a path; at most 64 of them"
                raise Invalid(f"{at}: {why}", [FieldError(at, why)])
