"""Model files: mapped where they lie, refused by name when they are not what was written."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from monolite.errors import Conflict
from monolite.models.encoder import Encoder
from monolite.models.file import VERSION, BadModelFile, ModelFile, ModelPlace, describe
from monolite.models.registry import Models
from tests.models.checkpoints import write_checkpoint

TEXTS = ["how do I reset my password?", "bananas"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("whole")
    made = Models([folder / "models"]).add(write_checkpoint(folder / "tiny"))
    return made.place.path.read_bytes()


@pytest.fixture
def file(whole: bytes, tmp_path: Path) -> Path:
    path = tmp_path / "tiny.model"
    path.write_bytes(whole)
    return path


def used_bytes(path: Path) -> list[tuple[int, int]]:
    """The ranges of a file that mean something; what lies between is padding."""
    content = path.read_bytes()
    (header_bytes,) = struct.unpack_from("<I", content, 12)
    ranges = [(0, 48 + header_bytes)]
    with path.open("rb") as opened:
        data = -(-(48 + header_bytes) // 4096) * 4096
        sections = ModelFile.open(path).arrays.values()
        place = data
        for array in sections:
            ranges.append((place, place + array.nbytes))
            place += -(-array.nbytes // 64) * 64
        assert place == opened.seek(0, 2)
    return ranges


@given(data=st.data())
def test_any_flipped_bit_is_found_and_the_file_named(
    whole: bytes, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("flipped") / "tiny.model"
    path.write_bytes(whole)
    first, end = data.draw(st.sampled_from(used_bytes(path)))
    place = data.draw(st.integers(first, end - 1))
    bit = data.draw(st.integers(0, 7))
    changed = bytearray(whole)
    changed[place] ^= 1 << bit
    path.write_bytes(changed)
    with pytest.raises(BadModelFile, match=str(path)):
        Encoder.open(path)


@given(share=st.floats(0, 1, exclude_max=True))
def test_a_file_cut_anywhere_is_refused(
    whole: bytes, tmp_path_factory: pytest.TempPathFactory, share: float
) -> None:
    path = tmp_path_factory.mktemp("cut") / "tiny.model"
    # The last section's padding may be missing; it means nothing.
    path.write_bytes(whole[: int((len(whole) - 64) * share)])
    with pytest.raises(BadModelFile, match="add it again"):
        Encoder.open(path)


def test_another_format_is_named(file: Path) -> None:
    content = bytearray(file.read_bytes())
    struct.pack_into("<I", content, 8, VERSION + 1)
    file.write_bytes(content)
    with pytest.raises(BadModelFile, match=f"format {VERSION + 1}, this program reads {VERSION}"):
        describe(ModelPlace(file))


@pytest.mark.parametrize("offset", [0, 64, 4096, 12_352])
def test_a_model_is_mapped_where_it_lies_in_another_file(
    file: Path, whole: bytes, tmp_path: Path, offset: int
) -> None:
    carrier = tmp_path / "carrier"
    carrier.write_bytes(b"\x7fELF"[: min(4, offset)].ljust(offset, b"x") + whole + b"and more")
    there = Encoder.open(carrier, offset=offset, length=len(whole))
    alone = Encoder.open(file)
    assert there.encode(TEXTS).vectors.tolist() == alone.encode(TEXTS).vectors.tolist()
    with pytest.raises(BadModelFile):
        Encoder.open(carrier, offset=offset, length=len(whole) // 2)
    with pytest.raises(BadModelFile):
        Encoder.open(carrier, offset=offset + 64, length=len(whole))
    with pytest.raises(BadModelFile):
        Encoder.open(carrier, offset=10**9)


def test_arrays_are_views_of_the_file_and_cannot_be_written(file: Path) -> None:
    arrays = ModelFile.open(file).arrays
    for array in arrays.values():
        assert not array.flags.owndata
        assert not array.flags.writeable
    addresses = [array.ctypes.data % 64 for array in arrays.values()]
    assert set(addresses) == {0}


def test_a_file_called_otherwise_is_refused_by_name(file: Path) -> None:
    renamed = file.with_name("other.model")
    file.rename(renamed)
    models = Models([renamed.parent])
    with pytest.raises(BadModelFile, match=r"other\.model holds the model tiny"):
        models.encoder("other")
    about = models.installed()["other"].about
    assert isinstance(about, BadModelFile)


def test_shapes_that_do_not_agree_never_reach_the_kernels(file: Path, tmp_path: Path) -> None:
    import msgspec

    from monolite.models.file import write

    model = ModelFile.open(file)
    wrong: list[tuple[dict[str, object], str | None]] = [
        ({"dimensions": 128}, None),
        ({"heads": 3}, None),
        ({"layers": 3}, None),
        ({"tokens_max": 10_000}, None),
        ({"pooling": "max"}, None),
        ({"kind": "decoder"}, None),
        ({}, "word_scale"),
        ({}, "1.up.bias"),
        ({}, "tokenizer"),
    ]
    for change, shortened in wrong:
        path = tmp_path / "wrong.model"
        arrays = dict(model.arrays)
        if shortened is not None:
            arrays[shortened] = np.ascontiguousarray(arrays[shortened][:-1])
        write(path, msgspec.structs.replace(model.about, **change), arrays)
        with pytest.raises(BadModelFile, match="wrong"):
            Encoder.open(path)


def test_the_shipped_model_is_found_inside_another_file(whole: bytes, tmp_path: Path) -> None:
    import msgspec

    from monolite.models.file import write
    from monolite.models.registry import DEFAULT_NAME

    alone = tmp_path / f"{DEFAULT_NAME}.model"
    (tmp_path / "tiny.model").write_bytes(whole)
    model = ModelFile.open(tmp_path / "tiny.model")
    write(alone, msgspec.structs.replace(model.about, name=DEFAULT_NAME), model.arrays)
    content = alone.read_bytes()
    program = tmp_path / "program"
    program.write_bytes(b"x" * 8192 + content + b"archive")
    models = Models([tmp_path / "own"], ModelPlace(program, 8192, len(content)))
    assert models.names() == [DEFAULT_NAME]
    assert models.installed()[DEFAULT_NAME].place.bytes == len(content)
    vectors = models.encoder("default").encode(TEXTS).vectors
    assert vectors.tolist() == Encoder.open(alone).encode(TEXTS).vectors.tolist()
    with pytest.raises(Conflict):
        models.remove(DEFAULT_NAME)
    # One of the operator's own hides it.
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / alone.name).write_bytes(content)
    assert models.installed()[DEFAULT_NAME].place.path.parent.name == "own"
