"""`monolite model …` with a GGUF file."""

from __future__ import annotations

from pathlib import Path

from tests.models.gguf_files import small_file
from tests.server_process import monolite


def run(data: Path, *arguments: str | Path) -> str:
    done = monolite("model", *arguments, "--data", data)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def test_a_language_model_is_added_listed_measured_and_removed(tmp_path: Path) -> None:
    data, path = tmp_path / "data", small_file(tmp_path / "small.gguf", "qwen2")
    assert "small" in run(data, "add", path)
    assert "\nsmall " in run(data, "list")
    measured = run(data, "bench", "small")
    assert "prompt of 128 tokens" in measured
    assert "a token behind 128" in measured
    run(data, "remove", "small")
    assert "\nsmall " not in run(data, "list")
    assert path.exists()
    for command in ("remove", "bench"):
        gone = monolite("model", command, "small", "--data", data)
        assert gone.returncode != 0
        assert b"small" in gone.stderr
