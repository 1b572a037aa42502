"""Small checkpoints of real shapes with weights drawn from a seed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

F32 = NDArray[np.float32]

WIDTH, HIDDEN, LAYERS, HEADS, POSITIONS = 64, 128, 2, 2, 48
WORDS = [
    *("<s>", "<pad>", "</s>", "<unk>", "▁", "▁query", "▁passage", ":", "▁how", "▁do", "▁I"),
    *("▁reset", "▁my", "▁password", "?", "▁banana", "s", "▁are", "▁yellow", "▁link", "a", "b"),
]


def tokenizer_like_e5() -> str:
    """A `tokenizer.json` built as XLM-RoBERTa's is: Unigram pieces between `<s>` and `</s>`."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    # Longer pieces cost less than the letters they are made of.
    scored = [(word, -float(number) if word[:1] == "<" else -10.0 / len(word))
              for number, word in enumerate(WORDS)]  # fmt: skip
    tokenizer = Tokenizer(models.Unigram(scored, unk_id=3, byte_fallback=False))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(length=8)
    text: str = tokenizer.to_str()
    return text


def tensors(seed: int, positions: int = POSITIONS) -> dict[str, F32]:
    rng = np.random.default_rng(seed)

    def drawn(*shape: int) -> F32:
        return (rng.standard_normal(shape) / np.sqrt(shape[-1])).astype(np.float32)

    def norm() -> tuple[F32, F32]:
        return 1 + 0.1 * drawn(WIDTH), 0.1 * drawn(WIDTH)

    found = {
        "embeddings.word_embeddings.weight": 3 * drawn(len(WORDS), WIDTH),
        "embeddings.position_embeddings.weight": drawn(positions, WIDTH),
        "embeddings.token_type_embeddings.weight": drawn(2, WIDTH),
    }
    shapes = {
        "attention.self.query": (WIDTH, WIDTH),
        "attention.self.key": (WIDTH, WIDTH),
        "attention.self.value": (WIDTH, WIDTH),
        "attention.output.dense": (WIDTH, WIDTH),
        "intermediate.dense": (HIDDEN, WIDTH),
        "output.dense": (WIDTH, HIDDEN),
    }
    norms = ["embeddings.LayerNorm"]
    for layer in range(LAYERS):
        prefix = f"encoder.layer.{layer}."
        norms += [f"{prefix}attention.output.LayerNorm", f"{prefix}output.LayerNorm"]
        for name, (rows, columns) in shapes.items():
            found[f"{prefix}{name}.weight"] = drawn(rows, columns)
            found[f"{prefix}{name}.bias"] = drawn(rows)
    for name in norms:
        found[f"{name}.weight"], found[f"{name}.bias"] = norm()
    return found


def write_checkpoint(
    directory: Path,
    *,
    seed: int = 7,
    kind: str = "bert",
    pooling: str = "mean",
    positions: int = POSITIONS,
    prefix: str = "",
    **config: Any,
) -> Path:
    """A checkpoint shaped like E5-small: BERT's weights under XLM-RoBERTa's tokenizer."""
    directory.mkdir(parents=True)
    named = {prefix + name: value for name, value in tensors(seed, positions).items()}
    save_file(named, directory / "model.safetensors")
    facts = {
        "model_type": kind,
        "hidden_act": "gelu",
        "hidden_size": WIDTH,
        "intermediate_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "max_position_embeddings": positions,
        "layer_norm_eps": 1e-12,
        **config,
    }
    (directory / "config.json").write_text(json.dumps(facts))
    (directory / "tokenizer.json").write_text(tokenizer_like_e5())
    (directory / "1_Pooling").mkdir()
    (directory / "1_Pooling" / "config.json").write_text(
        json.dumps(
            {
                "pooling_mode_cls_token": pooling == "first",
                "pooling_mode_mean_tokens": pooling == "mean",
            }
        )
    )
    (directory / "README.md").write_text("---\nlicense: mit\n---\n# A model\n")
    return directory
