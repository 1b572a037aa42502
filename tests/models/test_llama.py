"""The llama family beside a float32 run of the same weights, its sequences beside each other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from monolite.models.decoder import CacheFull, CacheType, Span
from monolite.models.gguf import BadGguf, Gguf
from monolite.models.gguf_types import floats
from monolite.models.kv_cache import KvCache, Shape
from monolite.models.language_models import DEFAULT_NAME
from monolite.models.llama import Llama
from tests.models.gguf_files import small_file

SHIPPED = Path(__file__).parents[2] / "monolite" / "models" / f"{DEFAULT_NAME}.gguf"
TEXT = (
    "The lighthouse keeper counted 214 steps every evening, wound the clockwork, and wrote down the"
    " weather: wind from the north-west, rain since noon, two fishing boats still out at sea."
)


@pytest.fixture(scope="module")
def shipped() -> Llama:
    return Llama.open(SHIPPED, "shipped", context_tokens=512, kv_bytes_max=64 << 20)


def in_float32(path: Path, tokens: list[int], *, halves: bool) -> np.ndarray:
    """Logits [T, V] by numpy alone: the oracle."""
    gguf = Gguf.open(path)
    weights = {name: floats(gguf, tensor) for name, tensor in gguf.tensors.items()}
    meta = {key.partition(".")[2]: value for key, value in gguf.metadata.items()}
    heads, kv_heads = meta["attention.head_count"], meta["attention.head_count_kv"]
    epsilon, base = meta["attention.layer_norm_rms_epsilon"], meta["rope.freq_base"]
    width = meta["embedding_length"] // heads
    count = len(tokens)
    angles = np.arange(count)[:, None] * base ** (-np.arange(0, width, 2) / width)
    cosine, sine = np.cos(angles)[:, None], np.sin(angles)[:, None]

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + epsilon) * weights[f"{name}.weight"]

    def product(x: np.ndarray, name: str) -> np.ndarray:
        return x @ weights[f"{name}.weight"].T + weights.get(f"{name}.bias", 0)

    def turned(x: np.ndarray) -> np.ndarray:
        if halves:
            one, two = x[..., : width // 2], x[..., width // 2 :]
            return np.concatenate([one * cosine - two * sine, one * sine + two * cosine], -1)
        one, two = x[..., 0::2], x[..., 1::2]
        made = np.stack([one * cosine - two * sine, one * sine + two * cosine], -1)
        return made.reshape(x.shape)

    x = weights["token_embd.weight"][tokens]
    unseen = np.triu(np.full((count, count), -np.inf), 1)
    for at in range(meta["block_count"]):
        normal = norm(x, f"blk.{at}.attn_norm")
        queries, keys, values = (
            product(normal, f"blk.{at}.attn_{part}").reshape(count, -1, width) for part in "qkv"
        )
        queries, keys = turned(queries), turned(keys)
        keys, values = (np.repeat(each, heads // kv_heads, 1) for each in (keys, values))
        scores = np.einsum("thd,shd->hts", queries, keys) / np.sqrt(width) + unseen
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        scores /= scores.sum(-1, keepdims=True)
        attended = np.einsum("hts,shd->thd", scores, values).reshape(count, -1)
        x = x + product(attended, f"blk.{at}.attn_output")
        normal = norm(x, f"blk.{at}.ffn_norm")
        gate = product(normal, f"blk.{at}.ffn_gate")
        x = x + product(
            gate / (1 + np.exp(-gate)) * product(normal, f"blk.{at}.ffn_up"), f"blk.{at}.ffn_down"
        )
    output = "output" if "output.weight" in weights else "token_embd"
    return product(norm(x, "output_norm"), output)


def cosines(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(two, axis=1)
    found: np.ndarray = (one * two).sum(1) / lengths
    return found


def read(model: Llama, tokens: list[int], cache: CacheType = "int8", scope: bytes = b"") -> int:
    return model.open_sequence(tokens, cache=cache, scope=scope).sequence


def greedy(model: Llama, sequence: int, tokens: list[int], count: int) -> list[int]:
    made: list[int] = []
    ahead = tokens
    while len(made) < count:
        [logits] = model.forward([Span(sequence, ahead)])
        made.append(int(logits[0].argmax()))
        ahead = made[-1:]
    return made


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_logits_of_a_small_model_are_those_of_float32(tmp_path: Path, architecture: str) -> None:
    path = small_file(tmp_path / "small.gguf", architecture)
    model = Llama.open(path, "small", context_tokens=256, kv_bytes_max=8 << 20)
    tokens = [int(one) for one in np.random.default_rng(2).integers(0, 256, 40)]
    [logits] = model.forward([Span(read(model, tokens), tokens, "all")])
    # Random weights are quantized to eight bits worse than trained ones; the other way of turning
    # heads gives less than 0.9.
    right = cosines(logits, in_float32(path, tokens, halves=architecture == "qwen2"))
    wrong = cosines(logits, in_float32(path, tokens, halves=architecture != "qwen2"))
    assert right.mean() > 0.997
    assert right.min() > 0.98
    assert wrong.mean() < 0.95


def test_logits_of_the_shipped_model_are_near_those_of_float32(shipped: Llama) -> None:
    tokens = shipped.vocabulary.encode(TEXT)
    [logits] = shipped.forward([Span(read(shipped, tokens), tokens, "all")])
    found = cosines(logits, in_float32(SHIPPED, tokens, halves=False))
    assert found.mean() > 0.999
    assert found.min() > 0.98
    # With keys and values as floats, activations count in full too.
    [logits] = shipped.forward([Span(read(shipped, tokens, "f32"), tokens, "all")])
    assert cosines(logits, in_float32(SHIPPED, tokens, halves=False)).min() > 0.999


@pytest.mark.parametrize("cache", ["f32", "int8", "int4"])
def test_eight_sequences_in_one_pass_get_what_each_gets_alone(
    shipped: Llama, cache: CacheType
) -> None:
    prompts = [shipped.vocabulary.encode(f"{at} {TEXT}"[: 30 + 9 * at]) for at in range(8)]
    alone = []
    for at, prompt in enumerate(prompts):
        sequence = read(shipped, prompt, cache, b"alone%d" % at)
        alone.append(greedy(shipped, sequence, prompt, 6))
        shipped.close(sequence, keep=False)
    sequences = [read(shipped, prompt, cache, b"many%d" % n) for n, prompt in enumerate(prompts)]
    ahead = prompts
    together: list[list[int]] = [[] for _ in prompts]
    for _ in range(6):
        spans = [Span(*one) for one in zip(sequences, ahead, strict=True)]
        for made, logits in zip(together, shipped.forward(spans), strict=True):
            made.append(int(logits[0].argmax()))
        ahead = [made[-1:] for made in together]
    for sequence in sequences:
        shipped.close(sequence, keep=False)
    assert together == alone


def test_a_prompt_read_in_chunks_is_the_prompt_read_at_once(shipped: Llama) -> None:
    tokens = shipped.vocabulary.encode(TEXT)
    whole = greedy(shipped, read(shipped, tokens, scope=b"whole"), tokens, 8)
    sequence = read(shipped, tokens, scope=b"chunks")
    for start in range(0, len(tokens) - 7, 7):
        shipped.forward([Span(sequence, tokens[start : start + 7], "none")])
    rest = tokens[shipped.length(sequence) :]
    assert greedy(shipped, sequence, rest, 8) == whole


def test_a_prefix_taken_over_gives_what_a_cold_start_gives(shipped: Llama) -> None:
    first = shipped.vocabulary.encode(TEXT)
    sequence = read(shipped, first, scope=b"tenant")
    answer = greedy(shipped, sequence, first, 12)
    shipped.close(sequence, keep=True)
    turn = [*first, *answer, *shipped.vocabulary.encode(" And then?")]
    cold = greedy(shipped, read(shipped, turn, scope=b"another tenant"), turn, 8)
    opened = shipped.open_sequence(turn, cache="int8", scope=b"tenant")
    assert opened.reused == len(first) + len(answer) - 1
    assert greedy(shipped, opened.sequence, turn[opened.reused :], 8) == cold


def test_a_prefix_is_nobody_elses(shipped: Llama) -> None:
    tokens = shipped.vocabulary.encode(TEXT)
    sequence = read(shipped, tokens, scope=b"mine")
    shipped.forward([Span(sequence, tokens)])
    shipped.close(sequence, keep=True)
    assert shipped.open_sequence(tokens, cache="int8", scope=b"theirs").reused == 0
    assert shipped.open_sequence(tokens, cache="int4", scope=b"mine").reused == 0
    assert shipped.open_sequence(tokens, cache="int8", scope=b"mine").reused == len(tokens) - 1


def test_what_is_rolled_back_leaves_nothing(shipped: Llama) -> None:
    tokens = shipped.vocabulary.encode(TEXT)
    plain = greedy(shipped, read(shipped, tokens, scope=b"plain"), tokens, 6)
    sequence = read(shipped, tokens, scope=b"rolled")
    shipped.forward([Span(sequence, tokens[:-1], "none")])
    shipped.forward([Span(sequence, tokens[3:20], "all")])
    shipped.rollback(sequence, len(tokens) - 1)
    assert greedy(shipped, sequence, tokens[-1:], 6) == plain


def test_the_budget_of_bytes_holds(tmp_path: Path) -> None:
    path = small_file(tmp_path / "small.gguf", "llama")
    model = Llama.open(path, "small", context_tokens=256, kv_bytes_max=50_000)
    tokens = list(range(100))
    used: list[int] = []

    def use_more() -> None:
        used.append(read(model, tokens, scope=b"%d" % len(used)))
        model.forward([Span(used[-1], tokens)])

    use_more()
    with pytest.raises(CacheFull):
        [use_more() for _ in range(100)]
    assert model.kv_bytes_used <= 50_000
    for sequence in used:
        model.close(sequence, keep=True)
    # Kept ones make room.
    model.forward([Span(read(model, tokens, scope=b"last"), tokens)])
    assert model.kv_bytes_used <= 50_000


@pytest.mark.parametrize("cache", ["f32", "int8", "int4"])
def test_a_conversation_comes_back_from_disk_as_it_was(tmp_path: Path, cache: CacheType) -> None:
    path = small_file(tmp_path / "small.gguf", "llama")
    room = Shape(2, 2, 16).byte_count(cache, 128)
    model = Llama.open(
        path,
        "small",
        context_tokens=256,
        kv_bytes_max=room,
        spill=tmp_path,
        spill_bytes_max=2 * room,
    )
    first = [int(one) for one in np.random.default_rng(3).integers(0, 256, 90)]
    answers = {}
    for turn in range(2):
        for who in (b"one", b"two"):
            opened = model.open_sequence(first, cache=cache, scope=who)
            assert opened.reused == (len(first) - 1 if turn else 0)
            if turn:
                [logits] = model.forward([Span(opened.sequence, first[-1:])])
                np.testing.assert_array_equal(logits[0], answers[who])
            else:
                answers[who] = model.forward([Span(opened.sequence, first)])[0][0]
            model.close(opened.sequence, keep=True)
            assert model.kv_bytes_used <= room
    assert list(tmp_path.iterdir()) == [path]


def test_a_disk_that_takes_nothing_costs_only_the_time(tmp_path: Path) -> None:
    shape = Shape(2, 2, 16)
    room = shape.byte_count("int8", 64)
    kept = KvCache(shape, 256, room, spill=tmp_path / "missing", spill_bytes_max=room)
    for scope in (b"one", b"two", b"one"):
        opened = kept.open(range(40), cache="int8", scope=scope)
        assert opened.reused == 0
        kept.reserve([(opened.sequence, 40)])
        kept[opened.sequence].tokens.extend(range(40))
        kept.close(opened.sequence, keep=True)
    assert kept.spilled_bytes == 0


def test_the_disks_budget_holds(tmp_path: Path) -> None:
    shape = Shape(2, 2, 16)
    room = shape.byte_count("int8", 64)
    kept = KvCache(shape, 256, room, spill=tmp_path, spill_bytes_max=2 * room)
    for number in range(5):
        opened = kept.open(range(40), cache="int8", scope=b"%d" % number)
        kept.reserve([(opened.sequence, 40)])
        kept[opened.sequence].tokens.extend(range(40))
        kept.close(opened.sequence, keep=True)
    assert kept.spilled_bytes == 2 * room
    assert kept.byte_count == room
    assert kept.open(range(40), cache="int8", scope=b"1").reused == 0
    opened = kept.open(range(40), cache="int8", scope=b"2")
    assert opened.reused == 39
    assert kept.spilled_bytes == 2 * room  # what was in memory has taken its place
    # While that one is used nothing can come back, and nothing is lost by asking.
    assert kept.open(range(40), cache="int8", scope=b"3").reused == 0
    kept.close(opened.sequence, keep=False)
    assert kept.open(range(40), cache="int8", scope=b"3").reused == 39


def test_four_bit_keys_take_less(shipped: Llama) -> None:
    tokens = shipped.vocabulary.encode(TEXT)
    sizes = {}
    for cache in ("int8", "int4"):
        sequence = read(shipped, tokens, cache, b"size")
        shipped.forward([Span(sequence, tokens)])
        sizes[cache] = shipped.kv_bytes(sequence)
        shipped.close(sequence, keep=False)
    assert sizes["int4"] < 0.85 * sizes["int8"]  # the first 16 positions are alike


def test_four_bit_keys_of_2048_tokens_take_two_fifths_of_float16s(tmp_path: Path) -> None:
    shape = Shape(layers=30, heads=3, width=64)
    kept = KvCache(shape, 4096, 1 << 30)
    number = kept.open([], cache="int4", scope=b"").sequence
    for _ in range(16):
        kept.reserve([(number, 128)])
        kept[number].tokens.extend(range(128))
    assert kept[number].byte_count == kept.byte_count == shape.byte_count("int4", 2048)
    assert kept.byte_count <= 0.40 * 30 * 3 * 64 * 2 * 2 * 2048
    kept.close(number, keep=False)
    assert kept.byte_count == 0


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    return small_file(tmp_path_factory.mktemp("small") / "small.gguf", "llama")


@pytest.mark.parametrize(
    ("wanted", "instead"),
    [
        (b"llama.embedding_length", b"llama.embedding_lengtX"),
        (b"general.architecture\x08\0\0\0\x05\0\0\0\0\0\0\0llama", None),
        (b"token_embd.weight", b"token_embd.weighX"),
        (b"blk.1.ffn_down.weight", b"blk.1.ffn_downXweight"),
        (b"tokenizer.ggml.merges", b"tokenizer.ggml.mergeX"),
    ],
)
def test_a_file_that_lacks_something_is_refused_by_name(
    small: Path, tmp_path: Path, wanted: bytes, instead: bytes | None
) -> None:
    content = small.read_bytes()
    assert wanted in content
    instead = wanted[:-5] + b"other" if instead is None else instead
    path = tmp_path / "changed.gguf"
    path.write_bytes(content.replace(wanted, instead))
    with pytest.raises(BadGguf, match=r"changed\.gguf"):
        Llama.open(path, "changed", context_tokens=64, kv_bytes_max=0)


def test_a_text_survives_its_tokens(shipped: Llama) -> None:
    vocabulary = shipped.vocabulary
    for text in (TEXT, "Grüße, 世界! 🙂\n\ttab", "1234567890", "don't we'll  double"):
        tokens = vocabulary.encode(text)
        assert b"".join(map(vocabulary.token_bytes, tokens)).decode() == text
    ends = [token for token in vocabulary.encode("<|im_end|>") if token in vocabulary.ending]
    assert len(ends) == 1
    assert vocabulary.token_bytes(ends[0]) == b""
