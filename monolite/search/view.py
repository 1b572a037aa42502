"""An index as it is searched: its rows, in memory, and the mapped file of their vectors.

    rows in the database ──► keys, alive, lengths, columns     complete before a search looks
                         └─► the mapped file                   follows, as far as it has come

A view follows the rows up to the version that a reader sees. It is made of them when it is first
needed, and its file again where that can't be trusted. What a search took as its scope stays as it
is while the view goes on.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from monolite.search.columns import Column
from monolite.search.filters import unknown_field
from monolite.search.growing import Growing
from monolite.search.index import Condition
from monolite.search.postings import Postings
from monolite.search.recall import RecallSamples
from monolite.search.scope import RowSource, Scope
from monolite.search.vector_file import VectorFile
from monolite.search.vectors import as_matrix

log = logging.getLogger("monolite.search")

APPENDED_AT_ONCE = 2000
_COMPACTED_FROM = 1000


class Overtaken(Exception):
    """The view has followed the rows beyond the reader's snapshot."""


class View:
    """One index's. Every method may be called from any thread."""

    def __init__(self, path: Path, width: int) -> None:
        self.width = width
        self.recall = RecallSamples()
        self._path = path
        self._lock = threading.Lock()
        self._remaking = threading.Lock()
        self._is_gone = False
        self._clear()

    def _clear(self) -> None:
        self._file: VectorFile | None = None
        self._version = -1
        self._removed_to = 0
        self._keys, self._lengths = Growing("<i8"), Growing("<i4")
        self._alive = Growing("?")
        self._dead = 0
        self._columns: dict[tuple[str, ...], Column] = {}
        self._postings = Postings()
        self._packed: tuple[int, Growing, NDArray[np.uint8]] | None = None

    @property
    def is_open(self) -> bool:
        """Whether the file was compared with the rows already."""
        return self._file is not None

    def has_taken(self, removal: int) -> bool:
        """Whether the view knows of a removal. One that is being opened may not."""
        return self.is_open and removal <= self._removed_to

    @property
    def is_far_behind(self) -> bool:
        """Whether the file lacks more rows than a search gives it on its way."""
        return self.missing > APPENDED_AT_ONCE

    @property
    def is_full(self) -> bool:
        """Whether the file lacks rows and has no place for one."""
        file = self._file
        return file is not None and file.count == file.capacity and self.missing > 0

    @property
    def is_sparse(self) -> bool:
        """Whether so many rows are dead that the file is better made anew."""
        return self._dead > max(_COMPACTED_FROM, self._keys.count // 4)

    @property
    def missing(self) -> int:
        """How many rows the file doesn't have yet."""
        file = self._file
        return 0 if file is None else self._keys.count - file.count

    @property
    def memory_bytes(self) -> int:
        """What is mapped for the rows that there are, and what memory holds of them."""
        file = self._file
        count = self._keys.count
        columns = sum(len(column) for column in self._columns.values())
        return 0 if file is None else file.bytes_of(count) + 13 * count + 4 * columns

    def open(
        self, source: RowSource, version: int, stamps: tuple[bytes, bytes], removed_to: int
    ) -> bool:
        """Open the file and compare it with the rows of a snapshot, or begin an empty one; whether
        it was begun.

        `stamps` are the one that the file must have and the one it gets; `removed_to` is the newest
        removal that the snapshot knows.
        """
        with self._lock:
            if self._file is not None or self._is_gone:
                return False
            listed = np.array(source.listed(0), np.int64).reshape(-1, 2)
            keys, lengths = listed[:, 0], listed[:, 1].astype(np.int32)
            file = VectorFile.open(self._path, self.width, stamps[0])
            held = np.zeros(0, np.int64) if file is None else file.keys().copy()
            beyond = int(np.searchsorted(keys, held[-1], "right")) if len(held) else 0
            # Keys grow, so a row that the file passed over is of another past.
            if file is not None and not np.isin(keys[:beyond], held).all():
                file, held, beyond = None, held[:0], 0
            is_new = file is None
            if file is None:
                file = self._made(2 * len(keys), stamps[1])
            else:
                file.stamp(stamps[1])
            is_alive = np.isin(held, keys[:beyond])
            held_lengths = np.zeros(len(held), np.int32)
            held_lengths[is_alive] = lengths[:beyond]
            self._keys = Growing("<i8", np.concatenate([held, keys[beyond:]]))
            self._lengths = Growing("<i4", np.concatenate([held_lengths, lengths[beyond:]]))
            self._alive = Growing("?", np.concatenate([is_alive, np.ones(len(keys) - beyond, "?")]))
            self._dead = len(held) - int(np.count_nonzero(is_alive))
            self._removed_to, self._version = removed_to, version
            self._file = file
            return is_new

    def scope(self, source: RowSource, version: int) -> Scope | None:
        """The rows of the reader's snapshot, which is at `version`; the view follows up to there.

        None where the view is not open. Raises Overtaken where it is beyond: a document that was
        replaced since would be neither among the rows that live nor among those the snapshot has.
        """
        with self._lock:
            file = self._file
            if file is None:
                return None
            if self._version > version:
                raise Overtaken
            if self._version < version:
                self._follow(source)
                self._version = version
            keys = self._keys.now
            count, mapped = len(keys), min(len(keys), file.count)
            alive = self._alive.now[:count]
            alive_count = int(np.count_nonzero(alive))
            return Scope(
                keys,
                alive,
                self._lengths.now[:count],
                file.rows(mapped),
                None if alive_count == count else self._alive_bits(mapped),
                alive_count,
                self._columns,
                self._postings,
            )

    def map_some(self, source: RowSource, scope: Scope) -> bool:
        """Give the file some of the scope's rows that it lacks; whether it lacks more."""
        with self._lock:
            file = self._file
            if file is None:
                return False
            first = file.count
            last = min(len(scope), first + APPENDED_AT_ONCE, file.capacity)
            if scope.columns is not self._columns or (first >= last and last < len(scope)):
                return True
            if first >= last:
                return False
            keys = scope.keys[first:last]
            # What is not found went meanwhile: its place is kept, so that rows agree.
            vectors = np.zeros((len(keys), self.width), np.float32)
            found = source.vectors(int(keys[0]) - 1, len(keys))
            if found:
                names, read = as_matrix(found)
                within = names <= keys[-1]
                vectors[np.searchsorted(keys, names[within])] = read[within]
            try:
                file.append(keys, vectors)
            except OSError as error:
                log.warning("%s takes no more; searches read the database: %s", file.path, error)
                return False
            return last < len(scope)

    def remake(self) -> None:
        """Put another file in place of one that is full, or has many dead rows.

        Scans, and searches that begin meanwhile, use the old one. Raises OSError.
        """
        with self._remaking:
            with self._lock:
                file, alive = self._file, self._alive.now
                if file is None or not (self.is_full or self.is_sparse):
                    return
                count, total = file.count, len(alive)
            chosen = np.flatnonzero(alive[:count])
            path = self._path.with_suffix(".new")
            made = VectorFile.create(path, self.width, 2 * (total - self._dead), file.stamped)
            file.copy_to(made, chosen)
            with self._lock:
                if self._is_gone or self._file is not file:
                    path.unlink()
                    return
                rest = np.arange(count, self._keys.count)
                self._choose(np.concatenate([chosen, rest]))
                path.replace(self._path)
                made.path = self._path
                self._file = made

    def passing(
        self,
        source: RowSource,
        scope: Scope,
        where: Sequence[Condition],
        declared: frozenset[tuple[str, ...]],
    ) -> NDArray[np.bool_]:
        """Which rows of a scope pass every condition, dead ones among them.

        Raises Invalid for a path that is not `declared` and where no row has anything.
        """
        result = np.ones(len(scope), np.bool_)
        for condition in where:
            column = self._column(source, scope, condition.path)
            if column.is_empty and len(scope) and condition.path not in declared:
                raise unknown_field(condition)
            with self._lock:
                result &= column.passes(condition, len(scope))
        return result

    def discard(self) -> None:
        """The index is gone: remove the file. Searches under way keep it until they end."""
        with self._lock:
            self._is_gone = True
            self._path.unlink(missing_ok=True)

    def release(self) -> None:
        """Close the file and forget the rows, until it is opened again."""
        with self._lock:
            self._clear()

    def close(self) -> None:
        """Have the system write the file."""
        with self._lock:
            if self._file is not None:
                self._file.flush()

    # ── Under the lock ─────────────────────────────────────────────────────────────────────────

    def _made(self, capacity: int, stamp: bytes) -> VectorFile:
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            return VectorFile.create(self._path, self.width, capacity, stamp)
        except OSError as error:
            log.warning("%s can't be made; searches read the database: %s", self._path, error)
            return VectorFile.without_disk(self._path, self.width, stamp)

    def _follow(self, source: RowSource) -> None:
        last = int(self._keys.now[-1]) if self._keys.count else 0
        listed = np.array(source.listed(last), np.int64).reshape(-1, 2)
        self._keys.extend(listed[:, 0])
        self._lengths.extend(listed[:, 1])
        self._alive.extend(np.ones(len(listed), "?"))
        removed = source.removed(self._removed_to)
        if not removed:
            return
        numbers, keys = np.array(removed, np.int64).T
        self._removed_to = int(numbers[-1])
        rows = np.searchsorted(self._keys.now, keys)
        rows = rows[rows < self._keys.count]
        rows = rows[np.isin(self._keys.now[rows], keys)]
        # A copy: searches that are under way keep theirs.
        alive = self._alive.now.copy()
        alive[rows] = False
        self._alive = Growing("?", alive)
        self._dead = len(alive) - int(np.count_nonzero(alive))

    def _alive_bits(self, mapped: int) -> NDArray[np.uint8]:
        known = self._packed
        if known is None or known[0] != mapped or known[1] is not self._alive:
            bits = np.packbits(self._alive.now[:mapped], bitorder="little")
            known = self._packed = mapped, self._alive, bits
        return known[2]

    def _choose(self, rows: NDArray[np.int64]) -> None:
        """Drop all rows but these. Scopes that were taken keep theirs."""
        self._keys = Growing("<i8", self._keys.now[rows])
        self._lengths = Growing("<i4", self._lengths.now[rows])
        self._alive = Growing("?", self._alive.now[rows])
        self._dead = len(rows) - int(np.count_nonzero(self._alive.now))
        self._columns = {
            path: column.chosen(rows[rows < len(column)]) for path, column in self._columns.items()
        }
        self._postings = Postings()

    # ── Beside it ──────────────────────────────────────────────────────────────────────────────

    def _column(self, source: RowSource, scope: Scope, path: tuple[str, ...]) -> Column:
        """A path's column with at least the scope's rows."""
        with self._lock:
            column = scope.columns.get(path)
            if column is None:
                column = Column()
            known = len(column)
            if known and known >= len(scope):
                return column
        # Read without the lock: the first look at a path reads every row.
        after = int(scope.keys[known - 1]) if known else 0
        values = dict(source.metadata(path, after))
        texts = [values.get(key) for key in scope.keys[known:].tolist()]
        with self._lock:
            now = scope.columns.setdefault(path, column)
            if len(now) < len(scope):
                now.extend(texts[len(now) - known :])
            return now
