"""Decoding and prefill of the default language model, beside llama.cpp in Q4_0 and Q4_1.

Both with as many threads; ours in this process through the decoder that the server uses, greedy.
llama.cpp (llama_cpp.py) in executables of its own, whose figures leave out loading. With --shape
1b, a model of Llama 3.2 1B's shape and random weights, where memory bounds.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import sys
import time
from functools import partial
from pathlib import Path

from bench import llama_cpp, options
from bench.machine import Quietness
from bench.rounds import Figure, in_turn, ratios, report
from monolite import kernels
from monolite.models.decoder import CacheType, Span
from monolite.models.llama import Llama

CHUNK = 128
"""Tokens of a prompt in a pass, as the server cuts them."""

LONG, STREAMS = 1500, 8
_QUANTIZED = ("-fa", "1", "-ctk", "q4_0", "-ctv", "q8_0")


def main() -> int:
    parser = options.parser(__doc__ or "", "language_model", rounds=5, seconds=None)
    parser.add_argument("--threads", type=int, default=2, help="of each contender (%(default)s)")
    parser.add_argument("--shape", choices=("135m", "1b"), default="135m", help="(%(default)s)")
    parser.add_argument("--kernels", default="auto", help="variant of ours (%(default)s)")
    chosen = parser.parse_args()
    return options.measure(lambda folder: run(chosen))


def run(chosen: argparse.Namespace) -> int:
    print(kernels.configure(chosen.kernels, threads=chosen.threads))
    if chosen.shape == "1b":
        return _report_large(chosen)
    began = time.perf_counter()
    ours = _opened(llama_cpp.shipped())
    _decoding(ours, "int4", 16, 1)
    print(f"from the file to the first token: {time.perf_counter() - began:.2f} s")
    measured = in_turn(
        {
            "ours": partial(_ours, ours),
            "Q4_0": partial(_peer, llama_cpp.fast(), chosen.threads),
            # Its prefill is a third of Q4_0's.
            "Q4_1": lambda: llama_cpp.speeds(
                llama_cpp.shipped(), chosen.threads, "-p", "0", "-n", "64"
            ),
        },
        chosen.rounds,
    )
    rows = list(measured["ours"][0])
    for row in rows:
        for who, rounds in measured.items():
            if row in rounds[0]:
                _print(row, who, [one[row] for one in rounds])
    bounds = {"tg64": 1.3, "pp128": 1.5, "pp512": 1.5, f"tg at {LONG}": 1.3, "8 streams": 1.3}
    figures = [
        Figure(
            f"{row}, to the better of Q4_0 and Q4_1",
            ratios(
                [one[row] for one in measured["ours"]],
                [
                    max(one.get(row, 0.0), other.get(row, 0.0))
                    for one, other in zip(measured["Q4_0"], measured["Q4_1"], strict=True)
                ],
            ),
            at_least=bound,
        )
        for row, bound in bounds.items()
    ]
    print(Quietness())
    return report([*figures, *_cache_figures(ours), _second_turn(ours)])


def _report_large(chosen: argparse.Namespace) -> int:
    ours = _opened(llama_cpp.random_1b())
    measured = in_turn(
        {
            "ours": lambda: {"tg64": _decoding(ours, "int8", 0, 64), "pp128": _prefill(ours, 128)},
            "llama.cpp": lambda: llama_cpp.speeds(
                llama_cpp.random_1b(), chosen.threads, "-p", "128", "-n", "64"
            ),
        },
        chosen.rounds,
    )
    figures = []
    for row, bound in {"tg64": 1.0, "pp128": None}.items():
        values = {who: [one[row] for one in rounds] for who, rounds in measured.items()}
        for who, each in values.items():
            _print(row, who, each)
        figures.append(
            Figure(f"1B shape, {row}", ratios(values["ours"], values["llama.cpp"]), at_least=bound)
        )
    return report(figures)


def _opened(path: Path) -> Llama:
    return Llama.open(path, "measured", context_tokens=4096, kv_bytes_max=1 << 30)


def _ours(model: Llama) -> dict[str, float]:
    gc.collect()
    gc.disable()
    made = {
        "pp128": _prefill(model, 128),
        "pp512": _prefill(model, 512),
        "tg64": _decoding(model, "int8", 0, 64),
        f"tg at {LONG}": _decoding(model, "int4", LONG, 32),
        "8 streams": _streams(model, 32, 64),
    }
    gc.enable()
    return made


def _peer(path: Path, threads: int) -> dict[str, float]:
    long = llama_cpp.speeds(path, threads, *_QUANTIZED, "-d", str(LONG), "-p", "0", "-n", "32")
    return {
        **llama_cpp.speeds(path, threads, "-p", "128,512", "-n", "64"),
        f"tg at {LONG}": long["tg32"],
        "8 streams": llama_cpp.batched_speed(path, threads, STREAMS, 32, 64),
    }


def _tokens(count: int) -> list[int]:
    return [10 + at * 37 % 40_000 for at in range(count)]


def _fill(model: Llama, sequence: int, tokens: list[int]) -> None:
    for first in range(0, len(tokens), CHUNK):
        last = first + CHUNK >= len(tokens)
        some = tokens[first : first + CHUNK]
        model.forward([Span(sequence, some, "last" if last else "none")])


def _prefill(model: Llama, count: int) -> float:
    taken = []
    for _ in range(2):  # the first warms up, as llama-bench's does
        sequence = model.open_sequence([], cache="int8", scope=b"").sequence
        began = time.perf_counter()
        _fill(model, sequence, _tokens(count))
        taken.append(time.perf_counter() - began)
        model.close(sequence, keep=False)
    return count / taken[-1]


def _decoding(model: Llama, cache: CacheType, before: int, count: int) -> float:
    """Tokens a second of one sequence, `before` tokens into it."""
    sequence = model.open_sequence([], cache=cache, scope=b"").sequence
    _fill(model, sequence, _tokens(before))
    token = 10
    began = time.perf_counter()
    for _ in range(count):
        token = int(model.forward([Span(sequence, [token])])[0][-1].argmax())
    taken = time.perf_counter() - began
    model.close(sequence, keep=False)
    return count / taken


def _streams(model: Llama, before: int, count: int) -> float:
    """Tokens a second of eight sequences that share each pass."""
    opened = [model.open_sequence([], cache="int8", scope=b"").sequence for _ in range(STREAMS)]
    for sequence in opened:
        _fill(model, sequence, _tokens(before))
    tokens = [10 + sequence for sequence in range(STREAMS)]
    began = time.perf_counter()
    for _ in range(count):
        spans = [Span(sequence, [token]) for sequence, token in zip(opened, tokens, strict=True)]
        tokens = [int(logits[-1].argmax()) for logits in model.forward(spans)]
    taken = time.perf_counter() - began
    for sequence in opened:
        model.close(sequence, keep=False)
    return STREAMS * count / taken


def _cache_figures(model: Llama) -> list[Figure]:
    d = model.dimensions
    sequence = model.open_sequence([], cache="int4", scope=b"").sequence
    _fill(model, sequence, _tokens(2048))
    share = model.kv_bytes(sequence) / (2048 * d.layers * d.kv_heads * d.head_width * 4)
    model.close(sequence, keep=False)
    return [Figure("KV bytes of 2 048 tokens, int4, to float16's", [share], at_most=0.40)]


def _second_turn(model: Llama) -> Figure:
    """Time to the first token of a second turn, to that of the first, of 200 tokens."""
    shares = []
    for number in range(5):
        scope, prompt = bytes([number]), _tokens(200)
        taken = []
        for turn in (prompt, [*prompt, *_tokens(20)]):
            began = time.perf_counter()
            opened = model.open_sequence(turn, cache="int8", scope=scope)
            _fill(model, opened.sequence, turn[opened.reused :])
            taken.append(time.perf_counter() - began)
            model.close(opened.sequence, keep=True)
        shares.append(taken[1] / taken[0])
    return Figure("time to a second turn's first token", shares, at_most=0.25)


def _print(row: str, who: str, values: list[float]) -> None:
    spread = f"{min(values):.0f}–{max(values):.0f}"
    print(f"{row:<12}{who:<12}{statistics.median(values):>8.0f} tokens/s  {spread}")


if __name__ == "__main__":
    sys.exit(main())
