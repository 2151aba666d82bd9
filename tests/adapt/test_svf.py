"""Singular value fine-tuning: its maths, what a switch leaves, and the cache of decompositions."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from tiny_experts import ENGINES, gpt2, make_expert, native, some_ids

from ttbench.adapt.decompositions import DecompositionCache, weight_key
from ttbench.adapt.matrices import choose_matrices, find_matrices
from ttbench.adapt.svf import FORMS, START, Form, activate, decompose, recompose
from ttbench.adapt.switch import Switch
from ttbench.errors import CheckpointError, UnknownNameError, UsageError


def bytes_of(model: torch.nn.Module) -> dict[str, bytes]:
    return {
        name: value.detach().contiguous().view(torch.uint8).numpy().tobytes()
        for name, value in model.state_dict().items()
    }


@pytest.mark.parametrize("shape", [(15, 63), (63, 15), (1, 15), (100, 100)], ids=str)
@pytest.mark.parametrize("form", FORMS)
def test_what_training_starts_from_is_the_base(shape: tuple[int, int], form: Form) -> None:
    torch.manual_seed(0)
    weight = torch.randn(shape, dtype=torch.float64)
    factors = decompose(weight, dtype=torch.float64)
    start = torch.full_like(factors.S, START[form])
    torch.testing.assert_close(recompose(factors, activate(start, form), form), weight, rtol=0, atol=1e-12)


def test_the_paper_form_multiplies_singular_values_and_the_repository_form_keeps_their_sum() -> None:
    torch.manual_seed(0)
    factors = decompose(torch.randn(15, 31, dtype=torch.float64), dtype=torch.float64)
    trained = torch.randn(15, dtype=torch.float64)
    z = trained.abs() + 0.1
    found = torch.linalg.svdvals(recompose(factors, z, "paper"))
    torch.testing.assert_close(found, (factors.S * z).sort(descending=True).values)
    kept = torch.linalg.svdvals(recompose(factors, activate(trained, "repository"), "repository"))
    torch.testing.assert_close(kept.sum(), factors.S.sum())
    scaled = factors.S * torch.sigmoid(trained)
    torch.testing.assert_close(kept, (scaled * factors.S.sum() / scaled.sum()).sort(descending=True).values)


@pytest.mark.parametrize("form", FORMS)
def test_recomposition_is_differentiable_in_what_is_trained(form: Form) -> None:
    torch.manual_seed(0)
    factors = decompose(torch.randn(5, 7, dtype=torch.float64), dtype=torch.float64)
    trained = torch.randn(5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda p: recompose(factors, activate(p, form), form), (trained,))


@pytest.mark.parametrize("make", ENGINES.values(), ids=ENGINES)
def test_an_expert_that_changes_nothing_gives_the_logits_of_the_base(make: object, tmp_path: Path) -> None:
    engine = make()  # type: ignore[operator]
    before = engine.logits(some_ids())
    experts = [
        make_expert(engine.model, "ones", value=1.0),
        make_expert(engine.model, "even", kind="repository", value=0.1),
    ]
    with Switch(engine.model, experts, cache=DecompositionCache(tmp_path)) as switch:
        for name in switch.experts:
            switch.to({name: 1.0})
            torch.testing.assert_close(engine.logits(some_ids()), before, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["paper", "repository", "lora"])
@pytest.mark.parametrize("make", ENGINES.values(), ids=ENGINES)
def test_other_restores_the_base_bit_for_bit_and_no_address_moves(make: object, kind: str, tmp_path: Path) -> None:
    engine = make()  # type: ignore[operator]
    held, before = bytes_of(engine.model), engine.logits(some_ids())
    addresses = [parameter.data_ptr() for parameter in engine.model.parameters()]
    switch = Switch(engine.model, [make_expert(engine.model, "a", kind=kind)], cache=DecompositionCache(tmp_path))
    switch.to({"a": 1.0})
    assert not torch.allclose(engine.logits(some_ids()), before, atol=1e-3)
    switch.to({})
    assert bytes_of(engine.model) == held
    assert [parameter.data_ptr() for parameter in engine.model.parameters()] == addresses
    assert torch.equal(engine.logits(some_ids()), before)


@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
def test_weights_of_other_dtypes_are_restored_too(dtype: str, tmp_path: Path) -> None:
    engine = native(dtype=dtype)
    held = bytes_of(engine.model)
    with Switch(engine.model, [make_expert(engine.model, "a")], cache=DecompositionCache(tmp_path)) as switch:
        switch.to({"a": 1.0})
        assert bytes_of(engine.model) != held
    assert bytes_of(engine.model) == held


def test_an_error_while_experts_are_in_leaves_the_base_behind(tmp_path: Path) -> None:
    engine = native()
    held = bytes_of(engine.model)
    switch = Switch(engine.model, [make_expert(engine.model, "a")], cache=DecompositionCache(tmp_path))

    def fail() -> None:
        with switch:
            switch.to({"a": 1.0})
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert bytes_of(engine.model) == held


@pytest.mark.parametrize("kind", ["paper", "repository", "lora"])
def test_a_mixture_of_one_is_that_expert_and_an_even_one_lies_between(kind: str, tmp_path: Path) -> None:
    engine = native()
    experts = [make_expert(engine.model, name, kind=kind, seed=seed) for seed, name in enumerate("ab")]
    weight = next(iter(choose_matrices(engine.model, "*.mlp.*").values()))
    with Switch(engine.model, experts, cache=DecompositionCache(tmp_path)) as switch:
        seen = {}
        for choice in ({"a": 1.0}, {"a": 1.0, "b": 0.0}, {"b": 1.0}, {"a": 0.5, "b": 0.5}):
            switch.to(choice)
            seen[str(choice)] = weight.detach().clone()
        alone, one_hot, other, even = seen.values()
    assert torch.equal(alone, one_hot)
    assert not torch.allclose(alone, other, atol=1e-3)
    if kind != "repository":
        torch.testing.assert_close(even, (alone + other) / 2, rtol=1e-4, atol=1e-5)


def test_weights_are_composed_once_per_switch_and_not_for_the_same_choice_again(tmp_path: Path) -> None:
    engine = native()
    with Switch(engine.model, [make_expert(engine.model, "a")], cache=DecompositionCache(tmp_path)) as switch:
        for choice in ({"a": 1.0}, {"a": 1.0}, {}, {}, {"a": 1.0}):
            switch.to(choice)
            engine.logits(some_ids())
        assert switch.num_switches == 3
        assert switch.switch_s > 0


def test_an_expert_of_few_matrices_lets_go_of_those_of_the_one_before(tmp_path: Path) -> None:
    engine = native()
    wide = make_expert(engine.model, "wide")
    first = next(iter(wide.shapes))
    narrow = make_expert(engine.model, "narrow")
    narrow = dataclasses.replace(narrow, tensors={first: narrow.tensors[first]}, shapes={first: narrow.shapes[first]})
    held = bytes_of(engine.model)
    with Switch(engine.model, [wide, narrow], cache=DecompositionCache(tmp_path)) as switch:
        switch.to({"wide": 1.0})
        switch.to({"narrow": 1.0})
        now = bytes_of(engine.model)
    assert [name for name in held if held[name] != now[name]] == [f"{first}.weight"]


def test_a_switch_refuses_what_has_no_meaning(tmp_path: Path) -> None:
    engine = native()
    experts = [make_expert(engine.model, kind, kind=kind) for kind in ("paper", "repository", "lora")]
    cache = DecompositionCache(tmp_path)
    with Switch(engine.model, experts, cache=cache) as switch:
        with pytest.raises(UnknownNameError, match=r"unknown expert 'papre'.*did you mean 'paper'"):
            switch.to({"papre": 1.0})
        with pytest.raises(UsageError, match="different methods or forms"):
            switch.to({"paper": 0.5, "lora": 0.5})
    with pytest.raises(CheckpointError, match=r"expert 'paper' changes 'layers.0.mlp.gate_proj'"):
        Switch(gpt2().model, experts, cache=cache)


# Matrices


def test_matrices_come_in_the_order_of_the_state_dict_without_tables_and_tied_weights() -> None:
    engine = native()
    found = find_matrices(engine.model)
    order = [name.removesuffix(".weight") for name in engine.model.state_dict()]
    assert list(found) == [name for name in order if name in found]
    assert not {"embed", "lm_head"} & set(found)
    assert len(choose_matrices(engine.model, "*.mlp.*")) == 2 * 3
    assert len(choose_matrices(engine.model, "*.mixer.q_proj, *.mixer.v_proj")) == 2 * 2


def test_a_pattern_that_fits_nothing_is_an_error_with_names() -> None:
    with pytest.raises(UsageError, match=r"called like '\*\.mpl\.\*'; it has: layers\.0\.mixer\.q_proj"):
        choose_matrices(native().model, "*.mpl.*")


# The cache


def test_a_decomposition_is_made_once_for_equal_values_and_only_for_touched_matrices(tmp_path: Path) -> None:
    first, second = native(), native()
    cache = DecompositionCache(tmp_path)
    expert = make_expert(first.model, "a")
    Switch(first.model, [expert, make_expert(first.model, "b")], cache=cache)
    assert cache.num_made == len(expert.shapes) == len(list(tmp_path.iterdir()))
    Switch(second.model, [expert], cache=cache)
    assert cache.num_made == len(expert.shapes)
    Switch(second.model, [make_expert(second.model, "c", kind="lora")], cache=DecompositionCache(tmp_path / "lora"))
    assert not (tmp_path / "lora").exists()


def test_values_and_dtypes_tell_decompositions_apart() -> None:
    weight = torch.randn(4, 6)
    keys = {
        weight_key(weight, torch.float32),
        weight_key(weight, torch.float16),
        weight_key(weight + 1e-7, torch.float32),
        weight_key(weight.double(), torch.float32),
        weight_key(weight.reshape(6, 4), torch.float32),
    }
    assert len(keys) == 5
    assert weight_key(weight.clone(), torch.float32) in keys


def test_a_damaged_decomposition_is_named_and_not_used(tmp_path: Path) -> None:
    engine, cache = native(), DecompositionCache(tmp_path)
    expert = make_expert(engine.model, "a")
    Switch(engine.model, [expert], cache=cache)
    for path in tmp_path.iterdir():
        path.write_bytes(b"no tensors")
    with pytest.raises(CheckpointError, match="remove that file"):
        Switch(engine.model, [expert], cache=cache)
