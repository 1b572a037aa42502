"""What is true of the files themselves: documented, small, named for what they hold."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

from monolite.cli.main import build_parser
from monolite.settings import Settings

ROOT = Path(__file__).parent.parent.parent
LINES_MAX = 600
VAGUE = {"utils", "util", "common", "helpers", "helper", "manager", "misc"}


def sources() -> list[Path]:
    folders = ("monolite", "tests", "bench", "packaging")
    return [file for folder in folders for file in (ROOT / folder).rglob("*.py")]


def prose() -> str:
    files = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    return "\n".join(file.read_text() for file in files if file.exists())


def codes() -> set[str]:
    """Every code a problem may carry, from where errors are declared and raised."""
    found = {"internal"}
    for file in (ROOT / "monolite").rglob("*.py"):
        text = file.read_text()
        found |= set(re.findall(r'\bcode(?:: ClassVar\[str\])? ?= ?"([a-z_]+)"', text))
    table = (ROOT / "monolite/web/errors.py").read_text()
    found |= set(re.findall(r'storage\.\w+: "([a-z_]+)"', table))
    return found - {"error"}


def commands() -> Iterator[str]:
    def below(parser: object, words: list[str]) -> Iterator[str]:
        groups = getattr(parser, "_subparsers", None)
        if groups is None:
            yield " ".join(words)
            return
        for action in groups._group_actions:
            for word, one in action.choices.items():
                yield from below(one, [*words, word])

    yield from below(build_parser(), [])


def test_every_setting_is_documented() -> None:
    text = prose()
    settings = [one.metadata["setting"].env for one in fields(Settings)]
    assert [name for name in settings if f"`{name}`" not in text] == []


def test_every_error_code_is_documented() -> None:
    found = codes()
    assert {"not_found", "write_queue_full", "idempotency_mismatch"} <= found
    text = prose()
    assert [code for code in sorted(found) if f"`{code}`" not in text] == []


def test_every_command_is_documented() -> None:
    text = prose()
    assert [command for command in commands() if command not in text] == []


def test_every_table_is_introduced_by_a_comment() -> None:
    lines = (ROOT / "schema.sql").read_text().splitlines()
    tables = [at for at, line in enumerate(lines) if line.startswith("CREATE TABLE")]
    assert tables
    bare = [lines[at] for at in tables if at and not lines[at - 1].startswith("--")]
    # A table that follows its section's other table at once shares its comment.
    assert [line for line in bare if "collections" not in line] == []


@pytest.mark.parametrize("file", sources(), ids=lambda file: str(file.relative_to(ROOT)))
def test_a_file_is_small_and_named_for_what_it_holds(file: Path) -> None:
    assert file.stem not in VAGUE
    assert file.read_text().count("\n") <= LINES_MAX


def test_the_repository_names_no_place_outside_it() -> None:
    # Spelled in two parts, so that this file is not found.
    outside = re.compile("/work/" + "main|/tmp/" + "w/|\\.\\./" + "shared")
    found = [
        f for f in [*sources(), *(ROOT / "docs").rglob("*.md")] if outside.search(f.read_text())
    ]
    assert found == []
