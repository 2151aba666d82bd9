"""Rene as it is published: its config.json, its weights' names and shapes, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from oracle import rene_logits
from safetensors.numpy import save_file

from ttbench.checkpoints.checkpoint import identify, resolve
from ttbench.checkpoints.loading import load_model
from ttbench.errors import CheckpointError
from ttbench.models.hybrid import Hybrid
from ttbench.models.hybrid_config import ReneConfig

# A small one with the fields of cartesia-ai/edge configuration_rene.py @ 6788a08; what is left out has its defaults.
PUBLISHED: dict[str, Any] = {
    "architectures": ["ReneLMHeadModel"],
    "model_type": "rene",
    "d_model": 16,
    "n_layer": 6,
    "vocab_size": 250,
    "ssm_cfg": {"d_state": 8, "headdim": 8, "norm_before_gate": True},
    "attn_layer_idx": [3],
    "attn_cfg": {"num_heads": 4, "num_heads_kv": 2, "sliding_window_length": 5},
    "mlp_layer_idx": [1, 5],
    "mlp_cfg": {"expand": 2.5},
    "rms_norm": True,
    "residual_in_fp32": True,
    "pad_vocab_size_multiple": 16,
    "tie_word_embeddings": True,
    "eos_token_id": 249,
    "pad_token_id": 1,
}


def published_shapes() -> dict[str, tuple[int, ...]]:
    """Every weight of `PUBLISHED`, worked out from the published modules: width 16, 32 channels, 4 heads of 8."""
    shapes: dict[str, tuple[int, ...]] = {"backbone.embedding.weight": (256, 16), "backbone.norm_f.weight": (16,)}
    for i in range(6):
        shapes[f"backbone.layers.{i}.norm.weight"] = (16,)
        mixer = f"backbone.layers.{i}.mixer."
        if i == 3:
            # q: 4 heads of 4; k and v: 2 heads of 4 each
            shapes |= {f"{mixer}in_proj.weight": (32, 16), f"{mixer}in_proj.bias": (32,)}
            shapes |= {f"{mixer}out_proj.weight": (16, 16), f"{mixer}out_proj.bias": (16,)}
        elif i in (1, 5):
            shapes |= {f"{mixer}in_proj.weight": (40, 16), f"{mixer}in_proj.bias": (40,)}
            shapes |= {f"{mixer}out_proj.weight": (16, 40), f"{mixer}out_proj.bias": (16,)}
        else:
            # z and x of 32, B and C of 8, dt of 4 heads; the convolution is over x, B and C
            shapes |= {f"{mixer}in_proj.weight": (84, 16), f"{mixer}out_proj.weight": (16, 32)}
            shapes |= {f"{mixer}conv1d.weight": (48, 1, 4), f"{mixer}conv1d.bias": (48,), f"{mixer}norm.weight": (32,)}
            shapes |= dict.fromkeys((f"{mixer}dt_bias", f"{mixer}A_log", f"{mixer}D"), (4,))
    return shapes


def published_weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {name: rng.normal(size=shape) / 2 for name, shape in published_shapes().items()}


def test_a_published_folder_is_read_as_it_is_and_gives_the_logits_of_the_published_code(tmp_path: Path) -> None:
    weights = published_weights()
    (tmp_path / "config.json").write_text(json.dumps(PUBLISHED))
    save_file(weights, tmp_path / "model.safetensors")
    checkpoint = resolve(str(tmp_path))
    assert (checkpoint.architecture, checkpoint.dialect, checkpoint.vocab_size) == ("hybrid", "rene", 256)
    assert checkpoint.num_params == sum(weight.size for weight in weights.values())
    model = load_model(checkpoint, device="cpu", dtype="float64", attention=None)
    ids = np.random.default_rng(1).integers(250, size=23)
    with torch.inference_mode():
        logits = model.head(model(torch.from_numpy(ids)[None]))[0].numpy()
    expected = rene_logits(ids, weights, PUBLISHED)
    assert np.abs(logits - expected).max() < 1e-10 * np.abs(expected).max()


def test_a_query_sees_its_window_and_nothing_is_rotated() -> None:
    torch.manual_seed(0)
    model = Hybrid.tiny(written_by="cartesia", layer_types=("fused_attention",), sliding_window=5).double()
    ids = torch.randint(257, (1, 20), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        before = model(ids)[:, -1]
        for place, seen in ((14, False), (15, True)):
            changed = ids.clone()
            changed[:, place] = (changed[:, place] + 1) % 257
            assert bool((model(changed)[:, -1] != before).any()) is seen
        # without positions the order of what is seen says nothing
        turned = ids.clone()
        turned[:, 15:19] = ids[:, 15:19].flip(1)
        torch.testing.assert_close(model(turned)[:, -1], before)


def test_an_mlp_layer_sees_its_own_token_only() -> None:
    model = Hybrid.tiny(written_by="cartesia", layer_types=("mlp",)).double()
    ids = torch.arange(7)[None]
    with torch.inference_mode():
        torch.testing.assert_close(model(ids)[:, -1], model(ids[:, -1:])[:, 0])
        assert model.new_state(2, 64).nbytes_allocated == 0


def test_config_survives_its_own_json() -> None:
    for config in (ReneConfig.from_json(PUBLISHED), Hybrid.tiny(written_by="cartesia").config):
        data = json.loads(json.dumps(config.to_json()))
        assert identify(data).config == config


def test_the_sizes_of_the_published_checkpoint_are_read() -> None:
    # 48 layers of width 2048, as the published configuration has by default; the window and heads are given in attn_cfg
    found = ReneConfig.from_json(
        {
            "model_type": "rene",
            "d_model": 2048,
            "n_layer": 48,
            "vocab_size": 50280,
            "attn_layer_idx": [6, 18, 30, 42],
            "attn_cfg": {"num_heads": 32, "head_dim": 64, "sliding_window_length": 2048},
            "mlp_layer_idx": [*range(1, 48, 2)],
        }
    )
    assert (found.vocab_size, found.hidden_size, found.mlp_width) == (50288, 2048, 6144)
    assert [found.layer_types.count(kind) for kind in ("mamba2", "fused_attention", "mlp")] == [20, 4, 24]
    assert (found.num_key_value_heads, found.mamba2.num_heads, found.mamba2.state_size) == (32, 64, 128)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rms_norm": False}, "rms_norm=False"),
        ({"n_layer": 0}, "n_layer=0"),
        ({"n_layer": None}, "lacks n_layer"),
        ({"attn_layer_idx": [1]}, "mlp_layer_idx with 1"),
        ({"attn_layer_idx": [6]}, "attn_layer_idx with 6"),
        ({"attn_cfg": {"num_heads": 4}}, "sliding_window_length=None"),
        ({"attn_cfg": {**PUBLISHED["attn_cfg"], "causal": False}}, "causal=False"),
        ({"attn_cfg": {**PUBLISHED["attn_cfg"], "softmax_scale": 0.1}}, "softmax_scale=0.1"),
        ({"attn_cfg": {**PUBLISHED["attn_cfg"], "rotary": 1}}, "attn_cfg with rotary"),
        ({"attn_cfg": {**PUBLISHED["attn_cfg"], "num_heads_kv": 3}}, "num_heads_kv=3"),
        ({"mlp_cfg": {"expand": 0}}, "expand=0"),
        ({"mlp_cfg": {"gate": True}}, "mlp_cfg with gate"),
        ({"mlp_cfg": {"bias": 1}}, "mlp_layer_bias=1"),
        ({"ssm_cfg": {"d_state": 8, "headdim": 8, "rmsnorm": False}}, "rmsnorm=False"),
        ({"ssm_cfg": {"headdim": 5}}, "headdim=5"),
        ({"colour": 1}, "colour"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_rene_that_is_not_built_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        ReneConfig.from_json({key: value for key, value in (PUBLISHED | change).items() if value is not None})
