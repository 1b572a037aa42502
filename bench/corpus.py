"""Texts that people wrote: docstrings of the standard library and of the packages installed.

Sources are parsed and never run. A sentence is a piece of a docstring's prose. The labelled set
asks with a docstring's first line for the rest of that docstring, among the rests of all others:
a title and its text, as an article and its headline are. Each query has one right answer, its own;
other docstrings may fit as well, which lowers every model's figure alike.
"""

from __future__ import annotations

import ast
import inspect
import random
import re
import sysconfig
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

T = TypeVar("T", str, tuple[str, str])

_PACKAGES = ("numpy", "hypothesis", "starlette", "httpx", "faiss", "onnx", "openai", "pip")
_QUERY_CHARACTERS = (20, 120)
_PASSAGE_CHARACTERS = (120, 4000)


@dataclass(frozen=True)
class Labelled:
    """`passages[i]` is the one right answer to `queries[i]`; the passages after are nobody's."""

    queries: list[str]
    passages: list[str]


def sentences(count: int, seed: int = 0) -> list[str]:
    """So many different sentences of 20 to 600 characters, drawn from a seed."""
    found: dict[str, None] = {}
    for docstring in _docstrings():
        for piece in re.split(r"(?<=[.!?])\s+|\n\s*\n", docstring):
            text = " ".join(piece.split())
            if 20 <= len(text) <= 600 and sum(c.isalpha() for c in text) > len(text) / 2:
                found[text] = None
    return _drawn(list(found), count, seed)


def labelled(query_count: int, passage_count: int, seed: int = 0) -> Labelled:
    """First lines and what follows them, drawn from a seed."""
    pairs: dict[str, str] = {}
    taken: set[str] = set()
    for docstring in _docstrings():
        first, _, rest = docstring.partition("\n\n")
        query, passage = " ".join(first.split()), " ".join(rest.split())
        fits = (
            _QUERY_CHARACTERS[0] <= len(query) <= _QUERY_CHARACTERS[1]
            and _PASSAGE_CHARACTERS[0] <= len(passage) <= _PASSAGE_CHARACTERS[1]
        )
        # A text that holds its own title, or stands twice, would be no question.
        if fits and query not in pairs and passage not in taken and query not in passage:
            pairs[query] = passage
            taken.add(passage)
    drawn = _drawn(list(pairs.items()), passage_count, seed)
    return Labelled([query for query, _ in drawn[:query_count]], [text for _, text in drawn])


def _drawn(found: list[T], count: int, seed: int) -> list[T]:
    if len(found) < count:
        raise ValueError(f"only {len(found)} texts were found, not {count}")
    return random.Random(seed).sample(sorted(found), count)


def _docstrings() -> Iterator[str]:
    for path in _sources():
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                tree = ast.parse(path.read_text())
        except (OSError, SyntaxError, UnicodeDecodeError):
            continue
        for node in ast.walk(tree):
            kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
            if isinstance(node, kinds) and (text := ast.get_docstring(node)):
                yield inspect.cleandoc(text)


def _sources() -> Iterator[Path]:
    library = Path(sysconfig.get_path("stdlib"))
    roots = [library, *(Path(sysconfig.get_path("purelib")) / name for name in _PACKAGES)]
    for root in roots:
        for path in sorted(root.rglob("*.py")):
            inside = path.relative_to(root).parts
            if not {"site-packages", "dist-packages", "test", "tests"} & set(inside):
                yield path
