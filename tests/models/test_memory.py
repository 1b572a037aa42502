"""What memory is free, and models that it is too little for."""

from __future__ import annotations

from pathlib import Path

import pytest

from monolite.models.language_models import LanguageModels, TooLarge
from monolite.models.memory import free_bytes
from tests.models.gguf_files import small_file


def written(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


def test_the_tightest_bound_counts(tmp_path: Path) -> None:
    group = "sys/fs/cgroup/app"
    root = written(
        tmp_path,
        {
            "proc/meminfo": "MemTotal: 9000 kB\nMemAvailable:   8000 kB\n",
            "proc/self/cgroup": "0::/app/web\n",
            f"{group}/memory.max": "5000000\n",
            f"{group}/memory.current": "3000000\n",
            f"{group}/memory.stat": "anon 1\ninactive_file 500000\n",
            f"{group}/web/memory.max": "max\n",
            f"{group}/web/memory.current": "2000000\n",
        },
    )
    assert free_bytes(root) == 2_500_000
    (root / group / "memory.max").write_text("max")
    assert free_bytes(root) == 8000 << 10


def test_cgroups_of_the_first_version_count(tmp_path: Path) -> None:
    root = written(
        tmp_path,
        {
            "proc/self/cgroup": "4:memory:/box\n0::/\n",
            "sys/fs/cgroup/memory/box/memory.limit_in_bytes": "1000",
            "sys/fs/cgroup/memory/box/memory.usage_in_bytes": "1500",
        },
    )
    assert free_bytes(root) == 0


def test_a_machine_that_says_nothing_bounds_nothing(tmp_path: Path) -> None:
    assert free_bytes(tmp_path) is None


def test_a_model_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    small_file(tmp_path / "small.gguf", "llama")
    free: int | None = 1 << 20
    models = LanguageModels(
        [tmp_path], context_tokens=64, kv_bytes_max=1 << 20, memory_bytes=lambda: free
    )
    with pytest.raises(TooLarge, match="1 MiB are free"):
        models.open("small")
    free = None
    assert models.open("small").name == "small"
    free = 1 << 30
    assert models.open("small").name == "small"
