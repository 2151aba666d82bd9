"""Logits that are not finite end every way out of every engine in one line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hf_families import build

from ttbench.engines.eager import EagerEngine
from ttbench.engines.finite import Watch, require_finite
from ttbench.engines.hf.hf_engine import HFEngine
from ttbench.errors import NotFiniteError
from ttbench.models.transformer import Transformer

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning", "ignore::DeprecationWarning")

IDS = np.arange(24).reshape(2, 12)
WAYS: dict[str, Callable[[Any], Any]] = {
    "score": lambda engine: engine.score(IDS[:, :-1], IDS[:, 1:]),
    "score_top": lambda engine: engine.score_top(IDS[:, :-1], IDS[:, 1:]),
    "prefill": lambda engine: engine.prefill(IDS),
    "decode": lambda engine: engine.decode(IDS[:, 0]),
    "logits": lambda engine: engine.logits(IDS),
    "generate": lambda engine: engine.generate(IDS, 3),
    "features": lambda engine: engine.features(IDS, 0),
}


def eager(dtype: str) -> EagerEngine:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return EagerEngine(Transformer.tiny(), device="cpu", dtype=dtype)


def hf(dtype: str) -> HFEngine:
    model = build("llama").to(getattr(torch, dtype))
    return HFEngine(model, device="cpu", dtype=dtype, vocab_size=257)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("make", [eager, hf], ids=["eager", "hf"])
def test_an_overflow_in_float16_is_one_line_on_every_way(make: Callable[[str], Any], way: str) -> None:
    engine = make("float16")
    if way == "features" and engine.name == "hf":
        pytest.skip("engine hf has no features")
    engine.reset(2, 16)
    WAYS[way](engine)
    engine.reset(2, 16)
    # a product beyond 65,504 is infinite, in the norm before the head
    with torch.no_grad():
        engine.model.get_parameter("norm.weight" if engine.name == "eager" else "model.norm.weight").fill_(6e4)
    with pytest.raises(NotFiniteError) as raised:
        WAYS[way](engine)
    assert str(raised.value) == "the model's logits are not finite in float16; use --dtype float32 or bfloat16"
    assert raised.value.exit_code == 1


def test_a_model_that_overflows_is_refused_when_it_is_opened() -> None:
    model = build("llama").to(torch.float16)
    with torch.no_grad():
        model.model.norm.weight.fill_(6e4)
    with pytest.raises(NotFiniteError, match="use --dtype float32 or bfloat16"):
        HFEngine(model, device="cpu", dtype="float16", vocab_size=257)


def test_a_token_that_is_ruled_out_is_no_fault_and_nan_is() -> None:
    require_finite(torch.tensor([0.0, -torch.inf]), dtype="float32")
    require_finite(torch.zeros(0), dtype="float32")
    for bad in (torch.nan, torch.inf):
        with pytest.raises(NotFiniteError, match="in float32; its weights or its code are at fault"):
            require_finite(torch.tensor([0.0, bad]), dtype="float32")
    with pytest.raises(NotFiniteError):
        require_finite(torch.full((3,), -torch.inf), dtype="bfloat16")


def test_what_a_device_has_not_told_yet_is_judged_when_it_is_waited_for() -> None:
    watch = Watch(dtype="float16")
    watch.see(torch.zeros(3, device="meta"))
    watch._worst = torch.tensor(torch.nan)
    with pytest.raises(NotFiniteError):
        watch.settle()
    watch.settle()
