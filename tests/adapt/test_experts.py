"""Experts on disk: our format, Sakana's two, and what ships."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from tiny_experts import gpt2, llama, make_expert, native

from ttbench.adapt.decompositions import DecompositionCache
from ttbench.adapt.expert_training.lessons import course_path, read_course
from ttbench.adapt.experts import find_library, library_digest, library_folders, read_expert, read_library, save_expert
from ttbench.adapt.matrices import choose_matrices
from ttbench.adapt.sakana import read_sakana
from ttbench.adapt.svf import activate
from ttbench.adapt.switch import Switch
from ttbench.checkpoints.checkpoint import resolve
from ttbench.errors import CheckpointError, UnknownNameError


@pytest.mark.parametrize("kind", ["paper", "repository", "lora"])
def test_an_expert_comes_back_from_its_folder_as_it_was(kind: str, tmp_path: Path) -> None:
    expert = make_expert(native().model, "a", kind=kind)
    save_expert(expert, tmp_path / "lib" / "a")
    back = read_expert(tmp_path / "lib" / "a")
    assert back.to_json() == expert.to_json()
    for matrix, parts in expert.tensors.items():
        for part, value in parts.items():
            np.testing.assert_array_equal(back.tensors[matrix][part], value)
    assert [each.name for each in read_library(find_library(str(tmp_path / "lib")))] == ["a"]
    with pytest.raises(CheckpointError, match="already holds something"):
        save_expert(expert, tmp_path / "lib" / "a")


def test_a_folder_whose_parts_disagree_is_refused(tmp_path: Path) -> None:
    expert = make_expert(native().model, "a")
    save_expert(expert, tmp_path / "a")
    matrix = next(iter(expert.shapes))
    tensors = {f"{name}.z": parts["z"] for name, parts in expert.tensors.items()}
    for changed, message in (
        ({**tensors, f"{matrix}.z": np.zeros(5, np.float32)}, "takes .32.. Is it an expert of another model"),
        ({**tensors, f"{matrix}.z": np.full(32, np.nan, np.float32)}, "not finite"),
        ({**tensors, "layers.9.z": np.zeros(5, np.float32)}, "disagree about layers.9.z"),
    ):
        save_file(changed, tmp_path / "a" / "expert.safetensors")
        with pytest.raises(CheckpointError, match=message):
            read_expert(tmp_path / "a")
    card = json.loads((tmp_path / "a" / "expert.json").read_text())
    (tmp_path / "a" / "expert.json").write_text(json.dumps({**card, "form": "other"}))
    with pytest.raises(CheckpointError, match="allowed are method svf with form paper or repository, and lora"):
        read_expert(tmp_path / "a")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scale": "absent"}, "expert.json' lacks scale"),
        ({"domain": 3}, "wrong are: domain"),
        ({"matrices": {}}, r"wrong are: matrices \(names with \[rows, columns\]\)"),
        ({"matrices": {"layers.0": [1]}}, r"wrong are: matrices: layers.0 \[1\]"),
        ({"method": "lora", "form": None}, r"wrong are: scale None \(lora needs a number\)"),
        ({"method": "lora"}, "is no expert of format 1; allowed are"),
        ([], "is no expert of format 1; allowed are"),
    ],
    ids=str,
)
def test_a_card_with_a_mistake_is_refused_with_what_is_wrong_before_anything_runs(
    change: dict[str, object] | list[object], message: str, tmp_path: Path
) -> None:
    save_expert(make_expert(native().model, "a"), tmp_path / "a")
    path = tmp_path / "a" / "expert.json"
    card = change
    if isinstance(change, dict):
        merged = {**json.loads(path.read_text()), **change}
        card = {name: value for name, value in merged.items() if value != "absent"}
    path.write_text(json.dumps(card))
    for read in (read_expert, lambda folder: library_digest(folder.parent)):
        with pytest.raises(CheckpointError, match=message):
            read(tmp_path / "a")


def test_a_lora_expert_whose_halves_have_different_ranks_is_refused(tmp_path: Path) -> None:
    expert = make_expert(native().model, "a", kind="lora")
    first = next(iter(expert.tensors))
    parts = {"A": expert.tensors[first]["A"], "B": np.ones((expert.shapes[first][0], 3), np.float32)}
    save_expert(dataclasses.replace(expert, tensors={**expert.tensors, first: parts}), tmp_path / "a")
    with pytest.raises(CheckpointError, match=r"B' has shape \[48, 3\]; a matrix of 48 x 32 takes \[48, 2\]"):
        read_expert(tmp_path / "a")


def test_a_library_whose_experts_cannot_be_told_apart_or_lack_tensors_is_refused(tmp_path: Path) -> None:
    for folder in "ab":
        save_expert(make_expert(native().model, "same"), tmp_path / folder)
    with pytest.raises(CheckpointError, match=r"two experts in .* are called 'same'"):
        read_library(tmp_path)
    (tmp_path / "b" / "expert.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"cannot read the tensors of the expert in .*b'"):
        library_digest(tmp_path)


def test_the_digest_of_a_library_follows_its_content(tmp_path: Path) -> None:
    model = native().model
    save_expert(make_expert(model, "a"), tmp_path / "a")
    before = library_digest(tmp_path)
    save_expert(make_expert(model, "b"), tmp_path / "b")
    assert library_digest(tmp_path) != before


def test_an_unknown_library_and_an_empty_one_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match=r"unknown library of experts 'transfomer'.*did you mean 'transformer'"):
        find_library("transfomer")
    with pytest.raises(CheckpointError, match="holds no experts"):
        find_library(str(tmp_path))


# Sakana's formats


def positional(vectors: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"learnable_params_module_list.{index}": vector for index, vector in enumerate(vectors)}


READ = {"name": "x", "domain": "code", "base": "tiny", "base_digest": None}


@pytest.mark.parametrize("make", [native, llama, gpt2], ids=["native", "hf-llama", "hf-gpt2"])
def test_a_positional_file_is_read_in_the_order_of_the_state_dict(make: object, tmp_path: Path) -> None:
    engine = make()  # type: ignore[operator]
    names = [name for name in engine.model.state_dict() if ".mlp." in name and name.endswith("weight")]
    shapes = [engine.model.state_dict()[name].shape for name in names]
    torch.manual_seed(1)
    vectors = [torch.randn(min(shape)).bfloat16() for shape in shapes]
    torch.save(positional(vectors), tmp_path / "policy_params.pt")
    expert = read_sakana(tmp_path / "policy_params.pt", engine.model, **READ)
    assert expert.form == "repository"
    for name, vector in zip(names, vectors, strict=True):
        np.testing.assert_array_equal(expert.tensors[name.removesuffix(".weight")]["p"], vector.float().numpy())
    # z = sigmoid(p), and the nuclear norm of each matrix is kept
    weight = choose_matrices(engine.model, "*.mlp.*")[names[0].removesuffix(".weight")]
    before = torch.linalg.svdvals(weight.detach())
    with Switch(engine.model, [expert], cache=DecompositionCache(tmp_path / "svd")) as switch:
        switch.to({"x": 1.0})
        after = torch.linalg.svdvals(weight.detach())
    scaled = before * activate(vectors[0].float(), "repository")
    torch.testing.assert_close(after, (scaled * before.sum() / scaled.sum()).sort(descending=True).values)


def test_a_file_by_name_is_read_for_transformers_and_through_the_dialect_natively(tmp_path: Path) -> None:
    engine = llama()
    names = [name for name in engine.model.state_dict() if ".mlp." in name]
    torch.manual_seed(1)
    # the order of a dictionary must not matter
    held = {name: torch.randn(32).bfloat16() for name in reversed(names)}
    torch.save(held, tmp_path / "learnable_params.pt")
    theirs = read_sakana(tmp_path / "learnable_params.pt", engine.model, **READ)
    ours = read_sakana(tmp_path / "learnable_params.pt", native().model, **READ)
    for name in names:
        matrix = name.removesuffix(".weight")
        np.testing.assert_array_equal(theirs.tensors[matrix]["p"], held[name].float().numpy())
        np.testing.assert_array_equal(ours.tensors[matrix.removeprefix("model.")]["p"], held[name].float().numpy())


def test_the_format_is_told_by_the_content_not_by_the_name_of_the_file(tmp_path: Path) -> None:
    torch.save(positional([torch.zeros(32)] * 6), tmp_path / "learnable_params.pt")
    assert len(read_sakana(tmp_path / "learnable_params.pt", native().model, **READ).shapes) == 6


@pytest.mark.parametrize(
    ("held", "message"),
    [
        (positional([torch.zeros(32)] * 5), "5 vectors by position; the model has 6 MLP matrices"),
        (positional([torch.tensor(0.0)] * 6), r"has shape \[\]; a matrix of 48 x 32 takes"),
        (positional([torch.zeros(31)] * 6), "takes .32.. Is it an expert of another model"),
        ({**positional([torch.zeros(32)] * 6), "adaptive_weights": torch.zeros(2, 1)}, "is a mixture of experts"),
        ({"model.layers.0.mlp.gate_proj.weight": torch.zeros(7)}, "takes .32.."),
        ({"model.layers.7.mlp.gate_proj.weight": torch.zeros(32)}, "no matrix of the model"),
        ({"transformer.h.0.weight": torch.zeros(32)}, "vector for 'transformer.h.0.weight'"),
        ({**positional([torch.zeros(32)]), "model.x.weight": torch.zeros(32)}, "in neither of Sakana's formats"),
        ([torch.zeros(3)], "no dictionary of tensors"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_with_what_is_wrong(held: object, message: str, tmp_path: Path) -> None:
    torch.save(held, tmp_path / "policy_params.pt")
    with pytest.raises(CheckpointError, match=message):
        read_sakana(tmp_path / "policy_params.pt", native().model, **READ)


def test_nothing_but_tensors_is_unpickled(tmp_path: Path) -> None:
    torch.save({"learnable_params_module_list.0": Path("x")}, tmp_path / "policy_params.pt")
    with pytest.raises(CheckpointError, match="cannot be read as tensors alone"):
        read_sakana(tmp_path / "policy_params.pt", native().model, **READ)


# What ships


def test_every_expert_that_ships_belongs_to_its_base_and_to_the_recipe() -> None:
    assert "transformer" in library_folders()
    for name, folder in library_folders().items():
        course = read_course(course_path(name))
        experts = {expert.name: expert for expert in read_library(folder)}
        assert set(experts) == set(course.lessons)
        base = resolve(course.base)
        for expert in experts.values():
            assert expert.base_digest == base.weights_digest
            lesson = course.lessons[expert.name]
            made = {key: expert.training["recipe"][key] for key in ("domain", "method", "objective", "steps", "lr")}
            assert made == {key: getattr(lesson, key) for key in made}


def test_an_svf_expert_has_one_number_per_singular_value_and_lora_many_more() -> None:
    experts = {expert.name: expert for expert in read_library(find_library("transformer"))}
    # 5 layers, 3 matrices of 128 x 352
    assert experts["code"].num_params == 5 * 3 * 128
    assert experts["lora-code"].num_params == 5 * 3 * 2 * (128 + 352)
