"""Small GGUF files of random weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from gguf import GGUFWriter


def small_file(path: Path, architecture: str) -> Path:
    """A model of random weights: 2 layers, 4 heads, 2 of keys, biases where qwen2 has them."""
    random_numbers = np.random.default_rng(11)
    width, hidden, head, words = 64, 96, 16, 300
    writer = GGUFWriter(path, architecture)
    writer.add_block_count(2)
    writer.add_context_length(256)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(hidden)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10_000.0)
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(byte) for byte in plain] + [chr(256 + at) for at in range(256 - len(plain))]
    letters.append("he")
    tokens = letters + [f"<{at}>" for at in range(words - len(letters))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2" if architecture == "qwen2" else "gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * len(letters) + [3] * (words - len(letters)))
    writer.add_token_merges(["h e"])
    writer.add_eos_token_id(words - 1)

    def add(name: str, *shape: int) -> None:
        values = random_numbers.standard_normal(shape).astype(np.float32)
        writer.add_tensor(name, values * (0.3 if len(shape) > 1 else 0.1) + (len(shape) == 1))

    add("token_embd.weight", words, width)
    add("output_norm.weight", width)
    add("output.weight", words, width)
    for at in range(2):
        add(f"blk.{at}.attn_norm.weight", width)
        add(f"blk.{at}.ffn_norm.weight", width)
        for part, rows in (("q", 4 * head), ("k", 2 * head), ("v", 2 * head)):
            add(f"blk.{at}.attn_{part}.weight", rows, width)
            if architecture == "qwen2":
                add(f"blk.{at}.attn_{part}.bias", rows)
        add(f"blk.{at}.attn_output.weight", width, 4 * head)
        add(f"blk.{at}.ffn_gate.weight", hidden, width)
        add(f"blk.{at}.ffn_up.weight", hidden, width)
        add(f"blk.{at}.ffn_down.weight", width, hidden)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
