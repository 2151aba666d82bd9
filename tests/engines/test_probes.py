"""Every planted fault is found, named in one sentence, and only faults are."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from faulty import (
    FAULTS,
    AheadByForty,
    AheadFrom600,
    AheadFrom6000,
    AheadOnText,
    FaintlyAheadByTenInHalf,
    FaintlyAheadInHalf,
    FaintlyAheadInHalfFrom6000,
    SeldomAhead,
    SeldomAheadFrom6000,
    Turning,
    TurningFrom6000,
    TurningOften,
)

from ttbench.engines.check import TEXT
from ttbench.engines.consistency import draw_cuts, draw_text
from ttbench.engines.eager import EagerEngine
from ttbench.engines.engine import Engine
from ttbench.engines.kinds import load_engine
from ttbench.engines.probes import Findings
from ttbench.engines.probing import probe
from ttbench.models.transformer import Transformer
from ttbench.registry import ARCHITECTURES

IDS = np.frombuffer(TEXT, np.uint8).astype(np.int64)


def build(model_class: type[Any]) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = model_class.tiny()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


def find(
    model_class: type[Any],
    *,
    looked: int,
    dtype: str = "float32",
    ids: np.ndarray | None = IDS,
    seed: int = 5,
    exact: Callable[[], Engine] | None = None,
) -> Findings:
    engine = EagerEngine(build(model_class), device="cpu", dtype=dtype)
    return probe(engine, looked=looked, ids=ids, windows=(), seed=seed, exact=exact)


def in_float64(model_class: type[Any]) -> Callable[[], Engine]:
    return lambda: EagerEngine(build(model_class), device="cpu", dtype="float64")


def told(found: Findings, name: str) -> str:
    return next(result.explanation for result in found.results if result.name == name)


@pytest.mark.wrong_types
@pytest.mark.parametrize("model_class", FAULTS, ids=lambda each: each.__name__)
def test_each_planted_fault_is_named_in_one_sentence(model_class: type[Transformer]) -> None:
    found = find(model_class, looked=1300).failed
    assert found is not None
    name, words = FAULTS[model_class]
    assert found.name == name, found
    assert words in found.explanation
    assert len(found.explanation) < 250
    assert "\n" not in found.explanation


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_every_architecture_passes_beyond_what_it_was_trained_on(name: str, dtype: str) -> None:
    found = find(ARCHITECTURES.load(name), looked=500, dtype=dtype)
    assert found.failed is None, found.failed
    assert found.looked == 500


@pytest.mark.parametrize("name", ["transformer", "transformer-conv", "ttt-linear"])
def test_every_checkpoint_of_the_zoo_passes_beyond_its_training_context(name: str) -> None:
    engine = load_engine(name, device="cpu", dtype="float32", attention=None)
    assert probe(engine, looked=2600, ids=IDS, windows=(), seed=1).failed is None
    assert engine.num_tokens == 0


def test_a_leak_far_out_is_found_by_who_looks_that_far() -> None:
    far = find(AheadFrom6000, looked=9001)
    assert far.failed is not None
    assert (far.failed.name, far.looked) == ("far", 9001)
    assert "looks ahead" in far.failed.explanation
    assert find(AheadFrom6000, looked=5000).failed is None


@pytest.mark.parametrize("name", ["transformer", "ttt-linear", "titans-mag"])
def test_single_forwards_far_out_pass_where_there_is_no_fault(name: str) -> None:
    assert find(ARCHITECTURES.load(name), looked=6500).failed is None


@pytest.mark.parametrize(("model_class", "looked"), [(Turning, 1300), (TurningFrom6000, 7500)])
def test_choices_that_rounding_turns_are_told_from_a_look_ahead_in_float64(
    model_class: type[Transformer], looked: int
) -> None:
    found = find(model_class, looked=looked)
    assert found.failed is not None
    assert "looks ahead" in found.failed.explanation
    asked = find(model_class, looked=looked, exact=in_float64(model_class))
    assert asked.failed is None, asked.failed


def test_what_turned_is_told() -> None:
    found = find(Turning, looked=1300, exact=in_float64(Turning))
    words = told(found, "later_tokens")
    assert "in float64; here 6 of 1" in words
    assert words.endswith("taken for rounding that turns a choice")


@pytest.mark.parametrize(("model_class", "looked"), [(SeldomAhead, 1300), (SeldomAheadFrom6000, 7500)])
def test_a_seldom_look_ahead_of_a_model_of_choices_is_found_in_float64(
    model_class: type[Transformer], looked: int
) -> None:
    found = find(model_class, looked=looked, exact=in_float64(model_class)).failed
    assert found is not None
    assert found.name == ("later_tokens" if looked == 1300 else "far")
    assert "in float64: " in found.explanation
    assert found.explanation.endswith("the model looks ahead")


@pytest.mark.parametrize(
    ("model_class", "looked", "which"),
    [
        (FaintlyAheadInHalf, 1300, "the last token"),
        (FaintlyAheadByTenInHalf, 1300, r"token ([2-9]|10)"),
        (FaintlyAheadInHalfFrom6000, 7500, "the last token"),
    ],
)
def test_a_look_ahead_that_float64_does_not_repeat_is_found_by_its_distance(
    model_class: type[Transformer], looked: int, which: str
) -> None:
    found = find(model_class, looked=looked, dtype="bfloat16", exact=in_float64(model_class)).failed
    assert found is not None
    assert found.name == ("later_tokens" if looked == 1300 else "far")
    assert re.search(rf": {which} before a cut moves at \d+ of 16 cuts", found.explanation)
    assert found.explanation.endswith("of 16 cuts, although none moves in float64: the model looks ahead")


@pytest.mark.parametrize("model_class", [TurningOften, AheadFrom600, AheadByForty])
def test_float64_is_not_asked_of_more_than_rounding_does_nor_of_other_models(model_class: type[Transformer]) -> None:
    def never() -> Engine:
        raise AssertionError

    found = find(model_class, looked=1300, exact=never).failed
    assert found is not None
    assert (found.name, "looks ahead" in found.explanation) == ("later_tokens", True)


def test_reformer_of_the_zoo_passes_where_half_precision_turns_its_buckets() -> None:
    def opened(dtype: str) -> Engine:
        return load_engine("reformer", device="cpu", dtype=dtype, attention=None)

    alone = probe(opened("bfloat16"), looked=1300, ids=IDS, windows=(), seed=1).failed
    assert alone is not None
    assert "looks ahead" in alone.explanation
    exact = functools.partial(opened, "float64")
    assert probe(opened("bfloat16"), looked=1300, ids=IDS, windows=(), seed=1, exact=exact).failed is None


def test_a_model_that_behaves_on_random_ids_is_found_on_the_text_of_the_run() -> None:
    found = find(AheadOnText, looked=1300).failed
    assert found is not None
    assert found.name == "later_tokens"
    assert find(AheadOnText, looked=1300, ids=None).failed is None


@pytest.mark.parametrize("seed", range(20))
def test_cuts_lie_inside_and_are_odd_even_and_at_ends_of_blocks(seed: int) -> None:
    cuts = draw_cuts(1300, windows=(512,), seed=seed)
    assert cuts == sorted(set(cuts))
    assert cuts[0] >= 1
    assert cuts[-1] == 1299
    assert {511, 513} <= set(cuts)
    assert any(cut % 2 for cut in cuts)
    assert sum(cut % 16 == 0 for cut in cuts) >= 3
    assert draw_cuts(2, windows=(), seed=seed) == [1]


def test_the_text_is_the_run_s_own_with_random_stretches() -> None:
    text = draw_text(IDS, num_tokens=1000, vocab_size=257, seed=3)
    own = np.resize(IDS, 1001)
    same = text.long == own
    assert len(text.long) == 1001
    assert same[:256].all()
    assert same[256:320].mean() < 0.2
    assert 0.7 < same.mean() < 0.9
