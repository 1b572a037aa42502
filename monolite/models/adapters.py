"""LoRA adapters in GGUF, as llama.cpp's convert_lora_to_gguf writes them.

`general.type` is `adapter`, `adapter.type` `lora`; for each changed matrix `blk.N.attn_q.weight`
there are `….lora_a` [r, columns] and `….lora_b` [rows, r], and the change is alpha / r times B A,
with `adapter.lora.alpha`, or B A where that is missing.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from monolite.kernels.adapters import Adapter, AdapterLayer, low_rank
from monolite.models.gguf import BadGguf, Gguf
from monolite.models.gguf_types import dequantize

if TYPE_CHECKING:
    from monolite.kernels.decoder import Decoder

RANK_MAX = 256

_NAMES = {
    "attn_q": "query",
    "attn_k": "key",
    "attn_v": "value",
    "attn_output": "out",
    "ffn_gate": "gate",
    "ffn_up": "up",
    "ffn_down": "down",
}
_A, _B = ".lora_a", ".lora_b"


class AdapterAbout(NamedTuple):
    """What an adapter says of itself. `rank` is its greatest, `tensors` how many it changes."""

    architecture: str
    rank: int
    alpha: float
    tensors: int


class ReadAdapter(NamedTuple):
    """An adapter, ready."""

    about: AdapterAbout
    weights: Adapter


def read_adapter(name: str, content: bytes, architecture: str, model: Decoder) -> ReadAdapter:
    """An adapter for a model out of a file's content.

    Raises:
        BadGguf: it is none, or changes what this model has not, or can't be changed.
    """
    gguf = Gguf.read(Path(name), content)
    if (
        gguf.get("general.type", str, "") != "adapter"
        or gguf.get("adapter.type", str, "") != "lora"
    ):
        raise BadGguf("it is no LoRA adapter: its general.type and adapter.type say so")
    of = gguf.get("general.architecture", str, "")
    if of != architecture:
        raise BadGguf(f"it is for {of or 'no architecture'}, and the model is {architecture}")
    alpha = float(gguf.get("adapter.lora.alpha", (float, int), 0.0))
    if not np.isfinite(alpha):
        raise BadGguf("its adapter.lora.alpha is no number")
    found: list[dict[str, Any]] = [{} for _ in model.layers]
    ranks = []
    for full in gguf.tensors:
        if full.endswith(_B):
            if full.removesuffix(_B) + _A not in gguf.tensors:
                raise BadGguf(f"it has {full} and no {_A}")
            continue
        at, matrix = _place(full, len(found))
        layer = model.layers[at]
        wanted = getattr(layer, matrix)
        a = _floats(gguf, full)
        b = _floats(gguf, full.removesuffix(_A) + _B)
        rank = len(a)
        if rank > RANK_MAX:
            raise BadGguf(f"its {full} has rank {rank}; at most {RANK_MAX}")
        if a.shape != (rank, wanted.columns) or b.shape != (wanted.rows, rank):
            raise BadGguf(
                f"its {full} is {a.shape} and {_B} {b.shape}, where the model's matrix is"
                f" {(wanted.rows, wanted.columns)}: it is for another model"
            )
        found[at][matrix] = low_rank(a, b, alpha / rank if alpha else 1.0)
        ranks.append(rank)
    if not ranks:
        raise BadGguf("it changes nothing")
    about = AdapterAbout(of, max(ranks), alpha, len(ranks))
    return ReadAdapter(about, Adapter([AdapterLayer(**one) for one in found]))


def _place(full: str, layers: int) -> tuple[int, str]:
    parts = full.removesuffix(_A).split(".")
    if full.endswith(_A) and len(parts) == 4 and parts[0] == "blk" and parts[3] == "weight":
        matrix = _NAMES.get(parts[2])
        if matrix is not None and parts[1].isdecimal() and int(parts[1]) < layers:
            return int(parts[1]), matrix
    raise BadGguf(
        f"it has a tensor {full}: what can be changed are {', '.join(_NAMES)} of"
        f" blk.0 to blk.{layers - 1}"
    )


def _floats(gguf: Gguf, name: str) -> np.ndarray[Any, np.dtype[np.float32]]:
    tensor = gguf.tensor(name)
    if len(tensor.shape) != 2:
        raise BadGguf(f"its {name} is no matrix")
    made = dequantize(gguf.raw(tensor), tensor.type.name)
    if not np.isfinite(made).all():
        raise BadGguf(f"its {name} has values that are no numbers")
    return made
