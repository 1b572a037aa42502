"""Checkpoints made into models: prefixes, pooling, positions, agreement, and what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from monolite.errors import Conflict, Invalid
from monolite.models.bert import Bert, erf
from monolite.models.checkpoint import BadCheckpoint, Checkpoint
from monolite.models.encoder import Encoder
from monolite.models.file import About
from monolite.models.registry import DEFAULT_NAME, SHIPPED, Models, NoSuchModel
from tests.models.checkpoints import POSITIONS, tensors, write_checkpoint

QUESTION = "how do I reset my password?"
TEXTS = [QUESTION, "bananas are yellow", "link", "a b " * 12]


@pytest.fixture
def models(tmp_path: Path) -> Models:
    return Models([tmp_path / "models", SHIPPED])


def added(models: Models, checkpoint: Path, name: str | None = None) -> Encoder:
    made = models.add(checkpoint, name)
    assert isinstance(made.about, About)
    return models.encoder(made.about.name)


def agreement(encoder: Encoder, checkpoint: Path) -> float:
    bert = Bert(Checkpoint.read(checkpoint, "x"))
    wanted = bert.encode(encoder.tokenize(TEXTS, None).ids)
    vectors = encoder.encode(TEXTS, None).vectors
    return float((wanted * vectors).sum(axis=1).min())


def test_an_e5_puts_its_prefix_before_each_text(models: Models, tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "multilingual-e5-tiny")
    encoder = added(models, checkpoint)
    assert encoder.name == "multilingual-e5-tiny"
    query = encoder.encode([QUESTION], "query")
    passage = encoder.encode([QUESTION], "passage")
    for encoded, prefix in ((query, "query: "), (passage, "passage: ")):
        by_hand = encoder.encode([prefix + QUESTION], None)
        assert encoded.vectors.tolist() == by_hand.vectors.tolist()
        assert encoded.tokens.tolist() == by_hand.tokens.tolist()
        assert encoded.tokens[0] > encoder.encode([QUESTION], None).tokens[0]
    assert query.vectors.tolist() != passage.vectors.tolist()
    # The float model, given the prefix by hand, agrees.
    bert = Bert(Checkpoint.read(checkpoint, "x"))
    ids = encoder.tokenize(["query: " + QUESTION], None).ids
    assert (bert.encode(ids) * query.vectors).sum() > 0.99


def test_the_checkpoints_own_prefixes_and_the_callers_come_first(
    models: Models, tmp_path: Path
) -> None:
    checkpoint = write_checkpoint(tmp_path / "e5-own")
    prompts = {"prompts": {"query": "a ", "document": "b "}}
    (checkpoint / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    own = models.add(checkpoint).about
    assert isinstance(own, About)
    assert (own.query_prefix, own.passage_prefix) == ("a ", "b ")
    given = models.add(checkpoint, "given", query_prefix="", passage_prefix="c ").about
    assert isinstance(given, About)
    assert (given.query_prefix, given.passage_prefix) == ("", "c ")
    plain = models.add(write_checkpoint(tmp_path / "plain")).about
    assert isinstance(plain, About)
    assert (plain.query_prefix, plain.passage_prefix) == ("", "")


@pytest.mark.parametrize("pooling", ["mean", "first"])
def test_vectors_agree_with_float32_bert_by_its_pooling(
    models: Models, tmp_path: Path, pooling: str
) -> None:
    checkpoint = write_checkpoint(tmp_path / pooling, pooling=pooling)
    encoder = added(models, checkpoint)
    assert encoder.about.pooling == pooling
    assert agreement(encoder, checkpoint) > 0.995
    lengths = np.linalg.norm(encoder.encode(TEXTS).vectors, axis=1)
    assert lengths == pytest.approx(1, abs=1e-5)


def test_the_two_poolings_differ(models: Models, tmp_path: Path) -> None:
    mean, first = (
        added(models, write_checkpoint(tmp_path / pooling, pooling=pooling)).encode(TEXTS).vectors
        for pooling in ("mean", "first")
    )
    assert (mean * first).sum(axis=1).max() < 0.95


def test_roberta_begins_at_its_third_position(models: Models, tmp_path: Path) -> None:
    checkpoint = write_checkpoint(
        tmp_path / "roberta", kind="xlm-roberta", positions=POSITIONS + 2, prefix="roberta."
    )
    encoder = added(models, checkpoint)
    assert encoder.tokens_max == POSITIONS
    expected = tensors(7, POSITIONS + 2)
    rows = expected["embeddings.position_embeddings.weight"][2:]
    read = Checkpoint.read(checkpoint, "x").positions()
    assert np.array_equal(read, rows + expected["embeddings.token_type_embeddings.weight"][0])
    assert agreement(encoder, checkpoint) > 0.995


def test_the_model_says_where_it_comes_from(models: Models, tmp_path: Path) -> None:
    import hashlib

    checkpoint = write_checkpoint(tmp_path / "known")
    about = models.add(checkpoint).about
    assert isinstance(about, About)
    weights = (checkpoint / "model.safetensors").read_bytes()
    assert about.source_sha256 == hashlib.sha256(weights).hexdigest()
    assert about.licence == "mit"


def test_the_weights_file_names_its_checkpoint(models: Models, tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "by-file")
    made = models.add(checkpoint / "model.safetensors")
    assert made.place.path.name == "by-file.model"


def test_a_model_file_is_added_under_a_new_name(models: Models, tmp_path: Path) -> None:
    first = models.add(write_checkpoint(tmp_path / "first"))
    second = models.add(first.place.path, "second")
    assert second.place.path != first.place.path
    assert models.names() == [DEFAULT_NAME, "first", "second"]
    texts = TEXTS[:1]
    assert (
        models.encoder("second").encode(texts).vectors.tolist()
        == models.encoder("first").encode(texts).vectors.tolist()
    )


def test_a_taken_name_is_refused_and_the_model_kept(models: Models, tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "one")
    made = models.add(checkpoint)
    before = made.place.path.read_bytes()
    with pytest.raises(Conflict, match="--name"):
        models.add(write_checkpoint(tmp_path / "two", seed=8), "one")
    with pytest.raises(Conflict):
        models.add(checkpoint, DEFAULT_NAME)
    assert made.place.path.read_bytes() == before


@pytest.mark.parametrize("name", ["default", "../up", ".hidden", "", "a/b", "x" * 129])
def test_a_name_that_no_model_may_have_is_refused(
    models: Models, tmp_path: Path, name: str
) -> None:
    checkpoint = write_checkpoint(tmp_path / "default")
    with pytest.raises(Invalid, match="name"):
        models.add(checkpoint, name)


def test_a_removed_model_is_gone_and_the_shipped_one_stays(models: Models, tmp_path: Path) -> None:
    checkpoint = write_checkpoint(tmp_path / "gone")
    encoder = added(models, checkpoint)
    models.remove("gone")
    with pytest.raises(NoSuchModel, match=DEFAULT_NAME):
        models.encoder("gone")
    # Whoever has it computes on.
    assert encoder.encode(TEXTS).vectors.shape == (4, 64)
    with pytest.raises(Conflict):
        models.remove("default")
    assert models.encoder("default").name == DEFAULT_NAME


def test_a_replaced_model_is_opened_anew(models: Models, tmp_path: Path) -> None:
    old = added(models, write_checkpoint(tmp_path / "one"), "same")
    assert models.encoder("same") is old
    models.remove("same")
    new = added(models, write_checkpoint(tmp_path / "two", seed=8), "same")
    assert new.encode(TEXTS).vectors.tolist() != old.encode(TEXTS).vectors.tolist()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"model_type": "distilbert"}, "BERT family"),
        ({"hidden_act": "relu"}, "BERT family"),
        ({"position_embedding_type": "relative_key"}, "absolute"),
        ({"hidden_size": 60}, "kernels"),
        ({"num_attention_heads": 8}, "kernels"),
        ({"num_attention_heads": 5}, "heads"),
        ({"num_hidden_layers": 3}, "encoder.layer.2"),
        ({"num_hidden_layers": 0}, "num_hidden_layers"),
        ({"hidden_size": None}, "hidden_size"),
    ],
    ids=str,
)
def test_a_config_that_is_none_of_ours_is_named_and_nothing_is_left(
    models: Models, tmp_path: Path, change: dict[str, object], why: str
) -> None:
    checkpoint = write_checkpoint(tmp_path / "odd", **change)
    with pytest.raises(BadCheckpoint, match=why):
        models.add(checkpoint)
    assert list((tmp_path / "models").iterdir()) == []


def test_a_broken_checkpoint_is_named_and_nothing_is_left(models: Models, tmp_path: Path) -> None:
    with pytest.raises(BadCheckpoint, match=r"config\.json"):
        models.add(tmp_path / "nowhere")
    for number, (file, content) in enumerate(
        [
            ("config.json", b"{"),
            ("config.json", b"[]"),
            ("config.json", b"\xff"),
            ("model.safetensors", b"short"),
            ("tokenizer.json", None),
            ("tokenizer.json", b"{}"),
            ("model.safetensors", None),
            ("modules.json", b'[{"type": "sentence_transformers.models.Dense"}]'),
        ]
    ):
        checkpoint = write_checkpoint(tmp_path / f"broken-{number}")
        if content is None:
            (checkpoint / file).unlink()
        else:
            (checkpoint / file).write_bytes(content)
        with pytest.raises(BadCheckpoint, match=file):
            models.add(checkpoint)
    assert list((tmp_path / "models").iterdir()) == []


def test_a_tokenizer_of_another_model_is_refused(models: Models, tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    checkpoint = write_checkpoint(tmp_path / "short")
    weights = tensors(7)
    words = weights["embeddings.word_embeddings.weight"][:-1]
    weights["embeddings.word_embeddings.weight"] = np.ascontiguousarray(words)
    save_file(weights, checkpoint / "model.safetensors")
    with pytest.raises(BadCheckpoint, match=r"tokenizer\.json has ids up to 21"):
        models.add(checkpoint)


def test_weights_that_are_not_numbers_are_refused(models: Models, tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    checkpoint = write_checkpoint(tmp_path / "nan")
    weights = tensors(7)
    weights["encoder.layer.1.output.dense.weight"][3, 5] = np.nan
    save_file(weights, checkpoint / "model.safetensors")
    with pytest.raises(BadCheckpoint, match=r"layer\.1\.output"):
        models.add(checkpoint)


def test_the_oracles_erf_is_erf() -> None:
    x = np.linspace(-5, 5, 2001, dtype=np.float32)
    assert erf(x) == pytest.approx([math.erf(value) for value in x.tolist()], abs=2e-7)
