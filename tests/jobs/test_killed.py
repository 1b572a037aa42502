"""A short run of what `make soak ARGS=--jobs` does for long."""

from __future__ import annotations

from pathlib import Path

from tests.jobs.killed import survive


def test_every_answered_job_is_done_and_its_effect_made_once_whatever_is_killed(
    tmp_path: Path,
) -> None:
    ledger = survive(tmp_path / "data", seed=11, kills=6)
    assert ledger.added
    assert min(ledger.kills.values()) > 0
