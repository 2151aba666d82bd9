"""The self-check passes what is sound and names what is not."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from faulty import AheadFrom600, Flat, Raising
from torch import Tensor

from ttbench.checkpoints.checkpoint import resolve
from ttbench.checkpoints.loading import save_checkpoint
from ttbench.engines import check as module
from ttbench.engines.check import CheckResult, check, check_architecture, structural_probes
from ttbench.errors import UnknownNameError, UsageError
from ttbench.models.base import State
from ttbench.models.state_space.s4d import S4D, S4DMixer
from ttbench.models.transformer import Transformer
from ttbench.registry import ARCHITECTURES
from ttbench.types import Cost

STRUCTURAL = (
    "step_equals_forward",
    "split_invariance",
    "long_prompt",
    "causality",
    "batch_independence",
    "save_and_load",
    "reset_restores",
    "state_bytes",
)
READING = ("later_tokens", "pieces", "saved_state", "far", "read_again", "state_growth")


def failed(results: Iterator[CheckResult] | list[CheckResult]) -> set[str]:
    return {result.name for result in results if result.passed is False}


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_every_architecture_passes_the_structural_probes(name: str) -> None:
    results = list(structural_probes(ARCHITECTURES.load(name).tiny(), device="cpu"))
    assert tuple(result.name for result in results) == STRUCTURAL
    assert not failed(results), results


@pytest.mark.parametrize("name", ["transformer", "hybrid"])
def test_an_architecture_without_a_checkpoint_is_written_loaded_and_probed(name: str) -> None:
    results = check_architecture(name, device="cpu", ctx=150)
    assert tuple(result.name for result in results) == ("write_and_load", *STRUCTURAL, *READING)
    assert not failed(results), results


def test_an_architecture_that_does_not_store_all_of_itself_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    load = module.load_model

    def lossy(*args: Any, **options: Any) -> Any:
        model = load(*args, **options)
        with torch.no_grad():
            model.get_parameter("norm.weight").fill_(1)
        return model

    monkeypatch.setattr(module, "load_model", lossy)
    assert failed(check_architecture("transformer", device="cpu", ctx=150)) == {"write_and_load"}


class ConstantMixer(S4DMixer):
    """A tensor that is no buffer stays where the model was made, which is the most natural slip."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.scale = torch.ones(config.hidden_size, dtype=torch.float64)

    def forward(self, x: Tensor, part: Any, **options: Any) -> Tensor:
        return super().forward(x * self.scale, part, **options)


class Constant(S4D):
    mixer_class = ConstantMixer


class Unfinished(S4D):
    @classmethod
    def tiny(cls, **overrides: Any) -> Any:
        raise KeyError("width")


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (
            Constant,
            r"Constant cannot be written and read back: RuntimeError: .*device meta.*\(test_check.py:\d+, in forward\)",
        ),
        (Unfinished, r"Unfinished cannot be built: KeyError: 'width' \(test_check.py:\d+, in tiny\)$"),
    ],
)
def test_what_an_architectures_own_code_raises_is_one_sentence_with_its_place(
    kind: Any, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ARCHITECTURES._built_in, "s4d", f"{__name__}:{kind.__name__}")
    monkeypatch.setattr(sys.modules[__name__], kind.__name__, kind)
    with pytest.raises(UsageError) as caught:
        check_architecture("s4d", device="cpu", ctx=150)
    assert re.search(said, str(caught.value))
    assert ("or a buffer of it" in str(caught.value)) == issubclass(kind, Constant)


def test_an_unknown_architecture_is_named_with_its_neighbours() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'hybrid'"):
        check_architecture("hybrit", device="cpu")


class Forgetful(Transformer):
    """Starts every chunk as if it were the first."""

    def forward(self, ids: Tensor, state: State | None = None) -> Tensor:
        out = super().forward(ids, state)
        return out if state is None else super().forward(ids)


class Peeking(Transformer):
    """Sees the future."""

    def forward(self, ids: Tensor, state: State | None = None) -> Tensor:
        out = super().forward(ids, state)
        return out + out.mean(1, keepdim=True)


class Sociable(Transformer):
    """Rows listen to each other."""

    def forward(self, ids: Tensor, state: State | None = None) -> Tensor:
        out = super().forward(ids, state)
        return out + out.mean(0, keepdim=True)


class Wandering(Transformer):
    """Steps to another place."""

    def step(self, ids: Tensor, state: State, variant: int) -> Tensor:
        out = super().step(ids, state, variant)
        return out * (1 + 1e-6)


class Stale(Transformer):
    """Reset forgets the convolutions."""

    def reset(self, state: State) -> None:
        state.position.zero_()
        state.num_tokens = 0


class Miscounted(Transformer):
    """Claims a smaller state than it has."""

    @classmethod
    def cost(cls, config: Any, *, dtype_bytes: int) -> Cost:
        return Transformer.cost(config, dtype_bytes=dtype_bytes // 2)


@pytest.mark.parametrize(
    ("model_class", "expected"),
    [
        (Forgetful, {"split_invariance"}),
        (Peeking, {"step_equals_forward", "split_invariance", "causality"}),
        (Sociable, {"batch_independence", "step_equals_forward"}),
        (Wandering, {"step_equals_forward"}),
        (Stale, {"reset_restores"}),
        (Miscounted, {"state_bytes"}),
    ],
)
def test_each_fault_is_named(model_class: type[Transformer], expected: set[str]) -> None:
    found = failed(structural_probes(model_class.tiny(), device="cpu"))
    assert expected <= found
    assert "state_bytes" not in found - expected


def test_a_declared_leak_is_measured_and_not_judged() -> None:
    class Declared(Peeking):
        strictly_causal = False

    results = {result.name: result for result in structural_probes(Declared.tiny(), device="cpu")}
    assert results["causality"].passed is None
    assert results["causality"].measured is not None
    assert results["causality"].measured > 1e-3
    assert "not strictly causal" in results["causality"].explanation


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Transformer:
    """A tiny transformer that has seen the page of text a few times."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = Transformer.tiny()
    ids = torch.tensor([[256, *module.TEXT]])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(20):
        loss = torch.nn.functional.cross_entropy(model.head(model(ids[:, :-1])).flatten(0, 1), ids[0, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def test_a_trained_checkpoint_passes_everything(trained: Transformer, tmp_path: Path) -> None:
    save_checkpoint(trained, tmp_path / "out", dtype="float32", extra={"tokenizer": "bytes"})
    for dtype in ("float32", "bfloat16"):
        results = {result.name: result for result in check(str(tmp_path / "out"), device="cpu", dtype=dtype, ctx=150)}
        assert tuple(results) == (*STRUCTURAL, *READING, "tokenizer", "rounding", "perplexity")
        assert {name for name, result in results.items() if not result.passed} == {"far", "state_growth"}
        assert not failed(list(results.values()))
        assert json.loads(json.dumps(results["perplexity"].to_json()))["unit"] == "nats/token"
        assert results["perplexity"].measured is not None
        assert results["perplexity"].measured < 4.5


def test_an_untrained_checkpoint_fails_the_sanity_perplexity_only(tmp_path: Path) -> None:
    model = Transformer.tiny()
    with torch.no_grad():
        model.embed.weight.mul_(20)
    save_checkpoint(model, tmp_path / "out", dtype="float32", extra={"tokenizer": "bytes"})
    results = check(str(tmp_path / "out"), device="cpu", dtype="float32", ctx=150)
    assert failed(results) == {"perplexity"}
    assert "untrained" in results[-1].explanation


def test_a_checkpoint_without_a_tokenizer_is_checked_as_far_as_it_goes(tmp_path: Path) -> None:
    save_checkpoint(Transformer.tiny(), tmp_path / "out", dtype="float32")
    results = {result.name: result for result in check(str(tmp_path / "out"), device="cpu", dtype="float32", ctx=150)}
    assert not failed(list(results.values()))
    for name in ("tokenizer", "rounding", "perplexity"):
        assert results[name].passed is None
        assert "no tokenizer" in results[name].explanation


def test_a_leak_that_starts_at_token_600_fails_the_check_and_passes_where_nobody_looks(tmp_path: Path) -> None:
    found = module.model_probes(AheadFrom600.tiny(), device="cpu", looked=1024)
    assert {"later_tokens"} <= failed(found)
    told = next(result.explanation for result in found if result.name == "later_tokens")
    assert "1024 tokens" in told
    assert "looks ahead" in told
    near = module.model_probes(AheadFrom600.tiny(), device="cpu", looked=500)
    assert not {"causality", "later_tokens", "pieces"} & failed(near)
    assert "500 tokens" in next(result.explanation for result in near if result.name == "later_tokens")


@pytest.mark.wrong_types
@pytest.mark.parametrize("model_class", [Flat, Raising])
def test_a_plug_in_s_mistake_ends_in_the_probe_s_name_and_one_sentence(model_class: type[Transformer]) -> None:
    results = module.model_probes(model_class.tiny(), device="cpu", looked=200)
    assert [(result.name, result.passed) for result in results] == [("interface", False)]
    assert "\n" not in results[0].explanation
    assert len(results[0].explanation) < 200


def test_how_far_is_looked_is_what_was_trained_on_with_a_bound() -> None:
    found = resolve("ttt-linear")
    for train_ctx, expected in ((600, 600), (None, 4096), (131_072, 4096)):
        assert module.default_look(replace(found, train_ctx=train_ctx)) == expected
