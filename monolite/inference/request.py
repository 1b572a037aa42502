"""What is asked of a language model, and what comes of it: values."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

if TYPE_CHECKING:
    from monolite.inference.constraint import Constraint
    from monolite.kernels.adapters import Adapter
    from monolite.models.adapters import AdapterAbout
    from monolite.models.decoder import CacheType


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to choose; a temperature of 0 takes the likeliest always."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class Logprob:
    """A token's log probability, and the likeliest ones beside it."""

    token: int
    logprob: float
    top: Sequence[tuple[int, float]] = ()


class Fitted(NamedTuple):
    """An adapter, ready for the model of a request; `digest` is its file's."""

    name: str
    digest: str
    about: AdapterAbout
    weights: Adapter


Finish = Literal["stop", "length", "tool_calls", "content_filter"]


@dataclass(frozen=True, slots=True)
class Wish:
    """What to decode: token ids of the prompt, and how. `top_logprobs` None asks for none;
    `speculates` lets drafts be verified, which changes the time and not the answer.
    """

    prompt: Sequence[int]
    tokens_max: int
    sampling: Sampling = field(default_factory=Sampling)
    stops: Sequence[str] = ()
    cache: CacheType = "int8"
    scope: bytes = b""
    constraint: Constraint | None = None
    top_logprobs: int | None = None
    speculates: bool = True
    adapter: Fitted | None = None


@dataclass(frozen=True, slots=True)
class ToolPiece:
    """A part of a call that the model makes of a tool: its id and name come first, alone, and then
    its arguments, a JSON text, in pieces. `index` counts the calls of an answer.
    """

    index: int
    id: str = ""
    name: str = ""
    arguments: str = ""


@dataclass(frozen=True, slots=True)
class Piece:
    """Text that became certain, and the tokens since the piece before."""

    text: str
    logprobs: Sequence[Logprob] = ()
    tool: ToolPiece | None = None


@dataclass(frozen=True, slots=True)
class Ended:
    """How an answer ended, and what it took."""

    reason: Finish
    prompt_tokens: int
    reused_tokens: int
    completion_tokens: int
    kv_bytes: int
    draft_proposed: int = 0
    draft_accepted: int = 0
    adapter: str | None = None


Event = Piece | Ended


class Answering(Protocol):
    """An answer on its way, whoever makes it."""

    def events(self) -> AsyncIterator[Event]:
        """Pieces, and an Ended at last; raises what it failed with."""
        ...

    def cancel(self) -> None:
        """Nobody waits any more."""
        ...
