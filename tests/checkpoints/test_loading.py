"""Weights into memory and back: nothing lost, nothing guessed, nothing half written."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import ttbench
from ttbench.checkpoints import loading
from ttbench.checkpoints.checkpoint import resolve
from ttbench.checkpoints.loading import load_model, load_tokenizer, save_checkpoint
from ttbench.checkpoints.tokenizer import ByteTokenizer
from ttbench.engines.kinds import load_engine
from ttbench.errors import CheckpointError, UsageError, WeightsError
from ttbench.models.base import SequenceModel
from ttbench.models.transformer import Transformer
from ttbench.registry import ARCHITECTURES

IDS = torch.arange(37)[None] % 23


def load(folder: Path, *, dtype: str = "float32") -> SequenceModel:
    return load_model(resolve(str(folder)), device="cpu", dtype=dtype, attention="sdpa")


def logits(model: SequenceModel) -> Tensor:
    with torch.no_grad():
        return model.head(model(IDS))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made") / "tiny"
    save_checkpoint(Transformer.tiny(), folder, dtype="float32")
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "model"))


def change(folder: Path, key: str, value: Tensor) -> None:
    save_file({**load_file(folder / "model.safetensors"), key: value}, folder / "model.safetensors")


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_what_is_saved_comes_back_bit_for_bit(tmp_path: Path, name: str, tied: bool) -> None:
    model = ARCHITECTURES.load(name).tiny(tie_word_embeddings=tied)
    save_checkpoint(model, tmp_path / "out", dtype="float32", extra={"train_ctx": 64, "tokenizer": "bytes"})
    loaded = load(tmp_path / "out")
    assert torch.equal(logits(loaded), logits(model))
    assert loaded.config == model.config
    assert loaded.num_params() == model.num_params()
    assert not loaded.training
    assert ("lm_head.weight" in load_file(tmp_path / "out" / "model.safetensors")) is not tied


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_a_low_precision_file_is_cast_once_and_keeps_vectors_wide(tmp_path: Path, name: str) -> None:
    model = ARCHITECTURES.load(name).tiny()
    save_checkpoint(model, tmp_path / "out", dtype="bfloat16")
    stored = load_file(tmp_path / "out" / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values() if tensor.ndim <= 1} == {torch.float32}
    assert {tensor.dtype for tensor in stored.values() if tensor.ndim > 1} == {torch.bfloat16}
    for dtype in ("float64", "float32", "bfloat16"):
        loaded = load(tmp_path / "out", dtype=dtype)
        assert {str(parameter.dtype) for parameter in loaded.parameters()} == {f"torch.{dtype}"}
        embed = dict(loaded.named_parameters())["embed.weight"]
        sources = {dialect.source("embed.weight") for dialect in type(loaded).DIALECTS}
        (key,) = (key for key in stored if key in sources)
        assert torch.equal(embed, stored[key].to(embed.dtype))


def test_a_sharded_checkpoint_gives_the_same_model(folder: Path) -> None:
    expected = logits(load(folder))
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    weight_map = {}
    for number, key in enumerate(sorted(tensors)):
        weight_map[key] = f"model-{number % 3}.safetensors"
    for name in set(weight_map.values()):
        save_file({key: tensors[key] for key in tensors if weight_map[key] == name}, folder / name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert torch.equal(logits(load(folder)), expected)


def test_weights_do_not_alias_the_file(folder: Path) -> None:
    model = load(folder)
    expected = logits(model)
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-4096:] = bytes(4096)
    with (folder / "model.safetensors").open("r+b") as file:
        file.write(data)
    assert torch.equal(logits(model), expected)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_refused(folder: Path, value: float) -> None:
    bad = torch.ones(32)
    bad[3] = value
    change(folder, "model.norm.weight", bad)
    with pytest.raises(WeightsError, match=r"'model.norm.weight' in .* has 1 of 32 values that are NaN or infinite"):
        load(folder)


def test_weights_too_large_for_the_dtype_are_refused(folder: Path) -> None:
    change(folder, "model.norm.weight", torch.full((32,), 1e5))
    assert load(folder, dtype="bfloat16").num_params()[0] > 0
    with pytest.raises(WeightsError, match=r"values up to 1e\+05, beyond torch\.float16; use float32 or bfloat16"):
        load(folder, dtype="float16")


def test_a_stored_head_must_equal_the_embedding_it_is_tied_to(folder: Path) -> None:
    embed = load_file(folder / "model.safetensors")["model.embed_tokens.weight"]
    change(folder, "lm_head.weight", embed.clone())
    assert load(folder).num_params() == Transformer.tiny().num_params()
    change(folder, "lm_head.weight", embed + 1)
    with pytest.raises(WeightsError, match="set tie_word_embeddings to false"):
        load(folder)


def test_a_folder_that_changed_since_it_was_resolved_is_refused(folder: Path) -> None:
    checkpoint = resolve(str(folder))
    change(folder, "model.norm.weight", torch.full((32,), 2.0))
    with pytest.raises(CheckpointError, match="has changed since it was resolved"):
        load_model(checkpoint, device="cpu", dtype="float32", attention="sdpa")


def test_a_truncated_file_is_refused(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(WeightsError, match="truncated or broken"):
        load_engine(str(folder), device="cpu", dtype="float32", attention="sdpa")


def test_a_pickle_is_never_opened(folder: Path, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return os.mkdir, (str(tmp_path / "sprung"),)

    (folder / "model.safetensors").unlink()
    torch.save({"model.norm.weight": Trap()}, folder / "pytorch_model.bin")
    shutil.copy(folder / "pytorch_model.bin", folder / "model.safetensors")
    with pytest.raises(WeightsError, match="truncated or broken"):
        resolve(str(folder))
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"weights written by torch\.save, which is converted once"):
        resolve(str(folder))
    assert not (tmp_path / "sprung").exists()


def test_the_global_random_state_is_left_alone(folder: Path) -> None:
    before = torch.random.get_rng_state()
    load(folder)
    assert torch.equal(torch.random.get_rng_state(), before)


class Tabled(Transformer):
    """A transformer with a table that no file holds."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.register_buffer("table", torch.full((5,), 3.0), persistent=False)


def test_tables_that_no_file_holds_are_made_by_the_model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ARCHITECTURES._built_in, "transformer", f"{__name__}:Tabled")
    model = load(folder)
    assert torch.equal(dict(model.named_buffers())["table"], torch.full((5,), 3.0))


def test_opening_a_local_checkpoint_loads_neither_the_hub_client_nor_a_compiler(folder: Path) -> None:
    code = (
        "import sys, ttbench; ttbench.load(sys.argv[1]); "
        "print([name for name in ('huggingface_hub', 'sympy', 'torch._dynamo', 'tokenizers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_engine_is_opened_by_name_or_by_checkpoint(folder: Path) -> None:
    by_name = ttbench.load(str(folder), dtype="float64")
    by_checkpoint = load_engine(resolve(str(folder)), device="cpu", dtype="float64", attention="sdpa")
    assert (by_name.name, by_name.device, by_name.dtype, by_name.vocab_size) == ("eager", "cpu", "float64", 257)
    assert torch.equal(by_name.logits(IDS), by_checkpoint.logits(IDS))
    assert load_tokenizer(resolve(str(folder))) is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attention": "flash9"}, "unknown attention back end 'flash9'; available: sdpa"),
        ({"device": "cuda:77"}, "device 'cuda:77' is not there"),
        ({"dtype": "int8"}, "unknown dtype 'int8'"),
    ],
    ids=["attention", "device", "dtype"],
)
def test_what_cannot_run_is_refused(folder: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_engine(str(folder), **{"device": "cpu", "dtype": "float32", "attention": "sdpa", **options})


def test_the_byte_tokenizer_needs_a_model_with_as_many_tokens(tmp_path: Path) -> None:
    for vocab_size in (257, 256):
        model = Transformer.tiny(vocab_size=vocab_size)
        save_checkpoint(model, tmp_path / str(vocab_size), dtype="float32", extra={"tokenizer": "bytes"})
    assert isinstance(load_tokenizer(resolve(str(tmp_path / "257"))), ByteTokenizer)
    with pytest.raises(CheckpointError, match="ids up to 256 and the model only 256 tokens"):
        load_tokenizer(resolve(str(tmp_path / "256")))


def test_saving_refuses_to_overwrite_but_fills_an_empty_folder(tmp_path: Path) -> None:
    model, folder = Transformer.tiny(), tmp_path / "out"
    folder.mkdir()
    save_checkpoint(model, folder, dtype="float32")
    before = (folder / "model.safetensors").read_bytes()
    with pytest.raises(CheckpointError, match="already holds something; remove it"):
        save_checkpoint(Transformer.tiny(), folder, dtype="float32")
    assert (folder / "model.safetensors").read_bytes() == before
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


@pytest.mark.parametrize("when", ["save_file", "write_config"])
def test_saving_that_breaks_off_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    def break_off(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(loading, when, break_off)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(Transformer.tiny(), tmp_path / "out", dtype="float32")
    assert list(tmp_path.iterdir()) == []


def test_saving_refuses_weights_that_are_not_finite(tmp_path: Path) -> None:
    model = Transformer.tiny()
    with torch.no_grad():
        model.norm.weight[0] = float("nan")
    with pytest.raises(WeightsError, match=r"'model\.norm\.weight' has 1 of 32 values"):
        save_checkpoint(model, tmp_path / "out", dtype="float32")
    assert list(tmp_path.iterdir()) == []


def test_extra_fields_are_added_and_may_not_contradict(tmp_path: Path) -> None:
    model = Transformer.tiny()
    with pytest.raises(UsageError, match="contradicts the model's config in hidden_size"):
        save_checkpoint(model, tmp_path / "out", dtype="float32", extra={"hidden_size": 1})
    extra = {"vocab_size": 257, "temperature": float("inf"), "train_ctx": 5}
    save_checkpoint(model, tmp_path / "out", dtype="float32", extra=extra)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["temperature"], config["train_ctx"], config["dtype"]) == ({"__float__": "Infinity"}, 5, "float32")
