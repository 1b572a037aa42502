"""The headroom: what the machine says, and what decoding makes of it."""

from __future__ import annotations

from pathlib import Path

import httpx
from hypothesis import given
from hypothesis import strategies as st

from monolite.inference.headroom import (
    CALM,
    DUTY_LEAST,
    FULL,
    HeadroomReader,
    Pace,
    Shares,
    headroom,
    rest_s,
    threads,
)
from tests.server_process import ServerProcess

SHARE = st.floats(0, 1)


class Machine:
    """A root directory whose files say what a test wants."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.now_s = 0.0
        self.write("proc/self/cgroup", "0::/app/web\n")
        self.says()
        self.reader = HeadroomReader(lambda: self.now_s, root)

    def says(
        self,
        *,
        periods: int = 100,
        throttled: int = 0,
        busy: int = 1000,
        stolen: int = 0,
        waiting: float = 0.0,
        memory: float = 0.0,
    ) -> None:
        self.write("sys/fs/cgroup/app/cpu.stat", f"nr_periods {periods}\nnr_throttled {throttled}")
        self.write("proc/stat", f"cpu  {busy} 0 0 0 0 0 0 {stolen} 0 0\ncpu0 1 2 3\n")
        for name, share in (("cpu", waiting), ("memory", memory)):
            line = f"some avg10={100 * share:.2f} avg60=0.00 avg300=0.00 total=1\n"
            self.write(f"proc/pressure/{name}", line)

    def write(self, name: str, content: str) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)

    def later(self) -> float:
        self.now_s += 2.0
        return self.reader()


def test_a_calm_machine_is_left_whole(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    assert machine.reader() == 1.0
    machine.says(periods=200, busy=2000, waiting=CALM.waiting)
    assert machine.later() == 1.0


def test_each_of_four_uses_the_machine_up(tmp_path: Path) -> None:
    for name, said in {
        "throttled": {"periods": 200, "throttled": 100},
        "stolen": {"busy": 1500, "stolen": 500},
        "waiting": {"waiting": 1.0},
        "memory": {"memory": 0.5},
    }.items():
        machine = Machine(tmp_path / name)
        machine.says(**said)  # type: ignore[arg-type]
        assert machine.later() == 0.0, name
        assert getattr(machine.reader.shares, name) > 0


def test_what_was_counted_before_counts_no_more(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.says(periods=200, throttled=100)
    assert machine.later() == 0.0
    machine.says(periods=300, throttled=100)
    assert machine.later() == 1.0


def test_the_kernel_is_asked_once_a_second(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.later()
    machine.says(memory=1.0)
    machine.now_s += 0.5
    assert machine.reader() == 1.0
    machine.now_s += 0.5
    assert machine.reader() == 0.0


def test_a_machine_that_says_nothing_or_nonsense_is_calm(tmp_path: Path) -> None:
    assert HeadroomReader(lambda: 0.0, tmp_path)() == 1.0
    machine = Machine(tmp_path)
    machine.write("proc/stat", "cpu\n")
    machine.write("proc/pressure/cpu", "some avg10=nan avg10=x\nfull")
    machine.write("sys/fs/cgroup/app/cpu.stat", "nr_periods\nnr_throttled x\n")
    assert machine.later() == 1.0


def test_cgroups_of_the_first_version_are_read(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.write("proc/self/cgroup", "2:cpuacct,cpu:/box\n1:memory:/box\n0::/\n")
    machine.write("sys/fs/cgroup/cpu/box/cpu.stat", "nr_periods 0\nnr_throttled 0\n")
    reader = HeadroomReader(lambda: machine.now_s, tmp_path)
    machine.write("sys/fs/cgroup/cpu/box/cpu.stat", "nr_periods 10\nnr_throttled 10\n")
    assert reader() == 0.0


@given(shares=st.builds(Shares, SHARE, SHARE, SHARE, SHARE), more=SHARE, which=st.integers(0, 3))
def test_more_of_anything_leaves_no_more(shares: Shares, more: float, which: int) -> None:
    worse = list(shares)
    worse[which] = max(worse[which], more)
    assert 0 <= headroom(Shares(*worse)) <= headroom(shares) <= 1


@given(room=SHARE, cores=st.integers(1, 64), before=st.integers(1, 64))
def test_threads_follow_the_headroom(room: float, cores: int, before: int) -> None:
    count = threads(room, cores, min(before, cores))
    assert 1 <= count <= cores
    assert threads(1.0, cores, count) >= count
    assert threads(0.0, cores, count) == 1
    assert threads(room, cores, count) == count


def test_all_threads_come_back() -> None:
    assert [threads(1.0, cores, 1) for cores in (1, 2, 4, 64)] == [1, 2, 4, 64]


@given(room=SHARE, pass_s=st.floats(0, 10))
def test_the_rest_keeps_the_duty(room: float, pass_s: float) -> None:
    assert 0 <= rest_s(room, pass_s) <= pass_s * (1 - DUTY_LEAST) / DUTY_LEAST + 1e-9


def test_decoding_follows_and_gives_back_what_it_took() -> None:
    used: list[int] = []
    rests: list[float] = []
    room = 0.0
    pace = Pace(lambda: room, 2, used.append, rests.append)
    pace.passed(0.7)
    assert used == [1]
    assert rests == [0.7 * (1 - DUTY_LEAST) / DUTY_LEAST]
    room = 0.52
    pace.passed(0.7)
    assert used == [1]
    room = 1.0
    pace.passed(0.7)
    assert used == [1, 2]
    assert len(rests) == 1
    room = 0.0
    pace.passed(0.0)
    pace.idle()
    assert used == [1, 2, 1, 2]


def test_full_is_where_nothing_is_left() -> None:
    assert headroom(CALM) == 1.0
    assert headroom(FULL) == 0.0


def test_the_operator_sees_it(server: ServerProcess) -> None:
    with server.client(server.operator_key) as operator:
        assert 0 <= operator.get("/v1/operator/status").json()["headroom"] <= 1
    text = httpx.get(f"{server.url}/metrics").text
    [line] = [one for one in text.splitlines() if one.startswith("monolite_headroom ")]
    assert 0 <= float(line.split()[1]) <= 1
