"""What decoding must keep to: a grammar, or a schema that was made into one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Constraint(Protocol):
    """The state of one answer. Used by one thread at a time."""

    def mask(self) -> NDArray[np.bool_]:
        """Which tokens may come next, [vocabulary]; the ending ones exactly where it may end."""
        ...

    def accept(self, token: int) -> None:
        """A token was decoded; ValueError where it was not allowed."""
        ...

    def forced(self) -> Sequence[int]:
        """Tokens that must come next, as only they may; they need no decoding. Often none."""
        ...

    @property
    def must_end(self) -> bool:
        """Whether it is whole, and nothing may follow."""
        ...

    @property
    def may_end(self) -> bool:
        """Whether what was decoded is whole."""
        ...
