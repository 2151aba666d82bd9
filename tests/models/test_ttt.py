"""The TTT models against the authors' code, a numpy oracle, and what their configurations may say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden import make_ttt
from oracle import ttt_logits

from ttbench.errors import CheckpointError
from ttbench.models.ttt import TTT, TTTMLP, TTTConfig, TTTLinear

GOLDEN = Path(__file__).parents[1] / "golden"
VARIANTS = [(backbone, kind) for backbone in make_ttt.BACKBONES for kind in make_ttt.BASE_LR]
MODELS: dict[str, type[TTT]] = {"linear": TTTLinear, "mlp": TTTMLP}


def golden(backbone: str, kind: str) -> dict[str, Any]:
    return json.loads((GOLDEN / f"ttt_{backbone}_{kind}.json").read_text())


def load(shapes: dict[str, list[int]], config: dict[str, Any], dtype: torch.dtype) -> TTT:
    """A model of ours with the weights of a golden, by the dialect's names."""
    dialect = MODELS[config["ttt_layer_type"]].DIALECTS[0]
    model = MODELS[config["ttt_layer_type"]].from_config(dialect.config(config)).to(dtype)
    state = model.state_dict()
    for name, shape in shapes.items():
        known, target = dialect.target(name)
        assert known
        assert target is not None
        state[target].copy_(torch.from_numpy(make_ttt.weight(name, tuple(shape))))
    return model.eval()


@pytest.fixture(params=VARIANTS, ids=lambda variant: "-".join(variant))
def recorded(request: pytest.FixtureRequest) -> dict[str, Any]:
    return golden(*request.param)


def close(ours: Any, theirs: Any, *, relative: float) -> None:
    """Error relative to the largest number of the reference."""
    ours, theirs = np.asarray(ours, dtype=np.float64), np.asarray(theirs, dtype=np.float64)
    assert np.abs(ours - theirs).max() <= relative * np.abs(theirs).max()


def test_logits_equal_those_of_the_authors_code(recorded):
    model = load(recorded["weights"], recorded["config"], torch.float32)
    with torch.inference_mode():
        logits = model.head(model(torch.from_numpy(make_ttt.token_ids())[None]))[0].numpy()
    for position, row in recorded["logits"].items():
        close(logits[int(position)], row, relative=4e-6)
    close(np.abs(logits).sum(-1), recorded["sum_abs"], relative=2e-6)


def test_prefill_and_steps_equal_the_authors_cache(recorded):
    model = load(recorded["weights"], recorded["config"], torch.float32)
    prefill, ids = recorded["cached"]["prefill"], torch.from_numpy(make_ttt.token_ids())[None]
    state = model.new_state(1, ids.shape[1])
    with torch.inference_mode():
        hidden = [model(ids[:, :prefill], state)[:, -1]]
        state.num_tokens = prefill
        for i in range(prefill, ids.shape[1]):
            hidden.append(model.step(ids[:, i], state, model.step_variant(i)))
            state.num_tokens += 1
        logits = model.head(torch.cat(hidden)).numpy()
    close(np.abs(logits).sum(-1), recorded["cached"]["sum_abs"], relative=2e-6)
    close(logits[-1], recorded["cached"]["last"], relative=4e-6)


def test_float64_differs_from_the_authors_only_by_their_float32_constants(recorded):
    model = load(recorded["weights"], recorded["config"], torch.float64)
    with torch.inference_mode():
        logits = model.head(model(torch.from_numpy(make_ttt.token_ids())[None]))[0].numpy()
    assert logits.dtype == np.float64
    close(np.abs(logits).sum(-1), recorded["double"]["sum_abs"], relative=5e-7)
    close(logits[-1], recorded["double"]["last"], relative=5e-7)


def test_float64_equals_the_numpy_oracle(recorded):
    model = load(recorded["weights"], recorded["config"], torch.float64)
    weights = {name: make_ttt.weight(name, tuple(shape)) for name, shape in recorded["weights"].items()}
    with torch.inference_mode():
        logits = model.head(model(torch.from_numpy(make_ttt.token_ids())[None]))[0].numpy()
    close(logits, ttt_logits(make_ttt.token_ids(), weights, recorded["config"]), relative=1e-13)
