"""Where a setting comes from, and that a secret is never shown."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from monolite.logs import JsonLines, redacted
from monolite.settings import REDACTED, BadSetting, load


def test_flags_win_over_environment_over_files_over_toml_over_defaults(tmp_path: Path) -> None:
    file = tmp_path / "synchronous"
    file.write_text("full\n")
    toml = tmp_path / "monolite.toml"
    flags: dict[str, str | None] = {"data": str(tmp_path)}
    assert load(flags, {}).synchronous == "normal"
    toml.write_text('synchronous = "full"')
    assert load(flags, {}).synchronous == "full"
    toml.write_text('synchronous = "normal"')
    environment = {"MONOLITE_SYNCHRONOUS_FILE": str(file)}
    assert load(flags, environment).synchronous == "full"
    environment["MONOLITE_SYNCHRONOUS"] = "normal"
    assert load(flags, environment).synchronous == "normal"
    assert load({**flags, "synchronous": "full"}, environment).synchronous == "full"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MONOLITE_LISTEN", "x"),
        ("MONOLITE_LISTEN", "h:99999"),
        ("MONOLITE_SYNCHRONOUS", "off"),
        ("MONOLITE_RATE_LIMIT", "0"),
        ("MONOLITE_DRAIN_S", "nan"),
        ("MONOLITE_WRITE_QUEUE", "-1"),
        ("MONOLITE_LOG_REQUESTS", "perhaps"),
        ("MONOLITE_ROOT_SECRET_FILE", "/nowhere/at/all"),
    ],
)
def test_a_bad_value_is_refused_by_its_name(tmp_path: Path, name: str, value: str) -> None:
    with pytest.raises(BadSetting, match=name):
        load({"data": str(tmp_path)}, {name: value})


def test_an_unknown_name_in_the_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "monolite.toml").write_text("sinchronous = 'full'")
    with pytest.raises(BadSetting, match="sinchronous"):
        load({"data": str(tmp_path)}, {})


def test_a_secret_is_neither_described_nor_in_the_repr(tmp_path: Path) -> None:
    given = {"MONOLITE_ROOT_SECRET": "hidden-1", "AWS_SECRET_ACCESS_KEY": "hidden-2"}
    settings = load({"data": str(tmp_path)}, given)
    rows = {name: value for name, value, _ in settings.described()}
    assert rows["MONOLITE_ROOT_SECRET"] == rows["AWS_SECRET_ACCESS_KEY"] == REDACTED
    assert "hidden" not in repr(settings) + str(rows)


def test_a_log_line_holds_no_secret_wherever_it_turns_up() -> None:
    key = "mk_" + "a" * 16 + "_" + "S" * 38
    token = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ4In0.c2lnbmF0dXJl"
    root = "mrs_" + "b" * 64
    record = logging.makeLogRecord(
        {"msg": f"key {key}", "levelname": "INFO", "path": f"/v1/{token}", "more": {"x": [root]}}
    )
    line = JsonLines().format(record)
    assert "S" * 38 not in line
    assert "c2lnbmF0dXJl" not in line
    assert "b" * 64 not in line
    assert "mk_" + "a" * 16 in line, "the id still names the key"
    assert "Bearer" not in redacted("Authorization: Bearer-thing")
