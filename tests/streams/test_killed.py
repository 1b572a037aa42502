"""kill -9 in the middle of append, read, ack and claim; `make soak ARGS=--streams` for longer."""

from __future__ import annotations

from pathlib import Path

from tests.streams.killed import survive
from tests.valkey_server import running_valkey


def test_nothing_answered_is_lost_and_no_effect_is_doubled(tmp_path: Path) -> None:
    load = survive(tmp_path / "data", 1, 5)
    assert len(load.appended) > 100


def test_the_same_in_valkey_which_is_killed_too(tmp_path: Path) -> None:
    with running_valkey() as valkey:

        def kill() -> None:
            valkey.kill()
            valkey.start()

        settings = {"MONOLITE_STREAMS_URL": valkey.new_url()}
        load = survive(tmp_path / "data", 2, 3, settings=settings, kill_store=kill)
    assert len(load.appended) > 100
