"""Broken weight files are refused from their headers alone, with words that say what is wrong."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ttbench.checkpoints.weights import INDEX, SINGLE, read_header, read_weights
from ttbench.errors import CheckpointError, WeightsError


def entry(begin: int, end: int, *, shape: Any = None, dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": [(end - begin) // 4] if shape is None else shape, "data_offsets": [begin, end]}


def write(path: Path, header: Any, data: bytes, *, length: int | None = None) -> Path:
    """A safetensors file with any header, said to be `length` bytes long."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw) if length is None else length) + raw + data)
    return path


def index(folder: Path, weight_map: Any) -> None:
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def test_a_sound_file_is_read_with_dtypes_and_shapes(tmp_path: Path) -> None:
    header = {
        "__metadata__": {"format": "pt"},
        "b": entry(8, 24, shape=[2, 2]),
        "a": entry(0, 8, dtype="BF16", shape=[4]),
    }
    tensors = read_header(write(tmp_path / SINGLE, header, bytes(24)))
    assert {key: (t.dtype, t.shape) for key, t in tensors.items()} == {"a": ("BF16", (4,)), "b": ("F32", (2, 2))}
    assert read_weights(tmp_path).nbytes == (tmp_path / SINGLE).stat().st_size


def test_scalars_and_empty_tensors_are_sound(tmp_path: Path) -> None:
    header = {"scalar": entry(0, 4, shape=[]), "empty": entry(4, 4, shape=[0, 3])}
    assert read_header(write(tmp_path / SINGLE, header, bytes(4)))["empty"].shape == (0, 3)


@pytest.mark.parametrize(
    ("header", "data", "length", "message"),
    [
        ({"a": entry(0, 8)}, bytes(7), None, "need 8 bytes of data and the file has 7"),
        ({"a": entry(0, 8)}, bytes(9), None, "need 8 bytes of data and the file has 9"),
        ({"a": entry(0, 8)}, bytes(8), 2**63, "header said to be of 9223372036854775808 bytes"),
        ({"a": entry(0, 8)}, bytes(8), 1000, "header said to be of 1000 bytes"),
        ({"a": entry(0, 8)}, bytes(8), 0, "header said to be of 0 bytes"),
        (b"{not json}", b"", None, "not valid JSON"),
        (b"\xff\xfe{}", b"", None, "not valid JSON"),
        (b"[" * 100000, b"", None, "not valid JSON"),
        (b'{"a": 1, "a": 2}', b"", None, "stands twice"),
        ([1, 2], b"", None, "not a JSON object"),
        ({}, b"", None, "holds no tensors"),
        ({"a": {"dtype": "F32", "shape": [2]}}, bytes(8), None, "lacks dtype, shape or data_offsets"),
        ({"a": entry(0, 8, dtype="F33")}, bytes(8), None, "unknown dtype 'F33'"),
        ({"a": entry(0, 8, dtype=["F32"])}, bytes(8), None, "unknown dtype"),
        ({"a": entry(0, 8, shape=[3])}, bytes(8), None, r"shape \[3\] needs 12 bytes and is given 8"),
        ({"a": entry(0, 8, shape=[-1, -2])}, bytes(8), None, "expected lists of counts"),
        ({"a": entry(0, 8, shape=[True, 2])}, bytes(8), None, "expected lists of counts"),
        ({"a": entry(0, 8, shape=[2.0])}, bytes(8), None, "expected lists of counts"),
        ({"a": entry(0, 8, shape=[2**70])}, bytes(8), None, "needs"),
        ({"a": {**entry(0, 8), "data_offsets": [0, 4, 8]}}, bytes(8), None, "expected lists of counts"),
        ({"a": {**entry(0, 8), "data_offsets": [8, 0]}}, bytes(8), None, "is given -8"),
        ({"a": entry(0, 8), "b": entry(4, 12)}, bytes(12), None, "overlap or leave a gap at byte 4"),
        ({"a": entry(0, 8), "b": entry(12, 16)}, bytes(16), None, "overlap or leave a gap at byte 8"),
        ({"a": entry(0, 8), "b": entry(0, 8)}, bytes(8), None, "overlap"),
    ],
    ids=range(24),
)
def test_a_broken_file_is_refused(tmp_path: Path, header: Any, data: bytes, length: int | None, message: str) -> None:
    with pytest.raises(WeightsError, match=message) as caught:
        read_header(write(tmp_path / SINGLE, header, data, length=length))
    assert str(tmp_path / SINGLE) in str(caught.value)


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    whole = write(tmp_path / SINGLE, {"a": entry(0, 8), "b": entry(8, 12)}, bytes(12)).read_bytes()
    for length in range(len(whole)):
        (tmp_path / SINGLE).write_bytes(whole[:length])
        with pytest.raises(WeightsError, match="truncated or broken"):
            read_header(tmp_path / SINGLE)


@given(st.binary(max_size=200))
def test_noise_is_refused_and_never_crashes(tmp_path_factory: pytest.TempPathFactory, noise: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "noise.safetensors"
    path.write_bytes(noise)
    with pytest.raises((WeightsError, CheckpointError)):
        read_header(path)


def test_shards_are_read_through_their_index(tmp_path: Path) -> None:
    write(tmp_path / "one.safetensors", {"a": entry(0, 8)}, bytes(8))
    write(tmp_path / "two.safetensors", {"b": entry(0, 4)}, bytes(4))
    index(tmp_path, {"b": "two.safetensors", "a": "one.safetensors"})
    stored = read_weights(tmp_path)
    assert {key: tensor.path.name for key, tensor in stored.tensors.items()} == {
        "a": "one.safetensors",
        "b": "two.safetensors",
    }
    assert [path.name for path in stored.paths] == ["one.safetensors", "two.safetensors"]


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        ({"a": "../one.safetensors"}, "only plain file names"),
        ({"a": "/etc/passwd"}, "only plain file names"),
        ({"a": ".."}, "only plain file names"),
        ({"a": ""}, "only plain file names"),
        ({"a": "x\0y"}, "only plain file names"),
        ({"a": "sub\\one.safetensors"}, "only plain file names"),
        ({"a": "missing.safetensors"}, "'missing.safetensors', which is missing"),
        ({"a": "config.json"}, "only .safetensors files"),
        ({"a": "one.safetensors", "b": "one.safetensors"}, r"missing from the file \[b\]"),
        ({"b": "one.safetensors"}, r"not in the index \[a\]"),
        ({"a": 1}, "no weight_map"),
        ({}, "no weight_map"),
        (None, "no weight_map"),
    ],
    ids=range(13),
)
def test_a_broken_index_is_refused(tmp_path: Path, weight_map: Any, message: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for place in (folder, tmp_path):
        write(place / "one.safetensors", {"a": entry(0, 8)}, bytes(8))
    (folder / "config.json").write_text("{}")
    index(folder, weight_map)
    with pytest.raises(CheckpointError, match=message):
        read_weights(folder)


def test_links_out_of_the_folder_are_refused(tmp_path: Path) -> None:
    outside = write(tmp_path / "outside.safetensors", {"a": entry(0, 8)}, bytes(8))
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / SINGLE).symlink_to(outside)
    with pytest.raises(CheckpointError, match="outside the checkpoint folder; copy the file"):
        read_weights(folder)


def test_links_inside_the_folder_are_followed(tmp_path: Path) -> None:
    write(tmp_path / "real", {"a": entry(0, 8)}, bytes(8))
    (tmp_path / SINGLE).symlink_to("real")
    assert read_weights(tmp_path).tensors.keys() == {"a"}


@pytest.mark.parametrize("kind", ["dangling", "folder", "loop"])
def test_what_is_no_file_is_refused(tmp_path: Path, kind: str) -> None:
    if kind == "folder":
        (tmp_path / SINGLE).mkdir()
    else:
        (tmp_path / SINGLE).symlink_to("nothing" if kind == "dangling" else SINGLE)
    with pytest.raises(CheckpointError, match=r"link to nothing|not a regular file"):
        read_weights(tmp_path)


def test_an_index_that_names_only_the_single_file_agrees_with_it(tmp_path: Path) -> None:
    """As mlx-lm writes it."""
    write(tmp_path / SINGLE, {"a": entry(0, 8)}, bytes(8))
    index(tmp_path, {"a": SINGLE})
    assert set(read_weights(tmp_path).tensors) == {"a"}
    index(tmp_path, {"a": SINGLE, "b": SINGLE})
    with pytest.raises(WeightsError, match=r"disagree: missing from the file \[b\]"):
        read_weights(tmp_path)


def test_an_index_whose_shards_are_not_there_gives_way_to_the_single_file(tmp_path: Path) -> None:
    write(tmp_path / SINGLE, {"a": entry(0, 8)}, bytes(8))
    index(tmp_path, {"a": "model-00001-of-00001.safetensors"})
    assert set(read_weights(tmp_path).tensors) == {"a"}


def test_both_layouts_at_once_are_refused(tmp_path: Path) -> None:
    for name in (SINGLE, "model-00001-of-00001.safetensors"):
        write(tmp_path / name, {"a": entry(0, 8)}, bytes(8))
    index(tmp_path, {"a": "model-00001-of-00001.safetensors"})
    with pytest.raises(CheckpointError, match="may disagree; give a copy of the folder with one of them"):
        read_weights(tmp_path)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors"], "2 of 3 shards.*Download.*index"),
        (["consolidated.safetensors"], "authors' own layout under other tensor names"),
        (["consolidated-00001-of-00002.safetensors"], "authors' own layout"),
        (["weights.safetensors"], r"name the file model\.safetensors"),
        (["adapter_model.safetensors"], "an adapter of 'org/base', not a model. Merge it into its base first"),
    ],
    ids=["shards", "consolidated", "consolidated-shards", "other-name", "adapter"],
)
def test_weights_under_another_name_are_called_what_they_are(tmp_path: Path, names: list[str], said: str) -> None:
    for name in names:
        write(tmp_path / name, {"a": entry(0, 8)}, bytes(8))
    if names[0].startswith("adapter"):
        (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "org/base"}')
    with pytest.raises(CheckpointError, match=said) as caught:
        read_weights(tmp_path)
    assert "save_file" not in str(caught.value)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.gguf", "streaming.msgpack", None])
def test_a_folder_without_safetensors_says_what_is_read(tmp_path: Path, name: str | None) -> None:
    if name:
        (tmp_path / name).write_bytes(b"\x80\x04")
    with pytest.raises(CheckpointError, match="only safetensors is read") as caught:
        read_weights(tmp_path)
    assert "save_file" in str(caught.value)
    assert name is None or name in str(caught.value)


def test_a_pointer_of_git_lfs_is_called_one(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 9\n")
    with pytest.raises(CheckpointError, match="is a pointer of Git LFS, not the file itself; in its folder type"):
        read_weights(tmp_path)


def test_an_adapter_beside_a_model_is_a_question_not_a_guess(tmp_path: Path) -> None:
    write(tmp_path / "model.safetensors", {"a": entry(0, 8)}, bytes(8))
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "org/base"}')
    with pytest.raises(CheckpointError, match=r"a model and an adapter .* which is meant"):
        read_weights(tmp_path)
