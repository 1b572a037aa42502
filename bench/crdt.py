"""The data types: merging sets, inserting into sequences beside Loro and pycrdt, bytes of a delta.

A sequence takes characters one call at a time, at random places and as one types; each call of ours
also makes the delta, and Loro's are committed at the end. pycrdt, one transaction a call, takes
fewer, since each of its calls at a random place searches from the start.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from bench.rounds import Figure, in_turn, ratios, report
from monolite.crdt import OrSet, Rga, encode

INSERTS, FEWER, ELEMENTS = 100_000, 25_000, 10_000
RANDOM, TYPED = "at random places", "as one types"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    measured = in_turn(
        {
            f"{name} {how}": partial(_inserted_s, made, how, count)
            for how in (RANDOM, TYPED)
            for name, made, count in (
                ("ours", _ours, INSERTS),
                ("ours, fewer", _ours, FEWER),
                ("loro", _loro, INSERTS),
            )
        }
        | {
            "pycrdt": partial(_inserted_s, _pycrdt, TYPED, 2_000),
            "sets": partial(_merged_s, ELEMENTS),
            "fewer sets": partial(_merged_s, ELEMENTS // 4),
        },
        rounds,
        pause_s=0.1,
    )
    figures = []
    for how in (RANDOM, TYPED):
        ours, fewer = measured[f"ours {how}"], measured[f"ours, fewer {how}"]
        figures += [
            Figure(f"100 000 insertions {how}, to Loro", ratios(ours, measured[f"loro {how}"]),
                   at_most=10),
            Figure("growth of that from 25 000, to n log n", _growth(ours, fewer, INSERTS, FEWER),
                   at_most=1.25),
            Figure(f"one insertion {how}", [s / INSERTS * 1e6 for s in ours], unit=" µs"),
        ]  # fmt: skip
    sets, fewer_sets = measured["sets"], measured["fewer sets"]
    figures += [
        Figure("pycrdt, one insertion", [s / 2_000 * 1e6 for s in measured["pycrdt"]], unit=" µs"),
        Figure("merge of two sets of 10 000", [s * 1e3 for s in sets], unit=" ms"),
        Figure("growth of that from 2 500, to n log n",
               _growth(sets, fewer_sets, ELEMENTS, ELEMENTS // 4), at_most=1.25),
        Figure("delta of one addition, of its set of 10 000", [_delta_percent()], at_most=1,
               unit=" %"),
    ]  # fmt: skip
    return report(figures)


def _growth(more: list[float], fewer: list[float], n: int, m: int) -> list[float]:
    """How much worse than n log n the time grew, round by round."""
    expected = n * math.log(n) / (m * math.log(m))
    return [ratio / expected for ratio in ratios(more, fewer)]


def _inserted_s(made: Callable[[], Callable[[int], Any]], how: str, count: int) -> float:
    chance = random.Random(1)
    places = [chance.randint(0, n) if how == RANDOM else n for n in range(count)]
    insert = made()
    started = time.perf_counter()
    for place in places:
        insert(place)
    insert(-1)
    return time.perf_counter() - started


def _ours() -> Callable[[int], Any]:
    sequence = Rga()
    return lambda place: sequence.insert(place, "x", "a") if place >= 0 else None


def _loro() -> Callable[[int], Any]:
    import loro

    document = loro.LoroDoc()
    text = document.get_text("text")
    return lambda place: text.insert(place, "x") if place >= 0 else document.commit()


def _pycrdt() -> Callable[[int], Any]:
    import pycrdt

    document = pycrdt.Doc()
    text = document.get("text", type=pycrdt.Text)
    return lambda place: text.insert(place, "x") if place >= 0 else document.get_state()


def _merged_s(count: int) -> float:
    one, other = OrSet(), OrSet()
    for number in range(count):
        one.add(f"element {number}", "a")
        other.add(f"element {number + count // 2}", "b")
    started = time.perf_counter()
    one.merge(other)
    return time.perf_counter() - started


def _delta_percent() -> float:
    elements = OrSet()
    for number in range(ELEMENTS):
        elements.add(f"element {number}", "a")
    return len(encode(elements.add("one more", "b"))) / len(encode(elements)) * 100


if __name__ == "__main__":
    sys.exit(main())
