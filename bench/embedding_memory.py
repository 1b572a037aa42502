"""Peak memory of embedding and searching: ours beside onnxruntime int8 with faiss SQ8.

A process each, started anew each round, that loads the model and its tokenizer, embeds a query and
32 passages of 64 tokens, and finds the ten nearest of 100 000 vectors on disk, 384 wide: ours in a
mapped file of codes, scales and signs, faiss in its own file. What counts is the most that was
resident at once (VmHWM), Python and numpy included in both.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench import minilm, options
from bench.rounds import Figure, in_turn, print_rates, ratios, report

F32 = NDArray[np.float32]
Encode = Callable[[list[str]], F32]

ROOT = Path(__file__).resolve().parents[1]
QUERY = "how do I reset the password of my account"
PASSAGE = " ".join(["word"] * 62)
ROWS_AT_ONCE = 10_000
K = 10


def main() -> int:
    parser = options.parser(__doc__ or "", "embedding_memory", rounds=3, seconds=None)
    parser.add_argument("--vectors", type=int, default=100_000, help="(%(default)s)")
    parser.add_argument("--child", choices=("ours", "theirs", "neither"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.child is not None:
        _CHILDREN[chosen.child](chosen.folder, chosen.vectors)
        print(_peak_mb())
        return 0
    return options.measure(lambda folder: run(chosen, folder))


def run(chosen: argparse.Namespace, folder: Path) -> int:
    _child("prepare", folder, chosen.vectors)

    def peak(name: str) -> Callable[[], float]:
        return lambda: float(_child(name, folder, chosen.vectors))

    names = {"ours": "ours", "onnxruntime int8, faiss SQ8": "theirs", "Python, numpy": "neither"}
    measured = in_turn({title: peak(name) for title, name in names.items()}, chosen.rounds)
    print_rates(measured, "peak MB")
    ours, theirs, neither = measured.values()
    own = [
        (mine - bare) / (other - bare)
        for mine, other, bare in zip(ours, theirs, neither, strict=True)
    ]
    return report(
        [
            Figure("peak memory, to onnxruntime and faiss", ratios(ours, theirs), at_most=0.7),
            Figure("the same without Python and numpy", own),
        ]
    )


def _child(name: str, folder: Path, vectors: int) -> str:
    if name == "prepare":
        _prepare(folder, vectors)
        return ""
    command = [sys.executable, "-m", "bench.embedding_memory", "--child", name]
    command += ["--folder", str(folder), "--vectors", str(vectors)]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return done.stdout.strip().splitlines()[-1]


def _prepare(folder: Path, vectors: int) -> None:
    """Both indexes of the same rows, made a piece at a time."""
    import faiss

    from monolite import kernels

    minilm.onnx_int8()
    chance = np.random.default_rng(1)
    index = faiss.IndexScalarQuantizer(minilm.WIDTH, faiss.ScalarQuantizer.QT_8bit)
    bits = np.zeros((-(-vectors // 8), minilm.WIDTH // 64, 8), np.uint64)
    with (folder / "codes").open("wb") as codes, (folder / "scales").open("wb") as scales:
        for start in range(0, vectors, ROWS_AT_ONCE):
            count = min(ROWS_AT_ONCE, vectors - start)
            rows = chance.standard_normal((count, minilm.WIDTH), np.float32)
            rows /= np.linalg.norm(rows, axis=1, keepdims=True)
            if start == 0:
                index.train(rows)
            index.add(rows)
            packed, scale = kernels.quantize(rows)
            codes.write(packed.tobytes())
            scales.write(scale.tobytes())
            kernels.signs(rows, bits, start)
    (folder / "bits").write_bytes(bits.tobytes())
    faiss.write_index(index, str(folder / "faiss"))


def _ours(folder: Path, vectors: int) -> None:
    from monolite import kernels
    from monolite.kernels.arrays import Rows
    from monolite.models.registry import SHIPPED, Models

    encoder = Models([SHIPPED]).encoder()
    query = encoder.encode([QUERY], "query").vectors[0]
    encoder.encode([PASSAGE] * 32)
    rows = Rows(
        minilm.WIDTH,
        np.memmap(folder / "codes", np.uint8, "r").reshape(vectors, -1),
        np.memmap(folder / "scales", np.float32, "r"),
        np.memmap(folder / "bits", np.uint64, "r").reshape(-1, minilm.WIDTH // 64, 8),
    )
    found, _ = kernels.search(rows, query, K)
    assert len(found) == K


def _theirs(folder: Path, vectors: int) -> None:
    import faiss
    import onnxruntime

    tokenizer = minilm.tokenizer()
    session: Any = onnxruntime.InferenceSession(
        minilm.onnx_int8(), providers=["CPUExecutionProvider"]
    )

    def encode(texts: list[str]) -> F32:
        ids = np.array([one.ids for one in tokenizer.encode_batch(texts)], np.int64)
        (found,) = session.run(None, {"ids": ids, "mask": np.ones_like(ids)})
        vector: F32 = found
        return vector

    query = encode([QUERY])
    encode([PASSAGE] * 32)
    index = faiss.read_index(str(folder / "faiss"))
    assert index.ntotal == vectors
    _, found = index.search(query, K)
    assert found.shape == (1, K)


def _neither(folder: Path, vectors: int) -> None:
    """What every Python with numpy costs."""


def _peak_mb() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1000
    raise RuntimeError("/proc/self/status has no VmHWM")


_CHILDREN = {"ours": _ours, "theirs": _theirs, "neither": _neither}


if __name__ == "__main__":
    sys.exit(main())
