"""The llama family: a decoder of RMS norms, rotary positions, grouped queries and SwiGLU.

Touvron et al. 2023 (LLaMA), with grouped-query attention (Ainslie et al. 2023) and RoPE (Su et al.
2021). Qwen2's is the same with biases on queries, keys and values, and heads turned by halves::

    x ─► norm ─► q k v ─► rotate q, k ─► append k, v ─► attend ─► out ─► + x
      ─► norm ─► gate, up ─► silu(gate) up ─► down ─► + x

Queries and keys are turned by a Hadamard matrix after their positions, which changes no product of
the two and spreads the few large values of a key over all: eight bits lose next to nothing then,
and four a third of what they lost (QuaRot, Ashkboos et al. 2024).

T tokens of all spans go through each matrix together, so that it is read once for all sequences.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from monolite.kernels import decoder
from monolite.kernels.blocks import Blocks
from monolite.models import key_means
from monolite.models.adapters import ReadAdapter, read_adapter
from monolite.models.decoder import CacheType, Opened, Span
from monolite.models.gguf import BadGguf, Gguf
from monolite.models.gguf_types import as_blocks, dequantize, floats
from monolite.models.kv_cache import KvCache, Shape
from monolite.models.vocabulary import GgufVocabulary

F32 = NDArray[np.float32]

ARCHITECTURES = {"llama": True, "qwen2": False, "smollm2": True}
"""Whether a head's neighbouring values turn together, or those of its halves."""

LAYER_COUNT_MAX = 512


@dataclass(frozen=True)
class Dimensions:
    """What a file says of its model."""

    layers: int
    width: int
    hidden: int
    heads: int
    kv_heads: int
    head_width: int
    context: int
    epsilon: float
    rope_base: float

    @classmethod
    def read(cls, gguf: Gguf, architecture: str) -> Dimensions:
        """Raises BadGguf for what can't be."""

        def number(key: str, default: int | None = None) -> int:
            found: int = gguf.get(f"{architecture}.{key}", int, default)
            return found

        width, heads = number("embedding_length"), number("attention.head_count")
        kv_heads = number("attention.head_count_kv", heads)
        if heads < 1 or kv_heads < 1:
            raise _bad(gguf, f"it has {heads} heads, and {kv_heads} of keys")
        made = cls(
            layers=number("block_count"),
            width=width,
            hidden=number("feed_forward_length"),
            heads=heads,
            kv_heads=kv_heads,
            head_width=number("attention.key_length", width // heads),
            context=number("context_length"),
            epsilon=gguf.get(f"{architecture}.attention.layer_norm_rms_epsilon", float),
            rope_base=gguf.get(f"{architecture}.rope.freq_base", float, 10_000.0),
        )
        fits = (
            0 < made.layers <= LAYER_COUNT_MAX
            and 0 < width <= 65_536
            and 0 < made.hidden <= 262_144
            and width % 32 == 0
            and made.hidden % 32 == 0
            and made.head_width % 8 == 0
            and 0 < made.head_width <= 256
            and heads % kv_heads == 0
            and made.context > 0
            and made.epsilon > 0
            and made.rope_base > 1
        )
        if not fits:
            raise _bad(gguf, f"its dimensions don't fit: {made}")
        return made


class Llama:
    """One open model; see decoder.Decoder. `context_tokens` bounds a sequence, the model's own
    context at most; `kv_bytes_max` bounds the keys and values of all sequences in memory, and
    `spill_bytes_max` those in files in `spill`.
    """

    def __init__(
        self,
        gguf: Gguf,
        name: str,
        *,
        context_tokens: int,
        kv_bytes_max: int,
        spill: Path | None = None,
        spill_bytes_max: int = 0,
    ) -> None:
        architecture = gguf.get("general.architecture", str)
        if architecture not in ARCHITECTURES:
            known = ", ".join(ARCHITECTURES)
            raise _bad(gguf, f"it is a {architecture}; what is read is {known}")
        self.name = name
        self._architecture = architecture
        self.dimensions = d = Dimensions.read(gguf, architecture)
        self.context_tokens = min(d.context, context_tokens)
        self.vocabulary = GgufVocabulary(gguf)
        self._gguf = gguf
        self._embedding = gguf.tensor("token_embd.weight", (self.vocabulary.size, d.width))
        self._embedding_rows = gguf.raw(self._embedding)
        output = gguf.tensors.get("output.weight", self._embedding)
        if output.shape != self._embedding.shape:
            raise _bad(gguf, f"its output.weight is {output.shape}")
        self._model = decoder.Decoder(
            layers=[_layer(gguf, at, d) for at in range(d.layers)],
            norm=floats(gguf, gguf.tensor("output_norm.weight", (d.width,))),
            output=as_blocks(gguf, output, rows=-(-self.vocabulary.size // 16) * 16),
            heads=d.heads,
            kv_heads=d.kv_heads,
            head_width=d.head_width,
            epsilon=d.epsilon,
            neighbours=ARCHITECTURES[architecture],
            spread=True,
        )
        self._frequency = _frequency(gguf, d, architecture)
        self._has_key_means = False
        self._cache = KvCache(
            Shape(d.layers, d.kv_heads, d.head_width),
            self.context_tokens,
            kv_bytes_max,
            spill=spill,
            spill_bytes_max=spill_bytes_max,
        )

    @classmethod
    def open(
        cls,
        path: Path,
        name: str,
        *,
        context_tokens: int,
        kv_bytes_max: int,
        spill: Path | None = None,
        spill_bytes_max: int = 0,
    ) -> Llama:
        """Open a GGUF file. Raises BadGguf and OSError."""
        return cls(
            Gguf.open(path),
            name,
            context_tokens=context_tokens,
            kv_bytes_max=kv_bytes_max,
            spill=spill,
            spill_bytes_max=spill_bytes_max,
        )

    # ── Adapters ───────────────────────────────────────────────────────────────────────────────

    @cached_property
    def digest(self) -> str:
        """See decoder.Decoder.digest."""
        return self._gguf.digest()

    def read_adapter(self, name: str, content: bytes) -> ReadAdapter:
        """See decoder.Decoder.read_adapter."""
        return read_adapter(name, content, self._architecture, self._model)

    # ── Sequences ──────────────────────────────────────────────────────────────────────────────

    def open_sequence(self, prefix: Sequence[int], *, cache: CacheType, scope: bytes) -> Opened:
        """See decoder.Decoder.open_sequence."""
        if cache == "int4" and not self._has_key_means:
            tokens = self.vocabulary.encode(key_means.TEXT)
            turns = self._turns(np.arange(key_means.POSITIONS))
            self._model = key_means.with_key_means(self._model, self._embedded(tokens), *turns)
            self._has_key_means = True
        return self._cache.open(prefix, cache=cache, scope=scope)

    def length(self, sequence: int) -> int:
        """How many tokens it holds."""
        return len(self._cache[sequence].tokens)

    def rollback(self, sequence: int, length: int) -> None:
        """Drop the tokens from `length` on."""
        self._cache.rollback(sequence, length)

    def close(self, sequence: int, *, keep: bool) -> None:
        """End a sequence; one that is kept may be taken over."""
        self._cache.close(sequence, keep=keep)

    def kv_bytes(self, sequence: int) -> int:
        """What its keys and values take."""
        return self._cache[sequence].byte_count

    @property
    def kv_bytes_used(self) -> int:
        """What those of all sequences take."""
        return self._cache.byte_count

    # ── The pass ───────────────────────────────────────────────────────────────────────────────

    def forward(self, spans: Sequence[Span]) -> list[F32]:
        """See decoder.Decoder.forward."""
        self._cache.reserve([(span.sequence, len(span.tokens)) for span in spans])
        places, positions = [], []
        tokens: list[int] = []
        wanted: list[int] = []
        counts = []
        for span in spans:
            first, count = self.length(span.sequence), len(span.tokens)
            rows = range(len(tokens), len(tokens) + count)
            chosen = {"all": rows, "last": rows[-1:], "none": rows[:0]}[span.want]
            room = self._cache[span.sequence].room
            places.append(decoder.Span(room, first, count, span.adapter))
            positions.append(np.arange(first, first + count))
            tokens.extend(span.tokens)
            wanted.extend(chosen)
            counts.append(len(chosen))
        logits = decoder.decode(
            self._model,
            places,
            self._embedded(tokens),
            *self._turns(np.concatenate(positions)),
            np.array(wanted, np.int32),
        )[:, : self.vocabulary.size]
        for span in spans:
            self._cache[span.sequence].tokens.extend(span.tokens)
        return np.split(logits, np.cumsum(counts)[:-1])

    def _embedded(self, tokens: Sequence[int]) -> F32:
        return dequantize(self._embedding_rows[np.asarray(tokens)], self._embedding.type.name)

    def _turns(self, positions: NDArray[np.int64]) -> tuple[F32, F32]:
        """Cosine and sine [T, head width / 2] of positions."""
        angles = positions[:, None] * self._frequency
        return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def _layer(gguf: Gguf, at: int, d: Dimensions) -> decoder.Layer:
    def matrix(name: str, rows: int, columns: int) -> Blocks:
        made = as_blocks(gguf, gguf.tensor(f"blk.{at}.{name}.weight", (rows, columns)))
        bias = gguf.tensors.get(f"blk.{at}.{name}.bias")
        if bias is None:
            return made
        return Blocks(made.packed, made.bits, floats(gguf, gguf.tensor(bias.name, (rows,))))

    def norm(name: str) -> F32:
        return floats(gguf, gguf.tensor(f"blk.{at}.{name}.weight", (d.width,)))

    queries, keys = d.heads * d.head_width, d.kv_heads * d.head_width
    try:
        return decoder.Layer(
            attention_norm=norm("attn_norm"),
            query=matrix("attn_q", queries, d.width),
            key=matrix("attn_k", keys, d.width),
            value=matrix("attn_v", keys, d.width),
            out=matrix("attn_output", d.width, queries),
            mlp_norm=norm("ffn_norm"),
            gate=matrix("ffn_gate", d.hidden, d.width),
            up=matrix("ffn_up", d.hidden, d.width),
            down=matrix("ffn_down", d.width, d.hidden),
        )
    except ValueError as error:
        raise _bad(gguf, f"its layer {at} has a matrix that doesn't fit: {error}") from None


def _frequency(gguf: Gguf, d: Dimensions, architecture: str) -> NDArray[np.float64]:
    """By how much each pair of a head's values turns a position, scaled as the file says."""
    count: int = gguf.get(f"{architecture}.rope.dimension_count", int, d.head_width)
    if count != d.head_width:
        raise _bad(gguf, f"it turns {count} of {d.head_width} values of a head")
    frequency = d.rope_base ** (-np.arange(0, d.head_width, 2) / d.head_width)
    factors = gguf.tensors.get("rope_freqs.weight")
    if factors is not None:  # Llama 3's
        frequency = frequency / floats(gguf, gguf.tensor(factors.name, frequency.shape))
    scaling = gguf.get(f"{architecture}.rope.scaling.type", str, "none")
    if scaling == "linear":
        frequency = frequency / gguf.get(f"{architecture}.rope.scaling.factor", float)
    elif scaling not in ("none", ""):
        raise _bad(gguf, f"its positions are scaled by {scaling}")
    made: NDArray[np.float64] = frequency
    return made


def _bad(gguf: Gguf, why: str) -> BadGguf:
    return BadGguf(f"{gguf.path} can't be used: {why}. Remove it, and add another")
