"""The S4D model: its start values, its configuration, its cost. Logits against numpy are in tests/conformance."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from ttbench.errors import CheckpointError
from ttbench.kernels import s4d
from ttbench.models.state_space.s4d import DT_RANGE, S4D, S4DConfig

CONFIG = S4D.tiny().config.to_json()


def test_start_values_are_those_of_s4d_lin() -> None:
    torch.manual_seed(0)
    layer = next(S4D.tiny(hidden_size=512, state_size=64).blocks()).mixer
    dt, A, C, _ = (x.detach() for x in layer.spaces())
    torch.testing.assert_close(A[..., 0], torch.full_like(A[..., 0], -0.5), rtol=1e-6, atol=0)
    torch.testing.assert_close(A[3, :, 1], math.pi * torch.arange(32).double(), rtol=1e-6, atol=0)
    assert DT_RANGE[0] <= dt.min() < 1.2 * DT_RANGE[0]
    assert 0.8 * DT_RANGE[1] < dt.max() <= DT_RANGE[1] * (1 + 1e-6)
    # log-uniform: half of them below the geometric middle
    assert float((dt < math.sqrt(DT_RANGE[0] * DT_RANGE[1])).float().mean()) == pytest.approx(0.5, abs=0.07)
    assert float(C.square().sum(-1).mean()) == pytest.approx(1.0, abs=0.03)


def test_config_survives_its_own_json() -> None:
    for overrides in ({}, {"tie_word_embeddings": False, "state_size": 64, "rms_norm_eps": 1e-5}):
        config = S4D.tiny(**overrides).config
        assert S4DConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


@pytest.mark.parametrize("field", ["vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "state_size"])
def test_a_missing_size_is_named(field: str) -> None:
    with pytest.raises(CheckpointError, match=field):
        S4DConfig.from_json({key: value for key, value in CONFIG.items() if key != field})


@pytest.mark.parametrize(
    ("change", "message"),
    [({"state_size": 7}, "state_size=7"), ({"hidden_size": 0}, "hidden_size=0"), ({"state_size": "8"}, "'8'")],
    ids=["odd", "zero", "text"],
)
def test_an_impossible_size_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        S4DConfig.from_json(CONFIG | change)


def test_flops_of_a_prefill_match_what_torch_counts() -> None:
    model, num_tokens = S4D.tiny(), 4 * s4d.CHUNK_LEN
    config = model.config
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.head(model(torch.zeros(1, num_tokens, dtype=torch.int64)))
    # torch counts the upper half of the triangle, which is zero, and the kernel, which is made once for any number of
    # tokens: one product of its states for each place of a chunk
    upper = (s4d.CHUNK_LEN - 1) * num_tokens
    kernel = 2 * config.num_states * s4d.CHUNK_LEN
    extra = config.num_hidden_layers * config.hidden_size * (upper + kernel)
    cost = S4D.cost(config, dtype_bytes=4)
    assert cost.prefill_flops(num_tokens) == counter.get_total_flops() - extra


def test_the_state_is_float32_at_least_and_of_one_size() -> None:
    for dtype in (torch.bfloat16, torch.float32, torch.float64):
        model = S4D.tiny().to(dtype)
        with torch.inference_mode():
            state = model.new_state(3, 10_000_000)
        cost = S4D.cost(model.config, dtype_bytes=dtype.itemsize)
        assert state.nbytes_allocated == state.nbytes_used == 3 * cost.state_nbytes(10_000_000)
        assert state.held["ssm"].dtype == torch.promote_types(dtype, torch.float32)
