"""What serving asks of a language model that decodes: sequences that share each pass over the
weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

from monolite.errors import Unavailable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from monolite.kernels.adapters import Adapter
    from monolite.models.adapters import ReadAdapter

CacheType = Literal["f32", "int8", "int4"]
"""How keys are kept; values are int8 beside int8 and int4. `int4` takes three quarters of `int8`.
`f32` keeps both as floats, and computes as exactly as the weights allow, at twice the work.
"""

Want = Literal["none", "last", "all"]


class CacheFull(Unavailable):
    """The keys and values of another token have no room within the budget."""

    code = "kv_cache_full"


class Opened(NamedTuple):
    """A sequence, and how many tokens of the prefix it holds already."""

    sequence: int
    reused: int


@dataclass(frozen=True, slots=True)
class Span:
    """Tokens to append to a sequence, and for which of them logits are wanted."""

    sequence: int
    tokens: Sequence[int]
    want: Want = "last"
    adapter: Adapter | None = None


class Vocabulary(Protocol):
    """Texts to token ids and back."""

    size: int
    ending: frozenset[int]
    """Tokens that end an answer."""
    special: frozenset[int]
    """Tokens that stand for no text."""
    chat_template: str | None
    bos_token: str
    eos_token: str

    def encode(self, text: str) -> list[int]:
        """A text's tokens; names of special tokens in it are those tokens."""
        ...

    def token_bytes(self, token: int) -> bytes:
        """What a token adds to the text, in UTF-8; a piece of a character perhaps, or nothing."""
        ...


class Decoder(Protocol):
    """A language model, used by one thread at a time."""

    name: str
    context_tokens: int

    @property
    def vocabulary(self) -> Vocabulary:
        """Texts to its tokens and back."""
        ...

    @property
    def digest(self) -> str:
        """SHA-256 of its file, in hexadecimal; the first look at it reads the file."""
        ...

    def read_adapter(self, name: str, content: bytes) -> ReadAdapter:
        """A LoRA adapter in GGUF, for spans of this model. May be called from any thread.

        Raises:
            BadGguf: it is none, or not for this model.
        """
        ...

    def open_sequence(self, prefix: Sequence[int], *, cache: CacheType, scope: bytes) -> Opened:
        """Begin a sequence. It takes over what a kept sequence of the same scope and cache has in
        common with `prefix`, whose last token is always left to compute.
        """
        ...

    def forward(self, spans: Sequence[Span]) -> list[NDArray[np.float32]]:
        """Append all spans in one pass; logits float32 [0, 1 or len(tokens), vocabulary] of each.

        Raises:
            CacheFull: there is no room; nothing was appended.
        """
        ...

    def length(self, sequence: int) -> int:
        """How many tokens it holds."""
        ...

    def rollback(self, sequence: int, length: int) -> None:
        """Drop the tokens from `length` on."""
        ...

    def close(self, sequence: int, *, keep: bool) -> None:
        """End a sequence; one that is kept may be taken over until its room is wanted."""
        ...

    def kv_bytes(self, sequence: int) -> int:
        """What its keys and values take."""
        ...
