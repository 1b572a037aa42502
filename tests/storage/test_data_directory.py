from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from monolite.storage.data_directory import DataDirectory, write_private
from monolite.storage.disk import disk_space
from monolite.storage.errors import DataDirectoryInUse, StorageError, StorageReadOnly

HOLD = (
    "import sys, pathlib, time; from monolite.storage.data_directory import DataDirectory;"
    "lock = DataDirectory(pathlib.Path(sys.argv[1])).lock(); print('held', flush=True);"
    "time.sleep(60)"
)


def test_a_second_process_is_refused_and_told_which_one_holds_it(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(DataDirectoryInUse, match=str(holder.pid)):
            DataDirectory(tmp_path).lock()
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.communicate()
    # The kernel gives a killed process's lock back.
    with DataDirectory(tmp_path).lock():
        assert (tmp_path / "monolite.lock").read_text() == f"{os.getpid()}\n"


def test_a_missing_directory_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    directory = DataDirectory(tmp_path / "a" / "b")
    directory.prepare()
    assert directory.path.stat().st_mode & 0o777 == 0o700
    assert list(directory.path.iterdir()) == []


def test_a_path_below_a_file_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="file/data"):
        DataDirectory(tmp_path / "file" / "data").prepare()


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a /proc, where nobody may write")
def test_a_directory_where_nothing_can_be_made_is_refused() -> None:
    # /proc refuses root too, which a mode of 0500 doesn't.
    with pytest.raises(StorageError, match="/proc"):
        DataDirectory(Path("/proc/self")).prepare()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_directory_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(StorageReadOnly, match="chown"):
        DataDirectory(tmp_path).prepare()


def test_a_private_file_is_replaced_whole_and_readable_by_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "operator.key"
    write_private(path, b"one")
    write_private(path, b"two")
    assert path.read_bytes() == b"two"
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_the_volume_tells_its_space(tmp_path: Path) -> None:
    space = disk_space(tmp_path)
    assert 0 < space.free_bytes <= space.total_bytes
    assert not space.is_enough(space.total_bytes + 1)
