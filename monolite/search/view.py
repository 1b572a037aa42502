"""An index as it is searched: its mapped file, its tombstones, its columns, its recall.

A view follows the rows of the database up to the version that a reader sees. It is made of them
when it is first needed, and again where its file can't be trusted.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from monolite import kernels
from monolite.kernels.arrays import Rows
from monolite.search.columns import Column, passing
from monolite.search.index import Condition, Extent, Recall
from monolite.search.vector_file import VectorFile
from monolite.search.vectors import from_bytes

EXACT_ROWS_MAX = 20_000
"""Up to so many rows may pass before signs are looked at first."""

CANDIDATES_MIN = 3000
APPENDED_AT_ONCE = 2000
RECALL_EVERY = 64
"""One in so many prefiltered searches is compared with an exact one."""

_COMPACT_ROWS_MIN = 1000


class RowSource(Protocol):
    """The rows of one index, as a reader sees them."""

    def keys(self) -> Sequence[int]:
        """All keys, ascending."""
        ...

    def vectors(self, after: int, limit: int) -> Sequence[tuple[int, bytes]]:
        """Keys and vectors beyond a key, ascending."""
        ...

    def removed(self, after: int) -> Sequence[tuple[int, int]]:
        """Removals beyond a number: (number, key)."""
        ...

    def metadata(self, path: tuple[str, ...], after: int) -> Iterator[tuple[int, str | None]]:
        """Keys beyond a key, ascending, with the JSON text of their metadata at a path."""
        ...

    def vector(self, key: int) -> bytes | None:
        """One row's vector; None where it is gone."""
        ...


@dataclass(frozen=True)
class Ranked:
    """Keys, best first, with their scores."""

    keys: NDArray[np.int64]
    scores: NDArray[np.float32]


class View:
    """One index's. `follow` and `rank` may be called from any thread."""

    def __init__(self, path: Path, width: int) -> None:
        self._path = path
        self._width = width
        self._file: VectorFile | None = None
        self._alive = np.zeros(0, np.bool_)
        self._columns: dict[tuple[str, ...], Column] = {}
        self._lock = threading.Lock()
        self.removed_to = 0
        self._ranked = 0
        self._recall_sum, self._recall_samples = 0.0, 0
        self.version = -1

    @property
    def is_open(self) -> bool:
        """Whether the file was compared with the rows already."""
        return self._file is not None

    def open(self, source: RowSource, stamps: tuple[bytes, bytes], removed_to: int) -> None:
        """Open the file and compare it with the rows, or begin an empty one.

        `stamps` are the one that the file must have and the one it gets.
        """
        with self._lock:
            if self._file is not None:
                return
            keys = np.array(source.keys(), np.int64)
            file = VectorFile.open(self._path, self._width, stamps[0])
            # Keys grow, so a row that the file passed over is of another past.
            if file is not None and file.count:
                held = file.keys()
                if not np.isin(keys[keys <= held[-1]], held).all():
                    file = None
            if file is None:
                self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                file = VectorFile.create(self._path, self._width, 2 * len(keys), stamps[1])
            else:
                file.stamp(stamps[1])
            self._alive = np.isin(file.keys(), keys)
            self.removed_to = removed_to
            self._file = file

    def behind(self, source: RowSource) -> bool:
        """Add some of the rows that are missing; whether more are."""
        with self._lock:
            file = self._opened()
            last = int(file.keys()[-1]) if file.count else 0
            found = source.vectors(last, APPENDED_AT_ONCE)
            if found:
                self._append(source, found, last)
            return len(found) == APPENDED_AT_ONCE

    def follow(self, source: RowSource, version: int) -> None:
        """Take the removals too: the view is then at `version`, that of the reader's snapshot."""
        with self._lock:
            if self.version >= version:
                return
            file = self._opened()
            for number, key in source.removed(self.removed_to):
                row = int(np.searchsorted(file.keys(), key))
                if row < file.count and file.keys()[row] == key:
                    self._alive[row] = False
                self.removed_to = number
            self.version = version
            dead = len(self._alive) - int(self._alive.sum())
            if dead > max(_COMPACT_ROWS_MIN, len(self._alive) // 4):
                self._rewrite(len(self._alive) - dead)

    def rank(
        self,
        source: RowSource,
        query: NDArray[np.float32],
        k: int,
        where: Sequence[Condition],
        exact: bool,
    ) -> Ranked:
        """The k nearest rows that pass, by float32 dot product. Raises Invalid."""
        allowed = self.passing(source, where)
        with self._lock:
            file = self._opened()
            bitmap = np.packbits(allowed[: file.count], bitorder="little")
            rows, keys = file.rows(bitmap), file.keys()
            self._ranked += 1
            measures = self._ranked % RECALL_EVERY == 0
        passing_count = int(allowed.sum())
        candidates = 0
        if not exact and passing_count > EXACT_ROWS_MAX:
            candidates = max(CANDIDATES_MIN, 20 * k, passing_count // 200)
        ranked = _rank(rows, keys, query, k, candidates, source.vector)
        if candidates and measures:
            best = _rank(rows, keys, query, k, 0, source.vector)
            self._count_recall(ranked, best)
        return ranked

    def passing(self, source: RowSource, where: Sequence[Condition]) -> NDArray[np.bool_]:
        """Which rows are alive and pass. Raises Invalid for a path that no row has."""
        with self._lock:
            file = self._opened()
            for condition in where:
                if condition.path not in self._columns:
                    column = self._columns[condition.path] = Column()
                    self._fill(column, condition.path, source, 0)
            return self._alive & passing(self._columns, where, file.count)

    def allows(self, allowed: NDArray[np.bool_]) -> Callable[[int], bool]:
        """Whether a key's row is among the allowed."""
        keys = self._opened().keys()

        def check(key: int) -> bool:
            row = int(np.searchsorted(keys, key))
            return row < len(allowed) and keys[row] == key and bool(allowed[row])

        return check

    def extent(self, source: RowSource) -> Extent:
        """How large the view is; measures its recall where no search has yet."""
        alive = int(self._alive.sum())
        if alive > EXACT_ROWS_MAX and not self._recall_samples:
            for row in np.flatnonzero(self._alive)[:: max(1, alive // 20)][:20]:
                vector = source.vector(int(self._opened().keys()[row]))
                if vector is not None:
                    near = self.rank(source, from_bytes(vector), 10, (), False)
                    self._count_recall(near, self.rank(source, from_bytes(vector), 10, (), True))
        recall = Recall(None, 0)
        if self._recall_samples:
            recall = Recall(self._recall_sum / self._recall_samples, self._recall_samples)
        prefilters = alive > EXACT_ROWS_MAX
        size = self._opened().bytes
        return Extent(alive, size, "prefiltered" if prefilters else "exact", recall)

    def close(self) -> None:
        """Have the system write the file."""
        with self._lock:
            if self._file is not None:
                self._file.flush()

    def _count_recall(self, ranked: Ranked, best: Ranked) -> None:
        if len(best.keys):
            self._recall_sum += float(np.isin(best.keys, ranked.keys).mean())
            self._recall_samples += 1

    def _opened(self) -> VectorFile:
        assert self._file is not None
        return self._file

    def _append(self, source: RowSource, found: Sequence[tuple[int, bytes]], last: int) -> None:
        file = self._opened()
        if file.count + len(found) > file.capacity:
            file = self._rewrite(2 * (file.count + len(found)))
        keys = np.array([key for key, _ in found], np.int64)
        vectors = np.frombuffer(b"".join(vector for _, vector in found), "<f4")
        file.append(keys, vectors.reshape(len(found), self._width))
        self._alive = np.concatenate([self._alive, np.ones(len(found), np.bool_)])
        for path, column in self._columns.items():
            self._fill(column, path, source, last)

    def _fill(self, column: Column, path: tuple[str, ...], source: RowSource, after: int) -> None:
        """Give a column the values of the rows beyond a key; rows that are gone have none."""
        values = dict(source.metadata(path, after))
        keys = self._opened().keys()
        column.extend(values.get(int(key)) for key in keys[np.searchsorted(keys, after, "right") :])

    def _rewrite(self, capacity: int) -> VectorFile:
        """Put a file without the dead rows in place of this one; scans keep the old mapping."""
        file = self._opened()
        chosen = np.flatnonzero(self._alive)
        path = self._path.with_suffix(".new")
        made = VectorFile.create(path, self._width, max(capacity, len(chosen)), file.stamped)
        file.copy_to(made, chosen)
        path.replace(self._path)
        made.path = self._path
        for column in self._columns.values():
            column.keep(chosen)
        self._alive = np.ones(len(chosen), np.bool_)
        self._file = made
        return made


def _rank(
    rows: Rows,
    keys: NDArray[np.int64],
    query: NDArray[np.float32],
    k: int,
    candidates: int,
    vector: Callable[[int], bytes | None],
) -> Ranked:
    """Signs, int8, then float32 for three times as many as are wanted."""
    near, _ = kernels.search(rows, query, max(3 * k, k + 20), candidates=candidates)
    found = [(int(key), vector(int(key))) for key in keys[near]]
    kept = [(key, blob) for key, blob in found if blob is not None]
    if not kept:
        return Ranked(np.zeros(0, np.int64), np.zeros(0, np.float32))
    kept_keys = np.array([key for key, _ in kept], np.int64)
    floats = np.frombuffer(b"".join(blob for _, blob in kept), "<f4").reshape(len(kept), -1)
    scores = kernels.dot(floats, query)
    best = np.lexsort((kept_keys, -scores))[:k]
    return Ranked(kept_keys[best], scores[best])
