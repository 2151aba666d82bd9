"""A Transformer computes the same with every back end of attention, and an architecture without attention has none."""

from __future__ import annotations

import dataclasses
from typing import Any, cast

import pytest
import torch

from ttbench.engines.eager import EagerEngine
from ttbench.errors import UnsupportedError, UsageError
from ttbench.kernels import attention
from ttbench.models.base import SequenceModel
from ttbench.models.transformer import Transformer
from ttbench.models.ttt import TTTLinear
from ttbench.types import ATTENTION


def engine(name: str, dtype: str = "float64") -> EagerEngine:
    torch.manual_seed(3)
    model = Transformer.tiny()
    model.use_attention(name)
    return EagerEngine(model, device="cpu", dtype=dtype)


def ids(num_tokens: int) -> torch.Tensor:
    return torch.randint(257, (2, num_tokens), generator=torch.Generator().manual_seed(num_tokens))


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 1e-5)])
@pytest.mark.parametrize("name", [name for name in ATTENTION if name != "sdpa"])
def test_logits_do_not_depend_on_the_back_end(name: str, dtype: str, tolerance: float) -> None:
    tokens = ids(100)
    found, wanted = engine(name, dtype).logits(tokens), engine("sdpa", dtype).logits(tokens)
    assert float((found - wanted).abs().max() / wanted.abs().max()) < tolerance


@pytest.mark.parametrize("name", ATTENTION)
def test_pieces_and_steps_give_the_logits_of_one_forward(name: str) -> None:
    tokens, used = ids(100), engine(name)
    whole = used.logits(tokens)
    used.reset(2, 400)
    end = 0
    for length in (1, 17, 63, 9):
        end += length
        last = used.prefill(tokens[:, end - length : end])
        assert float((last - whole[:, end - 1]).abs().max()) < 1e-12
    for place in range(end, 100):
        assert float((used.decode(tokens[:, place]) - whole[:, place]).abs().max()) < 1e-12


@pytest.mark.parametrize("name", ATTENTION)
def test_a_prefill_asks_the_last_layer_for_one_token_only(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    used, asked = engine(name), []
    backend = attention.BACKENDS[name]

    def watched(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        asked.append((q.shape[2], k.shape[2]))
        return backend.prefill(q, k, v)

    monkeypatch.setitem(cast("dict[str, Any]", attention.BACKENDS), name, dataclasses.replace(backend, prefill=watched))
    used.reset(2, 63)
    used.prefill(ids(17))
    used.score(ids(5), ids(5))
    used.prefill(ids(15))
    # two layers, (queries, keys) each: a score needs every token of both
    assert asked == [(17, 17), (1, 17), (5, 22), (5, 22), (15, 37), (1, 37)]


def test_an_unknown_name_is_refused_by_every_architecture() -> None:
    for model in (Transformer.tiny(), TTTLinear.tiny()):
        with pytest.raises(UsageError, match="unknown attention back end 'flash9'; available: sdpa, eager, flash"):
            model.use_attention("flash9")


def test_an_architecture_without_attention_has_nothing_to_choose() -> None:
    model: SequenceModel = TTTLinear.tiny()
    model.use_attention("flash")
    assert model.attention_backend == "none"


def test_a_back_end_that_an_architecture_lacks_is_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Transformer, "ATTENTION", ("sdpa",))
    with pytest.raises(UnsupportedError, match="Transformer cannot attend with 'flash'; available: sdpa"):
        Transformer.tiny().use_attention("flash")
