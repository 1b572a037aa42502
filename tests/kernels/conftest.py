from __future__ import annotations

from collections.abc import Iterator

import pytest

from monolite import kernels
from monolite.kernels import native

RUNNABLE = native.load().runnable()


@pytest.fixture(params=[(name, count) for name in RUNNABLE for count in (1, 3)], ids=str)
def variant(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each variant that this machine runs, alone and with helpers."""
    name, threads = request.param
    kernels.configure(name, threads=threads)
    yield name
    kernels.configure()
