"""The Performer: its configuration, its features as part of a checkpoint, its state and its cost."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from ttbench.checkpoints.checkpoint import resolve
from ttbench.checkpoints.fit import skeleton
from ttbench.checkpoints.loading import load_model, save_checkpoint
from ttbench.errors import CheckpointError
from ttbench.models.approximate.performer import Performer, PerformerConfig

CONFIG = Performer.tiny().config.to_json()


def test_config_survives_its_own_json() -> None:
    assert PerformerConfig.from_json(CONFIG).to_json() == CONFIG


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_features": 0}, r"num_features=0; it must be at least 1"),
        ({"num_features": 2.5}, r"num_features=2\.5; expected a value of type int"),
        ({"feature_seed": -1}, r"feature_seed=-1; it must be at least 0"),
        ({"feature_seed": 1 << 63}, r"feature_seed=9223372036854775808; it must be at least 0 and below 2\^63"),
        ({"rope_theta": float("inf")}, r"rope_theta=inf; it must be positive and finite"),
        ({"feature_eps": 1.0}, r"feature_eps=1\.0; it must be at least 0 and below 1"),
        ({"feature_eps": float("nan")}, r"feature_eps=nan"),
        ({"rope_theta": 0.0}, r"rope_theta=0\.0; it must be positive"),
        ({"num_attention_heads": 32}, r"width of a head must be a whole, even number"),
    ],
)
def test_impossible_configurations_are_refused(change: dict, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        PerformerConfig.from_json({**CONFIG, **change})


def test_a_config_must_state_its_features() -> None:
    data = {key: value for key, value in CONFIG.items() if key not in ("num_features", "feature_seed")}
    with pytest.raises(CheckpointError, match=r"lacks num_features, feature_seed"):
        PerformerConfig.from_json(data)


def test_layers_have_features_of_their_own_that_follow_from_the_seed_alone() -> None:
    torch.manual_seed(0)
    one = Performer.tiny().state_dict()
    torch.manual_seed(1)
    two, other = Performer.tiny().state_dict(), Performer.tiny(feature_seed=1).state_dict()
    names = [name for name in one if name.endswith("mixer.features")]
    assert len(names) == 2
    assert all(torch.equal(one[name], two[name]) for name in names)
    assert not torch.equal(one[names[0]], one[names[1]])
    assert not any(torch.equal(one[name], other[name]) for name in names)


def test_features_come_from_the_checkpoint_and_not_from_the_seed(tmp_path) -> None:
    model = Performer.tiny()
    with torch.no_grad():
        model.get_buffer("layers.1.mixer.features").mul_(2)
    save_checkpoint(model, tmp_path / "model", dtype="float32")
    loaded = load_model(resolve(str(tmp_path / "model")), device="cpu", dtype="float32", attention=None)
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)


def test_features_are_not_parameters() -> None:
    model = Performer.tiny()
    assert model.num_params()[0] == sum(
        value.numel() for name, value in model.state_dict().items() if not name.endswith("features")
    ) - (model.lm_head.weight.numel() if model.config.tie_word_embeddings else 0)


def test_absurd_sizes_cost_nothing_to_look_at() -> None:
    model = skeleton(Performer, PerformerConfig.from_json({**CONFIG, "num_features": 10**12}))
    assert model.get_buffer("layers.0.mixer.features").is_meta


def test_flops_of_a_step_match_what_torch_counts() -> None:
    model = Performer.tiny(feature_eps=1e-3)
    config, state = model.config, model.new_state(1, 4)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.head(model.step(torch.zeros(1, dtype=torch.int64), state, 0))
    # rescaling the sums and adding phi(k) [v, 1] are no matrix products
    elementwise = 3 * config.num_attention_heads * (config.num_features + 1) * (config.head_dim + 1)
    cost = Performer.cost(config, dtype_bytes=4)
    assert cost.decode_flops(1000) == counter.get_total_flops() + config.num_hidden_layers * elementwise


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_the_state_is_float32_at_least_and_of_one_size(dtype: torch.dtype) -> None:
    model = Performer.tiny().to(dtype)
    with torch.inference_mode():
        state = model.new_state(3, 10_000_000)
    cost = Performer.cost(model.config, dtype_bytes=dtype.itemsize)
    assert state.nbytes_allocated == state.nbytes_used == 3 * cost.state_nbytes(10_000_000)
    assert {tensor.dtype for tensor in state.held.values()} == {torch.promote_types(dtype, torch.float32)}


def test_large_activations_stay_finite_in_training() -> None:
    model = Performer.tiny()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("q_proj.weight", "k_proj.weight")):
                parameter.mul_(30)
    ids = torch.randint(0, 257, (2, 100), generator=torch.Generator().manual_seed(0))
    model.head(model(ids)).logsumexp(-1).mean().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
