"""A config.json is read whole: a field that nobody reads is refused by name, by every architecture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import transformers

from ttbench.checkpoints.checkpoint import identify
from ttbench.checkpoints.files import parse_json
from ttbench.errors import CheckpointError
from ttbench.registry import ARCHITECTURES

GOLDEN = Path(__file__).parents[1] / "golden"
NAMES = sorted(ARCHITECTURES)
SIZES = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 1}


def own_config(name: str) -> dict[str, Any]:
    return {**ARCHITECTURES.load(name).tiny().config.to_json(), "train_ctx": 64, "tokenizer": "bytes"}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("field", ["rope_tetha", "rms_norm_epsilon", "logit_softcap"])
def test_a_misspelt_field_is_refused_by_name(name: str, field: str) -> None:
    with pytest.raises(CheckpointError, match=f"unknown field '{field}'"):
        identify({**own_config(name), field: 1.0})


def test_a_misspelt_field_is_told_the_right_name() -> None:
    for name in ("transformer", "ttt-linear"):
        with pytest.raises(CheckpointError, match=r"'rope_tetha' .*did you mean 'rope_theta'\?"):
            identify({**own_config(name), "rope_tetha": 500000.0})


@pytest.mark.parametrize("name", NAMES)
def test_quantised_weights_are_refused(name: str) -> None:
    with pytest.raises(CheckpointError, match=r"quantization_config \(gptq\), and quantised weights are not read"):
        identify({**own_config(name), "quantization_config": {"quant_method": "gptq", "bits": 4}})
    assert identify({**own_config(name), "quantization_config": None}).config is not None


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.json")), ids=lambda path: path.stem)
def test_what_others_wrote_is_still_read(path: Path) -> None:
    written = parse_json(path.read_bytes(), where=path)
    if "model_type" in written.get("config", {}):
        assert identify(written["config"]).config is not None


WRITTEN = {
    "llama": {**SIZES, "intermediate_size": 16, "num_attention_heads": 2},
    "mamba": {**SIZES, "state_size": 4},
    "mamba2": {**SIZES, "num_heads": 4, "head_dim": 8, "n_groups": 1},
    "jamba": {**SIZES, "intermediate_size": 16, "num_attention_heads": 2, "num_key_value_heads": 1, "num_experts": 1},
}


@pytest.mark.parametrize("name", WRITTEN)
def test_everything_that_transformers_writes_is_known(name: str) -> None:
    config = transformers.AutoConfig.for_model(name, **WRITTEN[name])
    data = {key: value for key, value in config.to_dict().items() if not isinstance(value, float) or value < 1e9}
    assert identify(data).config is not None


def test_the_config_of_the_mamba_authors_on_the_hub_is_read() -> None:
    """state-spaces/mamba-130m-hf carries the authors' own names for sizes beside transformers'."""
    data = {"model_type": "mamba", **SIZES, "d_inner": 32, "d_model": 16, "n_layer": 1, "fused_add_norm": True}
    data |= {"rms_norm": True, "ssm_cfg": {}, "pad_vocab_size_multiple": 8, "intermediate_size": 32, "expand": 2}
    data |= {"time_step_init_scheme": "random", "time_step_rank": 1, "hidden_act": "silu", "torch_dtype": "float32"}
    assert identify(data).config is not None
