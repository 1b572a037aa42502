"""The writer against a dictionary, and against kill -9."""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import apsw
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from monolite.storage.sqlite import integrity
from monolite.storage.sqlite.connection import open_reader, open_writer
from monolite.storage.sqlite.writer import Writer

keys = st.integers(0, 9)
write = st.tuples(
    keys, st.text(max_size=5), st.booleans(), st.sampled_from(["", "atomic", "prompt", "both"])
)


class Refused(Exception):
    pass


class WriterAgainstDictionary(RuleBasedStateMachine):
    commit_on_loop = False

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.path = Path(self.directory.name) / "model.db"
        self.loop = asyncio.new_event_loop()
        self.writer = Writer(
            self._opened, loop=self.loop, batch_count_max=4, commit_on_loop=self.commit_on_loop
        )
        self.writer.start()
        self.model: dict[int, str] = {}

    def _opened(self) -> apsw.Connection:
        connection = open_writer(self.path, synchronous="normal", autocheckpoint=True)
        connection.execute("CREATE TABLE pairs (key INTEGER PRIMARY KEY, value TEXT) STRICT")
        return connection

    @rule(writes=st.lists(write, max_size=12))
    def write_many(self, writes: list[tuple[int, str, bool, str]]) -> None:
        def work(key: int, value: str, fails: bool, kind: str) -> object:
            is_atomic, is_prompt = kind in ("atomic", "both"), kind in ("prompt", "both")

            def run(connection: apsw.Connection) -> str | None:
                before = connection.execute("SELECT value FROM pairs WHERE key = ?", (key,))
                found = before.fetchone()
                if fails and is_atomic:
                    raise Refused
                connection.execute("INSERT OR REPLACE INTO pairs VALUES (?, ?)", (key, value))
                if fails:
                    raise Refused
                return str(found[0]) if found else None

            return self.writer.submit(run, is_atomic=is_atomic, is_prompt=is_prompt)

        async def main() -> list[object]:
            futures = [work(*one) for one in writes]
            return await asyncio.gather(*futures, return_exceptions=True)  # type: ignore[call-overload, no-any-return]

        for (key, value, fails, _), outcome in zip(
            writes, self.loop.run_until_complete(main()), strict=True
        ):
            if fails:
                assert isinstance(outcome, Refused)
            else:
                assert outcome == self.model.get(key)
                self.model[key] = value

    @invariant()
    def what_is_stored_is_what_was_acknowledged(self) -> None:
        reader = open_reader(self.path)
        stored = {int(key): str(value) for key, value in reader.execute("SELECT * FROM pairs")}
        assert stored == self.model
        reader.close()

    def teardown(self) -> None:
        self.loop.run_until_complete(self.writer.close())
        self.loop.close()
        self.directory.cleanup()


TestWriterAgainstDictionary = WriterAgainstDictionary.TestCase
TestWriterAgainstDictionary.settings = settings(
    max_examples=25, stateful_step_count=10, deadline=None
)


class CommittingOnLoop(WriterAgainstDictionary):
    commit_on_loop = True


TestCommittingOnLoop = CommittingOnLoop.TestCase
TestCommittingOnLoop.settings = TestWriterAgainstDictionary.settings

ACKNOWLEDGING = """
import asyncio, os, pathlib, sys
from monolite.storage.sqlite.connection import open_writer
from monolite.storage.sqlite.writer import Writer

async def main():
    def opened():
        c = open_writer(pathlib.Path(sys.argv[1]), synchronous="full", autocheckpoint=True)
        c.execute("CREATE TABLE IF NOT EXISTS pairs (key INTEGER PRIMARY KEY) STRICT")
        return c
    writer = Writer(opened, loop=asyncio.get_running_loop())
    writer.start()
    def insert(c):
        c.execute("INSERT INTO pairs DEFAULT VALUES")
        return c.last_insert_rowid()
    async def client():
        while True:
            os.write(1, b"%d\\n" % await writer.submit(insert))
    await asyncio.gather(*(client() for _ in range(16)))

asyncio.run(main())
"""


@pytest.mark.parametrize("seed", range(4))
def test_a_killed_process_loses_nothing_it_acknowledged(tmp_path: Path, seed: int) -> None:
    path, told = tmp_path / "killed.db", tmp_path / "acknowledged"
    with told.open("wb") as out:
        child = subprocess.Popen([sys.executable, "-c", ACKNOWLEDGING, str(path)], stdout=out)
        while told.stat().st_size == 0 and child.poll() is None:
            time.sleep(0.01)
        time.sleep(random.Random(seed).uniform(0.01, 0.3))
        child.send_signal(signal.SIGKILL)
        child.wait()
    # A line cut off by the kill was not told.
    acknowledged = {int(line) for line in told.read_bytes().split(b"\n")[:-1]}
    integrity.check(path)
    reader = open_reader(path)
    stored = {int(row[0]) for row in reader.execute("SELECT key FROM pairs")}
    reader.close()
    assert len(acknowledged) > 0
    assert acknowledged <= stored
