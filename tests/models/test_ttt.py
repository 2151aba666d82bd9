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

from ttbench.checkpoints.files import parse_json
from ttbench.errors import CheckpointError
from ttbench.models.ttt import TTT, TTTMLP, TTTLinear
from ttbench.models.ttt_config import TTTConfig

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


@pytest.mark.parametrize("kind", list(MODELS))
def test_a_checkpointed_backward_gives_the_same_gradients(kind):
    ids = torch.randint(0, 257, (2, 101), generator=torch.Generator().manual_seed(0))
    grads = []
    for num_parts in (0, 3):
        torch.manual_seed(0)
        model = MODELS[kind].tiny(scan_checkpoint_group_size=num_parts).double()
        model.head(model(ids)).square().mean().backward()
        grads.append([p.grad for p in model.parameters()])
    for plain, parts in zip(*grads, strict=True):
        torch.testing.assert_close(parts, plain, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", list(MODELS))
def test_every_weight_receives_a_gradient(kind):
    torch.manual_seed(0)
    model = MODELS[kind].tiny()
    ids = torch.randint(0, 257, (2, 40), generator=torch.Generator().manual_seed(0))
    model.head(model(ids)).square().mean().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


@pytest.mark.parametrize("kind", list(MODELS))
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_low_precision_model_keeps_its_inner_model_in_float32(kind, dtype):
    torch.manual_seed(0)
    exact = MODELS[kind].tiny().eval()
    ids = torch.randint(0, 257, (1, 37), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = exact.head(exact(ids))
        model = exact.to(dtype)
        state = model.new_state(1, 64)
        logits = model.head(model(ids, state))
    assert [state.held[name].dtype for name in ("W1", "K", "qk_tail")] == [torch.float32, torch.float32, dtype]
    assert logits.dtype == torch.float32
    assert (logits - expected).abs().max() < 0.05 * expected.abs().max()


def config_json(**changes: Any) -> dict[str, Any]:
    return {**make_ttt.config("mamba", "linear"), **changes}


def test_a_config_without_ttt_base_lr_is_an_error_that_says_what_to_do():
    data = config_json()
    del data["ttt_base_lr"]
    with pytest.raises(CheckpointError, match=r"lacks ttt_base_lr.*1\.0 for 'linear' and 0\.1 for 'mlp'"):
        TTTConfig.from_json(data)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ttt_layer_type": "conv"}, "allowed: 'linear' or 'mlp'"),
        ({"hidden_act": "gelu"}, "reads only 'silu'"),
        ({"hidden_size": None}, "lacks hidden_size"),
        ({"num_attention_heads": 5}, "must be a whole, even number"),
        ({"mini_batch_size": 0}, "an integer from 1 on"),
        ({"conv_kernel": "4"}, "an integer from 1 on"),
        ({"ttt_base_lr": float("inf")}, "a finite positive number"),
        ({"use_gate": 1}, "true or false"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_an_impossible_field_is_an_error_that_says_what_is_allowed(changes, message):
    with pytest.raises(CheckpointError, match=message):
        TTTConfig.from_json(config_json(**changes))


def test_config_survives_json_and_ignores_what_belongs_to_the_checkpoint():
    # what transformers 5 writes beside the model's own fields
    text = json.dumps(
        {**config_json(), "train_ctx": 1024, "tokenizer": "bytes", "temperature": {"__float__": "Infinity"}}
    )
    config = TTTConfig.from_json(parse_json(text.encode(), where=Path("config.json")))
    assert TTTConfig.from_json(json.loads(json.dumps(config.to_json()))) == config
    assert (config.tie_word_embeddings, config.rope_theta, config.rms_norm_eps) == (True, 10000.0, 1e-6)


def test_a_model_refuses_the_config_of_the_other():
    with pytest.raises(CheckpointError, match="expected 'mlp'"):
        TTTMLP.from_config(TTTConfig.from_json(config_json()))


@pytest.mark.parametrize(
    ("kind", "millions"), [("linear", (110.28, 110.42)), ("mlp", (114.44, 114.59))], ids=["linear", "mlp"]
)
def test_the_125m_preset_has_the_authors_number_of_parameters(kind, millions):
    sizes = {"vocab_size": 32000, "hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12}
    for on, expected in zip((False, True), millions, strict=True):
        switches = dict.fromkeys(("use_gate", "share_qk", "pre_conv"), on)
        config = TTTConfig(**sizes, num_attention_heads=12, ttt_layer_type=kind, ttt_base_lr=1.0, **switches)
        with torch.device("meta"):
            total, _ = MODELS[kind].from_config(config).num_params()
        assert round(total / 1e6, 2) == expected


@pytest.mark.parametrize("kind", list(MODELS))
def test_the_last_token_of_a_mini_batch_is_a_variant_of_its_own(kind):
    model = MODELS[kind].tiny(mini_batch_size=4)
    assert [model.step_variant(i) for i in range(9)] == [0, 0, 0, 1, 0, 0, 0, 1, 0]


@pytest.mark.parametrize("kind", list(MODELS))
def test_a_state_cannot_be_used_while_grad_is_enabled(kind):
    model = MODELS[kind].tiny()
    with pytest.raises(RuntimeError, match="inference_mode"):
        model(torch.zeros(1, 3, dtype=torch.int64), model.new_state(1, 8))
