"""The transformer against Hugging Face's Llama, a numpy oracle, and what its configurations may say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden import make_llama
from oracle import llama_logits
from torch.utils.flop_counter import FlopCounterMode

from ttbench.errors import CheckpointError
from ttbench.models.transformer import Transformer, TransformerConfig

GOLDEN = Path(__file__).parents[1] / "golden"
LLAMA, LLAMA_CONV = Transformer.DIALECTS
CONFIG: dict[str, Any] = {"model_type": "llama", **make_llama.SIZES}


def golden(case: str) -> dict[str, Any]:
    return json.loads((GOLDEN / f"llama_{case}.json").read_text())


def filled(config: dict[str, Any], dtype: torch.dtype) -> tuple[Transformer, dict[str, np.ndarray]]:
    """A model whose weights follow from their published names, and those weights by name."""
    dialect = next(dialect for dialect in Transformer.DIALECTS if dialect.matches(config))
    model = Transformer.from_config(dialect.config(config)).to(dtype)
    weights: dict[str, np.ndarray] = {}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            source = dialect.source(name)
            assert source is not None
            weights[source] = make_llama.weight(source, tuple(parameter.shape))
            parameter.copy_(torch.from_numpy(weights[source]))
    return model.eval(), weights


@pytest.mark.parametrize("spelling", ["given", "config"])
@pytest.mark.parametrize("case", make_llama.CASES)
def test_logits_equal_those_of_hugging_face(case: str, spelling: str) -> None:
    recorded = golden(case)
    # `given` is how checkpoints of transformers 4 spell it, `config` what transformers 5 writes
    model, _ = filled({"model_type": "llama", **recorded[spelling]}, torch.float64)
    with torch.no_grad():
        logits = model.head(model(torch.from_numpy(make_llama.token_ids())[None]))[0, recorded["positions"]]
    expected = torch.tensor(recorded["logits"], dtype=torch.float64)
    # transformers keeps angles and norms in float32 whatever the model's dtype
    assert (logits - expected).abs().max() < 2e-5 * expected.abs().max()


def test_goldens_tell_the_cases_apart() -> None:
    untied = np.array(golden("mha_untied")["logits"])
    for case in set(make_llama.CASES) - {"mha_untied"}:
        assert np.abs(np.array(golden(case)["logits"]) - untied).max() > 1e-2, case


@pytest.mark.parametrize("conv_kernel", [0, 1, 4], ids=lambda k: f"K{k}")
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_logits_equal_the_oracle_in_float64(conv_kernel: int, tied: bool) -> None:
    config = Transformer.tiny(vocab_size=53, conv_kernel=conv_kernel, tie_word_embeddings=tied).config.to_json()
    model, weights = filled(config, torch.float64)
    ids = make_llama.token_ids()[:17]
    with torch.no_grad():
        logits = model.head(model(torch.from_numpy(ids)[None]))[0].numpy()
    expected = llama_logits(ids, weights, config)
    assert np.abs(logits - expected).max() < 1e-12 * np.abs(expected).max()


def test_config_survives_its_own_json() -> None:
    for overrides in ({}, {"conv_kernel": 0}, {"tie_word_embeddings": False, "rope_theta": 5e5, "rms_norm_eps": 1e-5}):
        config = Transformer.tiny(**overrides).config
        data = json.loads(json.dumps(config.to_json()))
        assert [dialect.matches(data) for dialect in Transformer.DIALECTS].count(True) == 1
        assert TransformerConfig.from_json(data) == config


@pytest.mark.parametrize("field", sorted(make_llama.SIZES))
def test_a_missing_size_is_named(field: str) -> None:
    with pytest.raises(CheckpointError, match=field):
        TransformerConfig.from_json({key: value for key, value in CONFIG.items() if key != field})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_act": "gelu"}, "hidden_act='gelu'"),
        ({"sliding_window": 4096}, "sliding_window=4096"),
        ({"num_key_value_heads": 3}, "num_key_value_heads=3"),
        ({"head_dim": 7}, "head_dim=7"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "scaling 'linear'"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "scaling 'llama3'"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "scaling 'yarn'"),
        ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "partial rotary"),
        ({"partial_rotary_factor": 0.25}, "partial rotary"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_variant_that_is_not_built_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        TransformerConfig.from_json(CONFIG | change)


ROTARY: list[dict[str, Any]] = [
    {"rope_scaling": {"rope_type": "default", "rope_theta": 5e5}},
    {"rope_scaling": {"type": "default"}, "rope_theta": 2e5},
    {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}, "rope_theta": 2e5},
    {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}, "rope_scaling": {"rope_type": "default"}},
    {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}, "rope_scaling": None},
    {"rope_parameters": {"rope_theta": 3e5}, "rope_scaling": {"rope_theta": 4e5}},
    {"rope_theta": 1e6},
    {},
]


@pytest.mark.parametrize("change", ROTARY, ids=lambda change: "+".join(change) or "none")
def test_two_spellings_of_the_rotary_base_are_merged_as_transformers_does(change: dict[str, Any]) -> None:
    import transformers

    theirs: Any = transformers.LlamaConfig(**CONFIG | json.loads(json.dumps(change))).rope_parameters
    assert theirs["rope_type"] == "default"
    assert TransformerConfig.from_json(CONFIG | change).rope_theta == theirs["rope_theta"]


SCALED = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512}


@pytest.mark.parametrize(
    "change",
    [
        {"rope_scaling": SCALED},
        {"rope_scaling": SCALED, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}},
        {"rope_scaling": {"type": "yarn", "factor": 4.0}, "rope_parameters": {"rope_type": "default"}},
        {"rope_parameters": SCALED, "rope_scaling": None},
        {"rope_parameters": {"rope_type": "default", "factor": 4.0}},
        {"rope_parameters": {"full_attention": {"rope_type": "default"}}},
        {"rope_theta": "10000"},
        {"rope_theta": None},
    ],
    ids=range(8),
)
def test_scaling_in_either_spelling_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(CheckpointError, match=r"scaling 'yarn'|rotary (factor|full_attention)|rope_theta="):
        TransformerConfig.from_json(CONFIG | change)


@pytest.mark.parametrize("biases", [("attention_bias",), ("mlp_bias",), ("attention_bias", "mlp_bias")])
def test_biases_are_those_of_transformers(biases: tuple[str, ...]) -> None:
    import transformers

    torch.manual_seed(0)
    fields: dict[str, Any] = {**CONFIG, **dict.fromkeys(biases, True)}
    config = transformers.LlamaConfig(**fields)
    theirs = transformers.LlamaForCausalLM(config).double().eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.normal_(std=0.3)
    ours = Transformer.from_config(TransformerConfig.from_json(config.to_dict())).double().eval()
    state = {str(LLAMA.target(key)[1]): value for key, value in theirs.state_dict().items()}
    ours.load_state_dict(state)
    ids = torch.randint(CONFIG["vocab_size"], (2, 19))
    with torch.inference_mode():
        apart = (ours.head(ours(ids)) - theirs(ids).logits).abs().max()
    # transformers turns angles in float32
    assert apart < 1e-6 * theirs(ids).logits.abs().max()
    assert TransformerConfig.from_json(ours.config.to_json()) == ours.config


def test_defaults_are_those_of_llama() -> None:
    config = TransformerConfig.from_json(CONFIG)
    assert (config.num_key_value_heads, config.head_dim) == (4, 8)
    assert (config.rope_theta, config.rms_norm_eps, config.tie_word_embeddings) == (10000.0, 1e-6, False)


@pytest.mark.parametrize("overrides", [{}, {"conv_kernel": 0, "num_key_value_heads": 4}], ids=["gqa-conv", "mha"])
def test_flops_of_a_prefill_match_what_torch_counts(overrides: dict[str, Any]) -> None:
    model, num_tokens = Transformer.tiny(**overrides), 33
    config = model.config
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.head(model(torch.zeros(1, num_tokens, dtype=torch.int64)))
    channels = (config.num_attention_heads + 2 * config.num_key_value_heads) * config.head_dim
    # torch counts the products with weight matrices only: no convolutions, and nothing inside fused attention
    convs = 2 * config.conv_kernel * channels * num_tokens
    pairs = num_tokens * (num_tokens + 1) // 2
    attention = 4 * config.num_attention_heads * config.head_dim * pairs
    uncounted = config.num_hidden_layers * (convs + attention)
    cost = Transformer.cost(config, dtype_bytes=4)
    assert cost.prefill_flops(num_tokens) == counter.get_total_flops() + uncounted


def test_state_bytes_follow_the_formula_in_every_dtype() -> None:
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        model = Transformer.tiny().to(dtype)
        with torch.inference_mode():
            state = model.new_state(1, 50)
            model(torch.zeros(1, 21, dtype=torch.int64), state)
            state.num_tokens = 21
        cost = Transformer.cost(model.config, dtype_bytes=dtype.itemsize)
        assert state.nbytes_used == cost.state_nbytes(21)
        assert state.nbytes_allocated == cost.state_nbytes(50)


def test_parameters_are_counted_with_and_without_the_tables() -> None:
    tied, untied = Transformer.tiny(), Transformer.tiny(tie_word_embeddings=False)
    table = 257 * 32
    assert tied.num_params()[0] + table == untied.num_params()[0]
    assert tied.num_params()[1] == untied.num_params()[1] == tied.num_params()[0] - table


def test_a_step_reads_the_used_keys_rounded_up_by_less_than_a_quarter_or_256() -> None:
    model = Transformer.tiny()
    variants = [model.step_variant(num_tokens) for num_tokens in range(20000)]
    assert variants == sorted(variants)
    for num_tokens, variant in enumerate(variants):
        assert 0 <= variant - (num_tokens + 1) < max(256, (num_tokens + 1) / 4)
    # few enough to capture one graph each
    assert len(set(variants)) < 40


def test_a_state_is_refused_while_gradients_are_on() -> None:
    model = Transformer.tiny()
    with torch.inference_mode():
        state = model.new_state(1, 4)
    with pytest.raises(RuntimeError, match="inference_mode"):
        model(torch.zeros(1, 2, dtype=torch.int64), state)


class Scaled(Transformer):
    """A forward of its own, and no prefill."""

    def forward(self, ids: torch.Tensor, state: Any = None) -> torch.Tensor:
        return 2 * super().forward(ids, state)


def test_who_overrides_forward_has_its_prefill_and_not_the_shortcut_of_the_class_above() -> None:
    torch.manual_seed(0)
    model, ids = Scaled.tiny().double().eval(), torch.arange(30)[None]
    with torch.inference_mode():
        torch.testing.assert_close(model.prefill(ids, model.new_state(1, 30)), model(ids)[:, -1])
