"""From a name to a checkpoint: what is found first, what identifies it, and what is refused."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ttbench.checkpoints import checkpoint as module
from ttbench.checkpoints.checkpoint import identify, read_config, resolve, zoo_names
from ttbench.checkpoints.loading import save_checkpoint
from ttbench.checkpoints.naming import zoo_folders
from ttbench.checkpoints.tokenizer import ByteTokenizer
from ttbench.errors import CheckpointError, UnknownNameError, UsageError, WeightsError
from ttbench.models.transformer import Transformer
from ttbench.registry import ARCHITECTURES

EXTRA = {"train_ctx": 96, "tokenizer": "bytes"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One saved tiny checkpoint of each architecture."""
    root = tmp_path_factory.mktemp("made")
    for name in ARCHITECTURES:
        save_checkpoint(ARCHITECTURES.load(name).tiny(), root / name, dtype="float32", extra=EXTRA)
    return {name: root / name for name in ARCHITECTURES}


@pytest.fixture
def folder(made: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of the transformer's folder, to be damaged."""
    return Path(shutil.copytree(made["transformer"], tmp_path / "model"))


def change_config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text()) | changes
    kept = {key: value for key, value in config.items() if value is not ...}
    (folder / "config.json").write_text(json.dumps(kept))


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_a_checkpoint_says_what_it_is(made: dict[str, Path], name: str) -> None:
    found = resolve(str(made[name]))
    model_class = ARCHITECTURES.load(name)
    model = model_class.tiny()
    assert (found.name, found.architecture, found.architecture_version) == (name, name, model_class.version)
    assert (found.path, found.provenance, found.revision) == (str(made[name]), "local", None)
    assert (found.num_params, found.num_params_non_embedding) == model.num_params()
    assert (found.vocab_size, found.train_ctx) == (257, 96)
    assert found.weight_bytes == (made[name] / "model.safetensors").stat().st_size
    assert found.tokenizer_digest == ByteTokenizer.digest
    assert found.cost == model_class.cost(model.config, dtype_bytes=4)
    assert resolve(str(made[name]), dtype="bfloat16").cost == model_class.cost(model.config, dtype_bytes=2)


def test_digests_follow_content_and_not_the_place(folder: Path, made: dict[str, Path]) -> None:
    original, copy = resolve(str(made["transformer"])), resolve(str(folder))
    assert (original.weights_digest, original.config_digest) == (copy.weights_digest, copy.config_digest)
    change_config(folder, train_ctx=97)
    changed = resolve(str(folder))
    assert changed.config_digest != copy.config_digest
    assert changed.weights_digest == copy.weights_digest
    change_weights(folder, lambda tensors: tensors["model.norm.weight"].add_(1))
    assert resolve(str(folder)).weights_digest != copy.weights_digest


def test_shards_are_one_checkpoint_under_any_file_names(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    keys = sorted(tensors)
    found = set()
    for names in (("a.safetensors", "b.safetensors"), ("z.safetensors", "c.safetensors")):
        parts = dict(zip(names, (keys[::2], keys[1::2]), strict=True))
        for name, part in parts.items():
            save_file({key: tensors[key] for key in part}, folder / name)
        weight_map = {key: name for name, part in parts.items() for key in part}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
        found.add(resolve(str(folder)).weights_digest)
    assert len(found) == 1


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, 96),
        ({"train_ctx": ..., "max_position_embeddings": 512}, 512),
        ({"train_ctx": None, "max_position_embeddings": 512}, 512),
        ({"train_ctx": ...}, None),
    ],
    ids=["own", "positions", "null", "unknown"],
)
def test_the_training_context_is_read_or_unknown(folder: Path, changes: dict[str, Any], expected: int | None) -> None:
    change_config(folder, **changes)
    assert resolve(str(folder)).train_ctx == expected


@pytest.mark.parametrize("value", [0, -1, 1.5, "2k", True])
def test_a_training_context_that_is_no_count_is_refused(folder: Path, value: Any) -> None:
    change_config(folder, train_ctx=value)
    with pytest.raises(CheckpointError, match=r"train_ctx=.* expected a positive number of tokens"):
        resolve(str(folder))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda t: t.pop("model.norm.weight"), r"1 missing: model\.norm\.weight"),
        (lambda t: t.pop("model.layers.1.mlp.up_proj.weight"), r"1 missing: model\.layers\.1\.mlp\.up_proj\.weight"),
        (lambda t: t.update({"model.extra": torch.zeros(2)}), r"1 unexpected: model\.extra"),
        (
            lambda t: t.update({"model.layers.2.mlp.up_proj.weight": torch.zeros(48, 32)}),
            r"1 unexpected: model\.layers\.2",
        ),
        (
            lambda t: t.update({"model.layers.01.mlp.up_proj.weight": torch.zeros(48, 32)}),
            r"unexpected: model\.layers\.01",
        ),
        (lambda t: t.update({"model.norm.weight": torch.ones(33)}), r"model\.norm\.weight \(\[33\], expected \[32\]\)"),
        (
            lambda t: t.update({"model.layers.0.mlp.up_proj.weight": torch.zeros(32, 48)}),
            r"\[32, 48\], expected \[48, 32\]",
        ),
        (
            lambda t: t.update({"model.norm.weight": torch.ones(32, dtype=torch.int8)}),
            "I8, expected one of F64.*quantised",
        ),
        (lambda t: [t.pop(key) for key in list(t)[:-3]], "missing: .*, and .* more"),
    ],
    ids=["missing", "missing-layer", "unexpected", "deeper", "odd-number", "length", "transposed", "int8", "many"],
)
def test_weights_that_do_not_fit_are_refused(folder: Path, damage: Any, message: str) -> None:
    change_weights(folder, damage)
    with pytest.raises(WeightsError, match=message) as caught:
        resolve(str(folder))
    assert str(folder) in str(caught.value)


def test_a_tied_head_may_be_left_out_under_either_name_but_not_both(folder: Path) -> None:
    assert "lm_head.weight" not in load_file(folder / "model.safetensors")
    change_weights(folder, lambda t: t.update({"lm_head.weight": t.pop("model.embed_tokens.weight")}))
    assert resolve(str(folder)).vocab_size == 257
    change_weights(folder, lambda t: t.pop("lm_head.weight"))
    with pytest.raises(WeightsError, match=r"1 missing: model\.embed_tokens.weight"):
        resolve(str(folder))


def test_an_untied_head_may_not_be_left_out(folder: Path) -> None:
    change_config(folder, tie_word_embeddings=False)
    with pytest.raises(WeightsError, match=r"1 missing: lm_head\.weight"):
        resolve(str(folder))


def test_buffers_that_older_programs_stored_are_dropped_knowingly(folder: Path) -> None:
    change_weights(folder, lambda t: t.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(4)}))
    assert resolve(str(folder)).num_params == Transformer.tiny().num_params()[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model_type": "bert"},
            r"model_type='bert', which no architecture here reads; .*: add --engine hf",
        ),
        ({"model_type": ...}, "model_type=None, which no architecture here reads; neither does transformers"),
        ({"model_type": ["llama"]}, "which no architecture here reads; neither does transformers"),
        ({"hidden_size": ...}, "lacks hidden_size"),
        ({"hidden_size": "wide"}, "hidden_size='wide'|cannot be read"),
        ({"hidden_size": -32}, "hidden_size=-32; it must be at least 1"),
        ({"vocab_size": 10**30}, "cannot be built|cannot be read"),
        ({"num_attention_heads": 0}, "num_attention_heads=0; it must be at least 1"),
        ({"vocab_size": 0}, "vocab_size=0; it must be at least 1"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers=1000000000, and the weights are"),
        ({"num_hidden_layers": -1}, "num_hidden_layers=-1"),
        ({"num_hidden_layers": "two"}, "num_hidden_layers='two'"),
        ({"tokenizer": "words"}, "tokenizer='words'; allowed: 'bytes'"),
    ],
    ids=range(13),
)
def test_a_config_that_describes_no_model_is_refused(folder: Path, changes: dict[str, Any], message: str) -> None:
    change_config(folder, **changes)
    with pytest.raises(CheckpointError, match=message):
        resolve(str(folder))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not json", "not valid JSON"),
        (b"[]", "expected an object"),
        (b'{"a": "' + b"x" * 5_000_000 + b'"}', "larger than 4194304 bytes"),
    ],
    ids=["text", "list", "giant"],
)
def test_a_config_file_that_is_none_is_refused(folder: Path, content: bytes, message: str) -> None:
    (folder / "config.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        resolve(str(folder))


def test_a_config_that_is_a_link_out_of_the_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "config.json").rename(tmp_path / "secret.json")
    (folder / "config.json").symlink_to(tmp_path / "secret.json")
    with pytest.raises(CheckpointError, match="outside the checkpoint folder"):
        resolve(str(folder))


def test_two_dialects_that_match_are_an_error_that_names_both(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ARCHITECTURES._built_in, "again", "ttbench.models.transformer:Transformer")
    with pytest.raises(CheckpointError, match=r"known to llama-conv \(transformer\) and llama-conv \(again\)"):
        identify(read_config(folder))


def test_transformers_5_spelling_of_infinity_is_read(folder: Path) -> None:
    plain = resolve(str(folder))
    change_config(folder, attention_dropout={"__float__": "Infinity"})
    assert resolve(str(folder)).config_digest != plain.config_digest


def test_the_zoo_comes_before_folders_and_folders_before_the_hub(
    made: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "zoo_folders", lambda: {"tiny": made["ttt-linear"]})
    monkeypatch.chdir(tmp_path)
    shutil.copytree(made["transformer"], tmp_path / "tiny")
    shutil.copytree(made["transformer"], tmp_path / "org" / "name")
    in_zoo, in_folder, like_hub = resolve("tiny"), resolve(f".{os.sep}tiny"), resolve("org/name")
    assert zoo_names() == ("tiny",)
    assert (in_zoo.name, in_zoo.provenance, in_zoo.architecture) == ("tiny", "zoo", "ttt-linear")
    assert (in_folder.name, in_folder.provenance, in_folder.architecture) == ("tiny", "local", "transformer")
    assert (like_hub.name, like_hub.provenance) == ("name", "local")


def test_zoo_names_all_that_ships_and_nobody_twice(
    made: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("mamba2", "s4d", "titans-mag", "transformer-conv", "ttt-linear")
    monkeypatch.setattr(module, "zoo_folders", lambda: dict.fromkeys(names, made["ttt-linear"]))
    assert module.spelled_out(["a", "s4d"]) == ["a", "s4d"]
    assert module.spelled_out(["s4d", "zoo", "a"]) == [
        "s4d",
        "mamba2",
        "titans-mag",
        "transformer-conv",
        "ttt-linear",
        "a",
    ]
    with pytest.raises(UsageError, match="'zoo' is every checkpoint of the zoo, and one is wanted here: mamba2, s4d, "):
        resolve("zoo")
    # a folder of that name is still within reach, and one hears of it
    monkeypatch.chdir(tmp_path)
    shutil.copytree(made["transformer"], tmp_path / "zoo")
    said: list[str] = []
    monkeypatch.setattr(module, "_say", said.append)
    assert len(module.spelled_out(["zoo"])) == len(names)
    assert said == ["'zoo' is every checkpoint of the zoo here; for the folder of that name write ./zoo"]
    assert resolve(f".{os.sep}zoo").architecture == "transformer"


def test_four_are_measured_where_nobody_names_one(made: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("mamba2", "s4d", "titans-mag", "transformer-conv", "ttt-linear")
    monkeypatch.setattr(module, "zoo_folders", lambda: dict.fromkeys(names, made["ttt-linear"]))
    assert module.default_names() == ("mamba2", "titans-mag", "transformer-conv", "ttt-linear")
    for held in (names[:3], ("a", "b", "c", "d", "ttt-linear")):
        monkeypatch.setattr(module, "zoo_folders", lambda held=held: dict.fromkeys(held, made["ttt-linear"]))
        assert module.default_names() == (*(name for name in held if name != "d"),)


def test_a_name_that_nothing_has_gets_a_suggestion(made: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "zoo_folders", lambda: dict(made))
    with pytest.raises(UnknownNameError, match="unknown checkpoint 'transfromer'; did you mean 'transformer'"):
        resolve("transfromer")


def test_a_path_that_is_not_there_is_said_to_be_a_path(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no folder '/.*nothing' here"):
        resolve(str(tmp_path / "nothing"))
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match="is a file; give the folder"):
        resolve(str(tmp_path / "file"))
    with pytest.raises(CheckpointError, match=r"has no config\.json; give a folder that holds"):
        resolve(str(tmp_path))
    # a trainer's folder of checkpoints
    for name in ("checkpoint-500", "checkpoint-1000"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"holds the folders checkpoint-1000, checkpoint-500: give one of them"):
        resolve(str(tmp_path))


def test_an_unknown_dtype_is_refused(folder: Path) -> None:
    with pytest.raises(UsageError, match="unknown dtype 'int4'"):
        resolve(str(folder), dtype="int4")


def test_the_zoo_that_ships_is_whole() -> None:
    for name in zoo_folders():
        found = resolve(name)
        assert (found.name, found.provenance) == (name, "zoo")
        assert found.train_ctx is not None
        assert found.tokenizer_digest == ByteTokenizer.digest
