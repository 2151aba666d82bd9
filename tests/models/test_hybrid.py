"""The hybrid against Hugging Face's Jamba, its ring of keys, its configuration and its cost."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from golden import make_jamba
from torch.utils.flop_counter import FlopCounterMode

from ttbench.checkpoints.checkpoint import identify
from ttbench.errors import CheckpointError
from ttbench.kernels import selective_scan
from ttbench.models.hybrid import Hybrid
from ttbench.models.hybrid_config import HybridConfig
from ttbench.models.state_space.mamba import MambaMixer

GOLDEN = Path(__file__).parents[1] / "golden"
CONFIG = Hybrid.tiny().config.to_json()
JAMBA = {"model_type": "jamba", **make_jamba.SIZES}
SLIDING = {"layer_types": ("sliding_attention", "mamba")}


def golden(case: str) -> dict[str, Any]:
    return json.loads((GOLDEN / f"jamba_{case}.json").read_text())


def jamba(config: dict[str, Any], shapes: dict[str, list[int]]) -> Hybrid:
    """A model whose weights follow from their published names."""
    dialect = next(dialect for dialect in Hybrid.DIALECTS if dialect.matches(config))
    model = Hybrid.from_config(dialect.config(config)).double().eval()
    held = dict(model.named_parameters())
    with torch.no_grad():
        for name, shape in shapes.items():
            known, target = dialect.target(name)
            assert known
            assert target is not None
            held.pop(target).copy_(torch.from_numpy(make_jamba.weight(name, tuple(shape))))
    assert not held
    return model


@pytest.mark.parametrize("spelling", ["given", "config"])
@pytest.mark.parametrize("case", make_jamba.CASES)
def test_logits_equal_those_of_hugging_face(case: str, spelling: str) -> None:
    recorded = golden(case)
    model = jamba({"model_type": "jamba", **recorded[spelling]}, recorded["weights"])
    with torch.inference_mode():
        logits = model.head(model(torch.from_numpy(make_jamba.token_ids())[None]))[0, recorded["positions"]]
    expected = torch.tensor(recorded["logits"], dtype=torch.float64)
    # transformers keeps norms, A and D in float32 whatever the model's dtype
    assert (logits - expected).abs().max() < 2e-5 * expected.abs().max()


def test_a_prompt_in_two_chunks_equals_the_whole_read_of_hugging_face() -> None:
    recorded = golden("plain")
    model, ids = jamba(recorded["config"], recorded["weights"]), torch.from_numpy(make_jamba.token_ids())[None]
    with torch.inference_mode():
        state = model.new_state(1, ids.shape[1])
        model(ids[:, :17], state)
        state.num_tokens = 17
        logits = model.head(model(ids[:, 17:], state))[0, -1]
    expected = torch.tensor(recorded["logits"][-1], dtype=torch.float64)
    assert recorded["positions"][-1] == ids.shape[1] - 1
    assert (logits - expected).abs().max() < 2e-5 * expected.abs().max()


def test_a_window_as_wide_as_the_text_is_full_attention() -> None:
    torch.manual_seed(0)
    wide = Hybrid.tiny(layer_types=("sliding_attention", "mamba"), sliding_window=64).double()
    full = Hybrid.tiny(layer_types=("attention", "mamba"), sliding_window=None).double()
    full.load_state_dict(wide.state_dict())
    ids = torch.arange(64)[None]
    with torch.inference_mode():
        torch.testing.assert_close(wide(ids), full(ids))
        longer = torch.cat((ids, ids[:, :1]), 1)
        assert (wide(longer)[:, -1] - full(longer)[:, -1]).abs().max() > 1e-6


@pytest.mark.parametrize("window", [2, 3, 12])
def test_what_a_single_windowed_layer_has_left_behind_changes_nothing(window: int) -> None:
    torch.manual_seed(0)
    model = Hybrid.tiny(layer_types=("sliding_attention",), sliding_window=window).double()
    ids = torch.randint(257, (1, 40), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        before = model(ids)
        for place, seen in ((39 - window, False), (40 - window, True)):
            changed = ids.clone()
            changed[:, place] = (changed[:, place] + 1) % 257
            assert bool((model(changed)[:, -1] != before[:, -1]).any()) is seen


def test_the_state_grows_only_with_layers_that_see_everything() -> None:
    for overrides, grows in (({}, True), (SLIDING, False), ({"layer_types": ("mamba",)}, False)):
        model = Hybrid.tiny(**overrides)
        with torch.inference_mode():
            sizes = {model.new_state(2, max_len).nbytes_allocated for max_len in (100, 10_000)}
        assert model.state_grows is grows is (len(sizes) == 2)


def test_a_step_reads_no_more_keys_than_its_window() -> None:
    assert {Hybrid.tiny(**SLIDING).step_variant(n) for n in (0, 100, 10**6)} == {12}
    assert Hybrid.tiny(layer_types=("mamba",)).step_variant(10**6) == 0
    assert Hybrid.tiny().step_variant(10**6) > 10**6


def test_flops_of_a_prefill_match_what_torch_counts() -> None:
    model, num_tokens, window = Hybrid.tiny(), 33, 12
    config = model.config
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.head(model(torch.zeros(1, num_tokens, dtype=torch.int64)))
    # torch counts the products with weight matrices only: nothing inside fused attention, convolutions or scans
    pairs = num_tokens * (num_tokens + 1) // 2
    pairs += sum(min(t + 1, window) for t in range(num_tokens))
    attended = 4 * config.num_attention_heads * config.head_dim * pairs
    elementwise = selective_scan.flops(config.mamba_d_state) + 2 * config.mamba_d_conv
    uncounted = attended + 2 * config.inner_dim * elementwise * num_tokens
    cost = Hybrid.cost(config, dtype_bytes=4)
    assert cost.prefill_flops(num_tokens) == counter.get_total_flops() + uncounted
    assert sum(cost.decode_flops(t) for t in range(num_tokens)) == cost.prefill_flops(num_tokens)


def test_config_survives_its_own_json() -> None:
    written = {"written_by": "transformers", "rope_theta": None, "sliding_window": None}
    for overrides in ({}, SLIDING, {**written, "layer_types": ("mamba", "attention", "mamba")}):
        config = Hybrid.tiny(**overrides).config
        assert identify(json.loads(json.dumps(config.to_json()))).config == config


@pytest.mark.parametrize("kinds", ["mmmm", "ma", "mamama", "mmam", "amma", "aa", "m"])
def test_regular_layers_are_written_as_a_jamba(kinds: str) -> None:
    layers = tuple({"m": "mamba", "a": "attention"}[kind] for kind in kinds)
    config = dataclasses.replace(
        HybridConfig.from_jamba(JAMBA), layer_types=layers, tie_word_embeddings=True, mamba_dt_rank=7
    )
    data = json.loads(json.dumps(config.to_json()))
    assert data["attn_layer_offset"] < data["attn_layer_period"]
    assert HybridConfig.from_jamba(data) == config


@pytest.mark.parametrize(
    "change",
    [
        {"layer_types": ("mamba", "attention", "attention")},
        {"layer_types": ("mamba", "sliding_attention"), "sliding_window": 8},
        {"rope_theta": 10000.0},
        {"mamba_norms": False},
    ],
    ids=["irregular", "window", "positions", "norms"],
)
def test_what_no_jamba_has_is_not_written_as_one(change: dict[str, Any]) -> None:
    config = dataclasses.replace(HybridConfig.from_jamba(JAMBA), **change)
    with pytest.raises(CheckpointError, match="cannot be written as one"):
        config.to_json()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_experts": 16}, "--engine hf"),
        ({"hidden_act": "gelu"}, "hidden_act='gelu'"),
        ({"sliding_window": 4096}, "sliding_window=4096"),
        ({"attn_layer_offset": 3}, "attn_layer_offset=3"),
        ({"num_key_value_heads": 3}, "num_key_value_heads=3"),
        ({"mamba_d_state": 0}, "mamba_d_state=0"),
        ({"num_hidden_layers": 10**12}, "num_hidden_layers=1000000000000"),
        ({"hidden_size": None}, "hidden_size"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_jamba_that_is_not_built_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        HybridConfig.from_jamba(JAMBA | change)


def test_a_jamba_that_does_not_count_its_experts_has_sixteen() -> None:
    with pytest.raises(CheckpointError, match="num_experts=16"):
        HybridConfig.from_jamba({key: value for key, value in JAMBA.items() if key != "num_experts"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layer_types": ["mamba", "rwkv"]}, "rwkv"),
        ({"layer_types": []}, "no layer"),
        ({"num_hidden_layers": 3}, "num_hidden_layers=3 and 4"),
        ({"sliding_window": None}, "sliding_window=None"),
        ({"sliding_window": 1}, "sliding_window=1"),
        ({"head_dim": 7}, "head_dim=7"),
        ({"mamba_norms": 1}, "mamba_norms=1"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_an_impossible_hybrid_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        HybridConfig.from_json({key: value for key, value in CONFIG.items() if key != "num_hidden_layers"} | change)


def test_mamba_layers_start_as_mamba_does() -> None:
    model = Hybrid.tiny(mamba_d_state=6)
    mixers = [block.mixer for block in model.blocks() if isinstance(block.mixer, MambaMixer)]
    assert len(mixers) == 2
    for mixer in mixers:
        torch.testing.assert_close(mixer.A_log.detach().exp()[0], torch.arange(1.0, 7.0))
