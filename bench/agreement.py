"""How far int8 vectors are from float32's: each of 1 000 sentences, and what retrieval loses.

Ours and onnxruntime's int8 stand beside the float32 model (onnxruntime's; monolite/models/bert.py
is held to it first). Sentences and the labelled set are docstrings: bench/corpus.py says how they
are drawn.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench import corpus, minilm, options
from bench.rounds import Figure, report
from monolite import kernels
from monolite.models.bert import Bert
from monolite.models.checkpoint import Checkpoint
from monolite.models.registry import DEFAULT_NAME, SHIPPED, Models
from monolite.models.tokens import Tokens

F32 = NDArray[np.float32]
Encode = Callable[[Sequence[NDArray[np.int32]]], F32]

AT = 10


def main() -> int:
    parser = options.parser(__doc__ or "", "agreement", rounds=None, seconds=None)
    parser.add_argument("--sentences", type=int, default=1000, help="(%(default)s)")
    parser.add_argument("--queries", type=int, default=1000, help="(%(default)s)")
    parser.add_argument("--passages", type=int, default=4000, help="(%(default)s)")
    parser.add_argument("--kernels", choices=kernels.CHOICES, default="auto")
    chosen = parser.parse_args()
    return options.measure(lambda _: run(chosen))


def run(chosen: argparse.Namespace) -> int:
    print(f"kernels: {kernels.configure(chosen.kernels).variant}")
    encoder = Models([SHIPPED]).encoder()
    float32, int8 = _session(minilm.onnx_float32()), _session(minilm.onnx_int8())

    def ours(texts: Sequence[NDArray[np.int32]]) -> F32:
        tokens = encoder.wrap([text.tolist() for text in texts])
        return encoder.embed(tokens, np.arange(len(texts)))

    sentences = encoder.tokenize(corpus.sentences(chosen.sentences), None)
    wanted = _all(float32, sentences)
    few = [sentences.ids[i] for i in range(0, len(sentences.ids), 20)]
    oracle = (
        (Bert(Checkpoint.read(minilm.checkpoint(), DEFAULT_NAME)).encode(few) * wanted[::20])
        .sum(1)
        .min()
    )
    print(f"bert.py beside onnxruntime's float32: cosine at least {oracle:.7f}")
    figures = []
    contenders: dict[str, Encode] = {"ours": ours, "onnxruntime int8": int8}
    for name, encode in contenders.items():
        cosines = (_all(encode, sentences) * wanted).sum(1)
        first, median = np.quantile(cosines, [0.01, 0.5])
        print(
            f"{name}: cosine of {len(cosines)} sentences least {cosines.min():.4f}, first percent "
            f"{first:.4f}, median {median:.4f}; {(cosines < 0.99).sum()} under 0.99"
        )
        at_least = 0.99 if name == "ours" else None
        figures.append(
            Figure(f"least cosine, {name}", [float(cosines.min())], at_least=at_least, unit="")
        )
    labelled = corpus.labelled(chosen.queries, chosen.passages)
    queries = encoder.tokenize(labelled.queries, "query")
    passages = encoder.tokenize(labelled.passages, "passage")
    gains = {
        name: ndcg(_all(encode, queries), _all(encode, passages))
        for name, encode in {"float32": float32, **contenders}.items()
    }
    for name, gain in gains.items():
        print(f"{name}: nDCG@{AT} {gain:.4f} of {chosen.queries} in {chosen.passages}")
    for name in contenders:
        at_least = 99.0 if name == "ours" else None
        kept = 100 * gains[name] / gains["float32"]
        figures.append(
            Figure(f"nDCG@{AT} of float32's, {name}", [kept], at_least=at_least, unit=" %")
        )
    return report(figures)


def _session(path: Path) -> Encode:
    import onnxruntime

    session: Any = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def encode(texts: Sequence[NDArray[np.int32]]) -> F32:
        ids = np.zeros((len(texts), max(map(len, texts))), np.int64)
        mask = np.zeros_like(ids)
        for row, text in enumerate(texts):
            ids[row, : len(text)] = text
            mask[row, : len(text)] = 1
        (vectors,) = session.run(None, {"ids": ids, "mask": mask})
        found: F32 = vectors
        return found

    return encode


def ndcg(queries: F32, passages: F32) -> float:
    """Normalised discounted cumulative gain of the first ten (Järvelin and Kekäläinen 2002).

    Passage i answers query i, and no other does.
    """
    scores = queries @ passages.T
    right = np.diagonal(scores)[:, None]
    # Of equal scores half count as better, as if they were in any order.
    ranks = 1 + (scores > right).sum(1) + ((scores == right).sum(1) - 1) / 2
    return float(np.where(ranks <= AT, 1 / np.log2(1 + ranks), 0).mean())


def _all(encode: Encode, tokens: Tokens) -> F32:
    order = np.argsort(tokens.lengths, kind="stable")
    vectors: F32 | None = None
    for start in range(0, len(order), 32):
        chosen = order[start : start + 32]
        piece = encode([tokens.ids[i] for i in chosen])
        if vectors is None:
            vectors = np.empty((len(order), piece.shape[1]), np.float32)
        vectors[chosen] = piece
    assert vectors is not None
    return vectors


if __name__ == "__main__":
    sys.exit(main())
