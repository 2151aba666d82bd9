"""Mamba and Mamba-2 against transformers, a numpy oracle, and what their configurations may say."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden import make_mamba
from oracle import mamba2_logits, mamba_logits
from torch.utils.flop_counter import FlopCounterMode

from ttbench.checkpoints.checkpoint import identify
from ttbench.checkpoints.files import parse_json, plain_json
from ttbench.errors import CheckpointError
from ttbench.kernels import selective_scan, ssd
from ttbench.models.stack import Stack
from ttbench.models.state_space.mamba import Mamba
from ttbench.models.state_space.mamba2 import GatedRMSNorm, Mamba2

GOLDEN = Path(__file__).parents[2] / "golden"
MODELS: list[type[Stack]] = [Mamba, Mamba2]
# as published beside state-spaces/mamba-130m and state-spaces/mamba2-130m
MAMBA_SSM: dict[str, Any] = {"d_model": 32, "n_layer": 2, "vocab_size": 50277, "ssm_cfg": {}, "rms_norm": True}
MAMBA2_SSM: dict[str, Any] = {
    **MAMBA_SSM,
    "d_intermediate": 0,
    "ssm_cfg": {"layer": "Mamba2"},
    "attn_layer_idx": [],
    "attn_cfg": {},
    "pad_vocab_size_multiple": 16,
    "tie_embeddings": True,
}


def golden(case: str) -> dict[str, Any]:
    path = GOLDEN / f"{case}.json"
    return parse_json(path.read_bytes(), where=path)


def filled(config: dict[str, Any], dtype: torch.dtype) -> tuple[Stack, dict[str, np.ndarray]]:
    """A model whose weights follow from their names in transformers, and those weights by name."""
    identity = identify(config)
    model = identity.model_class.from_config(identity.config).to(dtype).eval()
    assert isinstance(model, Stack)
    weights: dict[str, np.ndarray] = {}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            source = model.DIALECTS[0].source(name)
            assert source is not None
            weights[source] = make_mamba.weight(source, tuple(parameter.shape))
            parameter.copy_(torch.from_numpy(weights[source]))
    return model, weights


@pytest.mark.parametrize("case", make_mamba.CASES)
def test_logits_equal_those_of_transformers(case):
    recorded = golden(case)
    model, _ = filled(recorded["config"], torch.float64)
    with torch.inference_mode():
        logits = model.head(model(torch.from_numpy(make_mamba.token_ids())[None]))[0, recorded["positions"]]
    expected = torch.tensor(recorded["logits"], dtype=torch.float64)
    # transformers keeps the residual stream, the norms and A in float32 whatever the model's dtype
    assert (logits - expected).abs().max() < 2e-5 * expected.abs().max()


def test_goldens_tell_the_cases_apart():
    for kind in ("mamba_", "mamba2_"):
        first, *others = (np.array(golden(case)["logits"]) for case in make_mamba.CASES if case.startswith(kind))
        assert all(np.abs(other - first).max() > 1e-2 for other in others)


@pytest.mark.parametrize("case", make_mamba.CASES)
def test_a_second_chunk_goes_on_from_the_first_where_mamba_in_transformers_starts_again(case):
    recorded, first = golden(case), make_mamba.FIRST_CHUNK
    model, _ = filled(recorded["config"], torch.float64)
    ids = torch.from_numpy(make_mamba.token_ids())[None]
    state = model.new_state(1, ids.shape[1])
    with torch.inference_mode():
        model(ids[:, :first], state)
        state.num_tokens = first
        ours = model.head(model(ids[:, first:], state)[:, -1])
    whole, theirs = (torch.tensor(recorded[key][-1], dtype=torch.float64) for key in ("logits", "continued"))
    assert (ours - whole).abs().max() < 2e-5 * whole.abs().max()
    error = (theirs - whole).abs().max() / whole.abs().max()
    assert error < 2e-5 if case.startswith("mamba2") else error > 0.01


def test_goldens_are_what_transformers_gives_where_it_is_installed():
    # older releases continue with several tokens at once in another way, or not at all
    pytest.importorskip("transformers", minversion=golden("mamba_plain")["transformers"])
    for case in make_mamba.CASES:
        recorded, now = golden(case), make_mamba.record(case)
        for key in ("logits", "continued"):
            expected = np.array(recorded[key])
            assert np.abs(np.array(now[key]) - expected).max() < 1e-5 * np.abs(expected).max(), (case, key)


@pytest.mark.parametrize("case", ["mamba_plain", "mamba2_one_group", "mamba2_codestral"])
def test_float64_equals_the_numpy_oracle(case):
    config = golden(case)["config"]
    model, weights = filled(config, torch.float64)
    ids = make_mamba.token_ids()
    with torch.inference_mode():
        logits = model.head(model(torch.from_numpy(ids)[None]))[0].numpy()
    oracle = mamba2_logits if config["model_type"] == "mamba2" else mamba_logits
    expected = oracle(ids, weights, config)
    assert np.abs(logits - expected).max() < 1e-12 * np.abs(expected).max()


def test_a_limit_on_step_sizes_holds_in_steps_as_in_a_whole_read():
    # transformers and mamba_ssm clamp in a whole read only
    model, _ = filled(golden("mamba2_limit")["config"], torch.float64)
    free, _ = filled({**golden("mamba2_limit")["config"], "time_step_limit": [0.0, math.inf]}, torch.float64)
    ids = torch.from_numpy(make_mamba.token_ids())[None]
    state = model.new_state(1, ids.shape[1])
    with torch.inference_mode():
        stepped = torch.stack([model.step(ids[:, i], state, 0) for i in range(ids.shape[1])], 1)
        torch.testing.assert_close(stepped, model(ids), rtol=1e-9, atol=1e-10)
        assert (model(ids) - free(ids)).abs().max() > 0.01


def test_the_gated_norm_is_taken_over_each_group_alone():
    norm = GatedRMSNorm(6, num_groups=2, eps=1e-5, norm_before_gate=False)
    y, z = torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(0))
    louder = y.clone()
    louder[:, 3:] *= 100
    assert torch.equal(norm(y, z)[:, :3], norm(louder, z)[:, :3])
    before = GatedRMSNorm(6, num_groups=2, eps=1e-5, norm_before_gate=True)
    gate = torch.nn.functional.silu(z)
    torch.testing.assert_close(before(y, z), norm(y, torch.full_like(z, 30.0)) * gate, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("model_class", MODELS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_low_precision_model_keeps_its_states_in_float32(model_class, dtype):
    torch.manual_seed(0)
    exact = model_class.tiny().eval()
    ids = torch.randint(0, 257, (1, 37), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = exact.head(exact(ids))
        model = exact.to(dtype)
        state = model.new_state(1, 64)
        logits = model.head(model(ids, state))
    assert (state.held["ssm"].dtype, state.held["tail"].dtype, logits.dtype) == (torch.float32, dtype, torch.float32)
    assert (logits - expected).abs().max() < 0.05 * expected.abs().max()


@pytest.mark.parametrize("model_class", MODELS)
def test_every_weight_receives_a_gradient(model_class):
    torch.manual_seed(0)
    model = model_class.tiny()
    ids = torch.randint(0, 257, (2, 40), generator=torch.Generator().manual_seed(0))
    model.head(model(ids)).square().mean().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


@pytest.mark.parametrize("model_class", MODELS)
def test_start_weights_remember_and_keep_the_stream_at_its_scale(model_class):
    torch.manual_seed(0)
    model = model_class.tiny(num_hidden_layers=6)
    for mixer in (block.mixer for block in model.blocks()):
        bias = mixer.dt_proj.bias if hasattr(mixer, "dt_proj") else mixer.dt_bias
        steps = torch.nn.functional.softplus(bias)
        assert 0.9e-3 < steps.min() < steps.max() < 0.11
        assert 1 <= mixer.A_log.exp().min() < mixer.A_log.exp().max() <= 16
    with torch.inference_mode():
        logits = model.head(model(torch.randint(0, 257, (2, 40))))
    nats = torch.nn.functional.cross_entropy(logits.flatten(0, 1), torch.randint(0, 257, (80,)))
    assert nats == pytest.approx(math.log(257), abs=0.5)


@pytest.mark.parametrize("model_class", MODELS)
def test_flops_of_a_read_are_the_products_that_torch_counts_and_the_recurrence(model_class):
    model, num_tokens = model_class.tiny(), 1
    config, state = model.config, model.new_state(1, 1)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model.head(model.step(torch.zeros(1, dtype=torch.int64), state, 0))
    # torch counts no elementwise work; of Mamba-2's recurrence it counts the product h C
    channels = model.mixer_class.shapes(config)[1][1]
    uncounted = 2 * config.conv_kernel * channels
    if model_class is Mamba:
        uncounted += config.inner_dim * selective_scan.flops(config.state_size)
    else:
        scan = ssd.flops(config.head_dim, config.state_size) - 2 * config.head_dim * config.state_size
        uncounted += config.num_heads * scan
    expected = counter.get_total_flops() + config.num_hidden_layers * uncounted
    assert model.cost(config, dtype_bytes=4).prefill_flops(num_tokens) == expected


@pytest.mark.parametrize(
    ("data", "millions"),
    [
        ({"d_model": 768, "n_layer": 24, "vocab_size": 50277, "ssm_cfg": {}}, 129.1),
        ({"d_model": 768, "n_layer": 24, "vocab_size": 50277, "ssm_cfg": {"layer": "Mamba2"}}, 128.9),
    ],
    ids=["mamba-130m", "mamba2-130m"],
)
def test_the_130m_models_have_their_published_size(data, millions):
    identity = identify({**data, "pad_vocab_size_multiple": 16, "rms_norm": True})
    with torch.device("meta"):
        total, _ = identity.model_class.from_config(identity.config).num_params()
    assert total / 1e6 == pytest.approx(millions, abs=0.1)


# Configurations


@pytest.mark.parametrize(
    ("multiple", "rows"), [(None, 50280), (8, 50280), (16, 50288), (1, 50277)], ids=lambda value: str(value)
)
@pytest.mark.parametrize("published", [MAMBA_SSM, MAMBA2_SSM], ids=["mamba", "mamba2"])
def test_the_table_is_padded_to_the_multiple_that_mamba_ssm_states(published, multiple, rows):
    data = {key: value for key, value in published.items() if key != "pad_vocab_size_multiple"}
    identity = identify(data if multiple is None else {**data, "pad_vocab_size_multiple": multiple})
    assert identity.config.vocab_size == rows
    assert identity.dialect.name == f"{identity.architecture}-ssm"


@pytest.mark.parametrize("model_class", MODELS)
@pytest.mark.parametrize("overrides", [{}, {"written_by": "mamba_ssm", "use_bias": True}], ids=["hf", "ssm"])
def test_config_survives_its_own_json(model_class, overrides):
    config = model_class.tiny(**overrides).config
    text = json.dumps(plain_json({**config.to_json(), "train_ctx": 1024, "tokenizer": "bytes"}))
    assert identify(parse_json(text.encode(), where=Path("config.json"))).config == config


def test_codestrals_fields_are_read_as_transformers_reads_them():
    config = identify(golden("mamba2_codestral")["config"]).config
    assert (config.n_groups, config.tie_word_embeddings, config.norm_before_gate) == (8, False, False)
    assert config.time_step_limit == (0.0, math.inf)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({**MAMBA_SSM, "rms_norm": False}, "rms_norm=False; only True"),
        ({**MAMBA2_SSM, "attn_layer_idx": [9, 18]}, r"attn_layer_idx=\[9, 18\]"),
        ({**MAMBA2_SSM, "d_intermediate": 64}, "d_intermediate=64; only 0"),
        ({**MAMBA2_SSM, "ssm_cfg": {"layer": "Mamba2", "D_has_hdim": True}}, "D_has_hdim=True"),
        ({**MAMBA2_SSM, "ssm_cfg": {"layer": "Mamba2", "d_ssm": 16}}, "d_ssm=16; only None"),
        ({**MAMBA2_SSM, "ssm_cfg": {"layer": "Mamba2", "rmsnorm": False}}, "rmsnorm=False"),
        ({**MAMBA2_SSM, "ssm_cfg": {"layer": "Mamba2", "headdim": 24}}, "headdim=24; it must divide"),
        ({**MAMBA2_SSM, "ssm_cfg": {"layer": "Mamba2", "d_sate": 24}}, "ssm_cfg with d_sate"),
        ({**MAMBA_SSM, "ssm_cfg": {"d_state": 0}}, "d_state=0; allowed: an integer from 1 on"),
        ({**MAMBA_SSM, "ssm_cfg": {"bias": 1}}, "bias=1; allowed: true or false"),
        ({**MAMBA_SSM, "pad_vocab_size_multiple": 0}, "pad_vocab_size_multiple=0"),
        ({**MAMBA_SSM, "ssm_cfg": {"layer": "Mamba3"}}, "which no architecture here reads"),
        ({key: value for key, value in MAMBA_SSM.items() if key != "n_layer"}, "lacks n_layer"),
        ({"model_type": "mamba", "vocab_size": 9, "num_hidden_layers": 1}, "lacks hidden_size"),
        ({**golden("mamba_plain")["config"], "hidden_act": "gelu"}, "hidden_act='gelu'; only 'silu'"),
        ({**golden("mamba_plain")["config"], "rms_norm": False}, "rms_norm=False"),
        ({**golden("mamba_plain")["config"], "intermediate_size": 48}, "intermediate_size=48"),
        ({**golden("mamba_plain")["config"], "layer_norm_epsilon": 0}, "a finite positive number"),
        ({**golden("mamba2_groups")["config"], "n_groups": 3}, "groups must divide the heads"),
        ({**golden("mamba2_groups")["config"], "num_heads": 4}, "num_heads=4"),
        ({**golden("mamba2_groups")["config"], "time_step_limit": [0.5, 0.1]}, "0 <= low <= high"),
        ({**golden("mamba2_groups")["config"], "time_step_limit": [0.5]}, "two numbers"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_variant_that_is_not_built_is_refused(data, message):
    with pytest.raises(CheckpointError, match=message):
        identify(data)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"norm_before_gate": True}, "transformers has no norm_before_gate"),
        ({"written_by": "mamba_ssm", "layer_norm_epsilon": 1e-6}, "layer_norm_epsilon 1e-05 only"),
        ({"written_by": "elsewhere"}, "transformers or mamba_ssm"),
    ],
    ids=["norm", "epsilon", "writer"],
)
def test_a_config_that_its_format_cannot_hold_is_refused(overrides, message):
    with pytest.raises(CheckpointError, match=message):
        Mamba2.tiny(**overrides)


def test_a_state_is_refused_while_gradients_are_on():
    model = Mamba.tiny()
    with pytest.raises(RuntimeError, match="inference_mode"):
        model(torch.zeros(1, 2, dtype=torch.int64), model.new_state(1, 4))
