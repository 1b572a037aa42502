"""Texts to vectors: a query of 13 tokens, a passage of 128, 32 passages of 64, beside onnxruntime.

Both run the same checkpoint with int8 weights by channel and activations quantized as they come
(minilm.py); both get token ids, and give vectors of length 1. Agreement is the cosine to the
float32 model, of every one of a thousand sentences.

With --kernels avx2, onnxruntime believes in a CPU without AVX-512 and VNNI too (older_cpu.py).
"""

from __future__ import annotations

import argparse
import gc
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench import minilm, older_cpu, options
from bench.machine import Quietness
from bench.rounds import Figure, in_turn, ratios, report

F32 = NDArray[np.float32]
Texts = Sequence[Sequence[int]]
Embed = Callable[[Texts], F32]

QUERY = "how do I reset the admin password on the server"
OPENING, CLOSING = 101, 102


def main() -> int:
    parser = options.parser(__doc__ or "", "encoder_kernels", rounds=7, seconds=None)
    parser.add_argument("--threads", type=int, default=2, help="of each contender (%(default)s)")
    parser.add_argument("--core", type=int, help="pin everything to this one core")
    parser.add_argument("--kernels", default="auto", help="variant of ours (%(default)s)")
    parser.add_argument("--sentences", type=int, default=1000, help="compared (%(default)s)")
    chosen = parser.parse_args()
    if chosen.core is not None:
        os.sched_setaffinity(0, {chosen.core})
        chosen.threads = 1
    minilm.onnx_int8()
    if chosen.kernels not in ("auto", "avx512"):
        older_cpu.use("onnxruntime")
    return options.measure(lambda folder: run(chosen, folder))


def run(chosen: argparse.Namespace, folder: Path) -> int:
    from monolite import kernels

    print(kernels.configure(chosen.kernels, threads=chosen.threads))
    contenders = {
        "ours": ours(),
        "onnxruntime int8": onnxruntime(minilm.onnx_int8(), chosen.threads),
    }
    exact = onnxruntime(minilm.onnx_float32(), 2)
    figures = []
    works: dict[str, tuple[Texts, int, float | None]] = {
        "a query of 13 tokens": (
            [minilm.tokenizer().encode(QUERY).ids],
            200,
            0.8 if chosen.threads == 1 else 0.55,
        ),
        "a passage of 128 tokens": (_passages(1, 128), 30, None),
        "32 passages of 64 tokens": (_passages(32, 64), 4, 0.8),
    }
    for name, (texts, repeats, bound) in works.items():
        measured = in_turn(
            {who: partial(_timed_ms, embed, texts, repeats) for who, embed in contenders.items()},
            chosen.rounds,
            pause_s=0.1,
        )
        for who, values in measured.items():
            spread = f"{min(values):.3f}–{max(values):.3f}"
            print(f"{name:<28}{who:<20}{statistics.median(values):>9.3f} ms  {spread}")
        mine, theirs = measured.values()
        figures.append(Figure(f"time of {name}", ratios(mine, theirs), at_most=bound))
    figures += _agreement(contenders, exact, chosen.sentences)
    print(Quietness())
    return report(figures)


def ours() -> Embed:
    from monolite import kernels
    from monolite.models import registry
    from monolite.models.encoder import Encoder

    path = Path(registry.__file__).with_name(f"{registry.DEFAULT_NAME}.model")
    weights = Encoder.open(path)._weights

    def embed(texts: Texts) -> F32:
        ids = np.concatenate([np.array(one, np.int32) for one in texts])
        return kernels.encode(weights, ids, np.array([len(one) for one in texts], np.int32))

    return embed


def onnxruntime(model: Path, threads: int) -> Embed:
    import onnxruntime

    chosen = onnxruntime.SessionOptions()
    chosen.intra_op_num_threads = threads
    session: Any = onnxruntime.InferenceSession(str(model), chosen)

    def embed(texts: Texts) -> F32:
        longest = max(len(one) for one in texts)
        ids, mask = (np.zeros((len(texts), longest), np.int64) for _ in range(2))
        for row, one in enumerate(texts):
            ids[row, : len(one)], mask[row, : len(one)] = one, 1
        vectors: F32 = session.run(None, {"ids": ids, "mask": mask})[0]
        return vectors

    return embed


def _passages(count: int, length: int) -> Texts:
    """Real words, cut to a length."""
    words = minilm.tokenizer()
    stream: list[int] = []
    for sentence in minilm.sentences():
        stream += words.encode(sentence).ids[1:-1]
        if len(stream) > count * length:
            break
    inner = length - 2
    return [
        [OPENING, *stream[start : start + inner], CLOSING]
        for start in range(0, count * inner, inner)
    ]


def _timed_ms(embed: Embed, texts: Texts, repeats: int) -> float:
    embed(texts)
    gc.disable()
    taken = []
    for _ in range(repeats):
        began = time.perf_counter()
        embed(texts)
        taken.append(time.perf_counter() - began)
    gc.enable()
    return 1000 * statistics.median(taken)


def _agreement(contenders: dict[str, Embed], exact: Embed, count: int) -> list[Figure]:
    words = minilm.tokenizer()
    # Every 91st or so: all kinds of sentences, and none that smoothing was fitted to in order.
    everything = minilm.sentences()
    chosen = everything[:: len(everything) // count][:count]
    cosines: dict[str, list[float]] = {name: [] for name in contenders}
    for sentence in chosen:
        texts = [words.encode(sentence).ids]
        expected = exact(texts)[0]
        for name, embed in contenders.items():
            cosines[name].append(float(embed(texts)[0] @ expected))
    for name, values in cosines.items():
        print(
            f"{name:<20}cosine to float32: least {min(values):.4f}, mean {sum(values) / count:.4f}"
        )
    return [Figure("least cosine to float32", [min(cosines["ours"])], at_least=0.99, unit="")]


if __name__ == "__main__":
    sys.exit(main())
