"""The library's threads, and what happens without it."""

from __future__ import annotations

import logging
import os
import resource
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from monolite import kernels
from monolite.kernels import native
from monolite.kernels.arrays import Rows

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def as_before():
    yield
    kernels.configure()


def rows(count: int = 20_000, width: int = 128) -> tuple[Rows, np.ndarray]:
    x = np.random.default_rng(3).normal(size=(count, width)).astype(np.float32)
    codes, scale = kernels.quantize(x)
    return Rows(width, codes, scale), x


def test_callers_at_once_get_what_each_gets_alone() -> None:
    kernels.configure(threads=4)
    haystack, x = rows()
    expected = [kernels.search(haystack, x[i], 5)[0].tolist() for i in range(8)]
    wrong: list[int] = []

    def ask(i: int) -> None:
        for _ in range(30):
            if kernels.search(haystack, x[i], 5)[0].tolist() != expected[i]:
                wrong.append(i)

    callers = [threading.Thread(target=ask, args=(i,)) for i in range(8)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert wrong == []


def test_child_of_a_fork_computes_too() -> None:
    kernels.configure(threads=3)
    haystack, x = rows()
    expected = kernels.search(haystack, x[1], 5)[0].tolist()
    script = f"""
import os, sys
sys.path.insert(0, {str(ROOT)!r})
import numpy as np
from monolite import kernels
from monolite.kernels.arrays import Rows
kernels.configure(threads=3)
x = np.random.default_rng(3).normal(size=(20000, 128)).astype(np.float32)
codes, scale = kernels.quantize(x)
ask = lambda: kernels.search(Rows(128, codes, scale), x[1], 5)[0].tolist()
ask()
child = os.fork()
if child == 0:
    os._exit(0 if ask() == {expected!r} else 1)
print(os.waitpid(child, 0)[1], ask() == {expected!r})
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "0 True\n"


def test_idle_pool_uses_no_processor() -> None:
    kernels.configure(threads=4)
    haystack, x = rows()
    kernels.search(haystack, x[0], 5)
    time.sleep(0.1)  # helpers spin for a moment before they sleep
    before = resource.getrusage(resource.RUSAGE_SELF)
    time.sleep(0.5)
    after = resource.getrusage(resource.RUSAGE_SELF)
    used_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert used_s < 0.25


def test_missing_library_is_said_once_and_numpy_answers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    haystack, x = rows(1000, 20)
    expected = kernels.search(haystack, x[0], 5)
    monkeypatch.setattr(native.load, "__defaults__", (tmp_path / "libkernels.so",))
    with caplog.at_level(logging.WARNING):
        described = kernels.configure()
    assert described.variant == "numpy"
    assert described.reason is not None
    found, scores = kernels.search(haystack, x[0], 5)
    assert found.tolist() == expected[0].tolist()
    np.testing.assert_allclose(scores, expected[1], rtol=1e-6)
    assert [record.message for record in caplog.records] == [described.reason]


def test_library_that_is_none_is_told_from_a_missing_one(tmp_path: Path) -> None:
    broken = tmp_path / "libkernels.so"
    broken.write_bytes(b"\x7fELF" + bytes(100))
    with pytest.raises(OSError):
        native.load(broken)


def test_library_of_other_sources_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "ABI", 0)
    with pytest.raises(OSError, match="make setup"):
        native.load()


def test_variant_that_cannot_run_is_refused_with_those_that_can() -> None:
    with pytest.raises(kernels.NoSuchVariant, match="portable, numpy"):
        kernels.configure("neon" if os.uname().machine == "x86_64" else "avx2")


def test_numpy_can_be_asked_for() -> None:
    assert kernels.configure("numpy") == kernels.Description("numpy", 1)
