"""Conversion as a whole: torch.save and GGUF files, folders that appear whole or not at all, what is said."""

from __future__ import annotations

import importlib.util
import json
import pickle
import shutil
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from convert_files import write_json
from typer.testing import CliRunner

from ttbench.checkpoints.checkpoint import resolve
from ttbench.checkpoints.convert.conversion import Converted, convert
from ttbench.checkpoints.loading import load_model
from ttbench.cli.app import app
from ttbench.errors import CheckpointError, WeightsError
from ttbench.models.transformer import Transformer


def run(source: Path, out: Path, **options: Any) -> Converted:
    return convert(source, out, **{"config": None, "report": lambda done, total: None, **options})


def invoke(*words: object) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words])


def held(model: Transformer) -> dict[str, torch.Tensor]:
    dialect = model.DIALECTS[0]
    return {str(dialect.source(name)): tensor for name, tensor in model.state_dict().items()}


@pytest.fixture
def model() -> Transformer:
    torch.manual_seed(0)
    return Transformer.tiny(conv_kernel=0, tie_word_embeddings=True).eval()


@pytest.fixture
def source(tmp_path: Path, model: Transformer) -> Path:
    """A folder as transformers wrote it before safetensors: tied weights are one storage under two names."""
    folder = tmp_path / "published"
    folder.mkdir()
    tensors = held(model)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    torch.save(OrderedDict(tensors), folder / "pytorch_model.bin")
    write_json(folder / "config.json", model.config.to_json())
    write_json(folder / "tokenizer_config.json", {"bos_token": None})
    return folder


def same_logits(out: Path, model: Transformer) -> bool:
    back = load_model(resolve(str(out)), device="cpu", dtype="float32", attention="sdpa")
    ids = torch.randint(model.config.vocab_size, (1, 15))
    with torch.inference_mode():
        return torch.equal(back.head(back(ids)), model.head(model(ids)))


def test_pickled_weights_keep_their_keys_and_values(tmp_path: Path, source: Path, model: Transformer) -> None:
    found = run(source, tmp_path / "out")
    written = safetensors.torch.load_file(tmp_path / "out" / "model.safetensors")
    original = torch.load(source / "pytorch_model.bin", weights_only=True)
    assert written.keys() == original.keys()
    assert all(torch.equal(written[key], original[key]) for key in written)
    assert (found.architecture, found.format, found.remarks) == ("transformer", "torch", ())
    assert (tmp_path / "out" / "tokenizer_config.json").is_file()
    assert same_logits(tmp_path / "out", model)


def test_files_of_before_the_zip_format_are_read_too(tmp_path: Path, source: Path, model: Transformer) -> None:
    path = source / "pytorch_model.bin"
    torch.save(torch.load(path, weights_only=True), path, _use_new_zipfile_serialization=False)
    run(path, tmp_path / "out")
    assert same_logits(tmp_path / "out", model)


def test_several_files_with_an_index_are_one_checkpoint(tmp_path: Path, source: Path, model: Transformer) -> None:
    tensors = torch.load(source / "pytorch_model.bin", weights_only=True)
    (source / "pytorch_model.bin").unlink()
    keys = sorted(tensors)
    names = {key: f"pytorch_model-0000{1 + index % 2}-of-00002.bin" for index, key in enumerate(keys)}
    for name in set(names.values()):
        torch.save({key: tensors[key].clone() for key in keys if names[key] == name}, source / name)
    write_json(source / "pytorch_model.bin.index.json", {"weight_map": names})
    run(source, tmp_path / "out", shard_bytes=20_000)
    assert (tmp_path / "out" / "model.safetensors.index.json").is_file()
    assert same_logits(tmp_path / "out", model)
    (source / "pytorch_model-00002-of-00002.bin").unlink()
    with pytest.raises(WeightsError, match=r"names the file 'pytorch_model-00002-of-00002.bin', which is missing"):
        run(source, tmp_path / "out2")


def test_a_checkpoint_that_nothing_here_reads_is_converted_and_says_so(tmp_path: Path) -> None:
    torch.save({"backbone.embedding.weight": torch.zeros(3, 2)}, tmp_path / "pytorch_model.bin")
    write_json(tmp_path / "config.json", {"model_type": "of-nobody"})
    found = run(tmp_path, tmp_path / "out")
    assert found.architecture is None
    assert "no architecture here reads it" in found.remarks[0]
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == {"model_type": "of-nobody"}


class Harmful:
    def __reduce__(self) -> Any:
        return (print, ("unpickled!",))


@pytest.mark.parametrize(
    ("held", "error", "message"),
    [
        ({"model": {"w": torch.zeros(1)}}, CheckpointError, "holds a dict under 'model'; expected tensors by name"),
        ([torch.zeros(1)], CheckpointError, "holds a list; expected tensors by name"),
        ({}, CheckpointError, "expected tensors by name"),
        ({"w": Harmful()}, CheckpointError, "holds more than tensors, and nothing else is unpickled"),
    ],
    ids=["nested", "list", "empty", "code"],
)
def test_only_tensors_by_name_are_unpickled(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], held: Any, error: type[Exception], message: str
) -> None:
    torch.save(held, tmp_path / "pytorch_model.bin")
    write_json(tmp_path / "config.json", {})
    with pytest.raises(error, match=message):
        run(tmp_path, tmp_path / "out")
    assert "unpickled!" not in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_a_truncated_file_is_an_error_and_leaves_nothing(tmp_path: Path, source: Path) -> None:
    path = source / "pytorch_model.bin"
    path.write_bytes(path.read_bytes()[:-1000])
    before = sorted(tmp_path.iterdir())
    with pytest.raises(WeightsError, match="truncated or broken"):
        run(source, tmp_path / "out")
    assert sorted(tmp_path.iterdir()) == before


def test_a_full_disk_is_an_error_and_leaves_nothing(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = shutil.disk_usage(tmp_path)._replace(free=100)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(CheckpointError, match="has 100 bytes left and the next weights need"):
        run(source, tmp_path / "out")
    assert sorted(tmp_path.iterdir()) == before


def test_a_folder_that_holds_something_is_never_written_over(tmp_path: Path, source: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine").write_text("dear")
    with pytest.raises(CheckpointError, match="already holds something"):
        run(source, out)
    assert [path.name for path in out.iterdir()] == ["mine"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "holds nothing to convert"),
        ({"model.safetensors": b""}, "holds safetensors already; give it to --checkpoint"),
        ({"a.gguf": b"GGUF", "b.gguf": b"GGUF"}, "holds a.gguf, b.gguf; give the one file that is meant"),
        ({"m.gguf": b"version https://git-lfs.github.com/spec/v1\n"}, "pointer of Git LFS"),
        ({"pytorch_model.bin": b"hello"}, "in no known format .it begins with 68 65"),
        ({"pytorch_model.bin": b""}, "it begins with nothing: it is empty"),
    ],
)
def test_a_source_that_cannot_be_converted_says_why(tmp_path: Path, files: dict[str, bytes], message: str) -> None:
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    with pytest.raises(CheckpointError, match=message):
        run(tmp_path, tmp_path / "out")


def test_the_command_writes_progress_to_stderr_and_a_document_to_stdout(tmp_path: Path, source: Path) -> None:
    done = invoke("convert", source, "--out", tmp_path / "out", "--json")
    document = json.loads(done.stdout)
    assert (done.exit_code, document["architecture"], document["has_tokenizer"]) == (0, "transformer", False)
    again = invoke("convert", source, "--out", tmp_path / "out")
    assert again.exit_code == 2
    assert "already holds something" in again.stderr
    shown = invoke("convert", source, "--out", tmp_path / "out2")
    assert "put its tokenizer.json into" in shown.stderr
    assert "transformer" in shown.stdout


def test_a_configuration_is_a_file_a_preset_or_a_name_of_the_catalogue(tmp_path: Path, source: Path) -> None:
    (source / "config.json").rename(tmp_path / "given.json")
    assert invoke("convert", source, "--out", tmp_path / "out").exit_code == 2
    assert invoke("convert", source, "--out", tmp_path / "out", "--config", tmp_path / "given.json").exit_code == 0
    wrong = invoke("convert", source, "--out", tmp_path / "out2", "--config", "ttt-linear-125n")
    assert "did you mean 'ttt-linear-125m'?" in wrong.stderr


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"GGUF", "a GGUF file"),
        (b"\x92\x93\xa1", "a JAX train state"),
        (b"PK\x03\x04", "weights written by torch.save"),
    ],
    ids=["gguf", "jax", "torch"],
)
def test_what_has_to_be_converted_first_says_what_to_type(tmp_path: Path, data: bytes, words: str) -> None:
    name = {b"G": "x.gguf", b"\x92": "streaming_train_state", b"P": "pytorch_model.bin"}[data[:1]]
    path = tmp_path / name
    path.write_bytes(data + b"\x00" * 8)
    for given in (path, tmp_path):
        shown = invoke("run", "perplexity", "--checkpoint", given)
        assert shown.exit_code == 2
        assert words in shown.stderr
        assert f"ttbench convert {given}" in shown.stderr
    write_json(tmp_path / "config.json", Transformer.tiny(conv_kernel=0).config.to_json())
    assert f"ttbench convert {tmp_path}" in invoke("run", "perplexity", "--checkpoint", tmp_path).stderr


def test_gguf_without_its_extra_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.gguf").write_bytes(b"GGUF" + bytes(20))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(CheckpointError, match=r"needs gguf; .*pip install 'ttbench\[gguf\]'"):
        run(tmp_path / "x.gguf", tmp_path / "out")


def test_pickle_is_not_opened_beside_a_train_state(tmp_path: Path) -> None:
    (tmp_path / "metadata.pkl").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(CheckpointError, match="holds nothing to convert"):
        run(tmp_path, tmp_path / "out")


def test_one_of_two_checkpoints_in_a_folder_is_never_picked(tmp_path: Path, source: Path) -> None:
    (source / "other.gguf").write_bytes(b"GGUF" + bytes(20))
    with pytest.raises(
        CheckpointError, match=r"holds other\.gguf, pytorch_model\.bin; give the one file that is meant"
    ):
        run(source, tmp_path / "out")
    run(source / "pytorch_model.bin", tmp_path / "out")


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state_0.pth"])
def test_what_a_trainer_leaves_beside_the_weights_is_no_second_checkpoint(
    tmp_path: Path, source: Path, name: str
) -> None:
    (source / name).write_bytes(b"PK\x03\x04")
    assert run(source, tmp_path / "out").format == "torch"


def test_a_remark_names_the_folder_that_was_written(tmp_path: Path, source: Path) -> None:
    config = json.loads((source / "config.json").read_text())
    write_json(source / "config.json", {**config, "intermediate_size": config["intermediate_size"] + 1})
    found = run(source, tmp_path / "out")
    assert f"the weights in '{tmp_path / 'out'}' do not fit" in found.remarks[0]


@pytest.mark.parametrize("name", ["tokenizer.model", "vocab.json", "spiece.model"])
def test_a_tokenizer_that_only_python_reads_is_said(tmp_path: Path, source: Path, name: str) -> None:
    (source / name).write_bytes(b"{}")
    found = run(source, tmp_path / "out")
    assert f"{name} is not read; write tokenizer.json once" in found.remarks[0]


def test_what_says_where_an_answer_ends_travels_with_the_weights(tmp_path: Path, source: Path) -> None:
    write_json(source / "generation_config.json", {"eos_token_id": [1, 2]})
    run(source, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "generation_config.json").read_text()) == {"eos_token_id": [1, 2]}
