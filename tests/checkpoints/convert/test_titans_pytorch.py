"""Memories of titans-pytorch: ours compute what theirs did where there is a map; every other option is refused."""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from ttbench.checkpoints.convert.conversion import convert
from ttbench.checkpoints.convert.titans_pytorch import REQUIRED, ConvertedMemory, convert_memory
from ttbench.errors import CheckpointError, UsageError, WeightsError
from ttbench.models.titans.memory_layer import MemoryLayer
from ttbench.models.titans.titans import TitansLMM
from ttbench.models.titans.titans_config import TitansConfig

GOLDEN = Path(__file__).parents[2] / "golden"
RECORDED: dict[str, Any] = json.loads((GOLDEN / "titans_pytorch.json").read_text(encoding="utf-8"))
CASES = RECORDED["cases"]


@pytest.fixture(scope="module")
def maker() -> ModuleType:
    """tests/golden/make_titans_pytorch.py, for the weights that both sides make."""
    spec = importlib.util.spec_from_file_location("make_titans_pytorch", GOLDEN / "make_titans_pytorch.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["make_titans_pytorch"] = module
    spec.loader.exec_module(module)
    return module


def config_of(converted: ConvertedMemory) -> TitansConfig:
    return replace(TitansLMM.tiny().config, **converted.fields)


def layer_of(converted: ConvertedMemory) -> MemoryLayer:
    """Our layer, filled."""
    config = config_of(converted)
    config.check()
    layer = MemoryLayer(config).double()
    layer.load_state_dict(dict(converted.weights))
    return layer.eval()


@pytest.mark.parametrize("name", CASES)
def test_our_layer_computes_what_theirs_did(maker: ModuleType, name: str) -> None:
    case = CASES[name]
    converted = convert_memory(maker.state_dict(case["shapes"]), case["options"])
    layer, x = layer_of(converted), maker.inputs()
    if converted.normed_input:
        x = torch.nn.functional.rms_norm(x, x.shape[-1:], eps=converted.fields["rms_norm_eps"])
    expected = torch.tensor(case["outputs"], dtype=torch.float64)
    with torch.no_grad():
        found = layer.norm(layer(x, None, offset=0)).flatten(-2)[:, RECORDED["positions"]]
    assert (found - expected).abs().max() < 1e-9 * expected.abs().max()


def test_a_block_with_plain_norm_weights_gives_the_layer_the_input_that_it_expects(maker: ModuleType) -> None:
    case = CASES["norm"]
    converted = convert_memory(maker.state_dict(case["shapes"]), case["options"])
    model = TitansLMM.from_config(config_of(converted)).double()
    block: Any = model.layers[0]
    x = maker.inputs()
    normed = torch.nn.functional.rms_norm(x, x.shape[-1:], eps=converted.fields["rms_norm_eps"])
    assert torch.allclose(block.mixer_norm(x), normed, rtol=1e-12)


@pytest.mark.parametrize("option", sorted(set(RECORDED["refused"]) - {"batch_size"}))
def test_an_option_that_moves_their_output_is_refused_by_name(maker: ModuleType, option: str) -> None:
    assert RECORDED["refused"][option]["moves"] > 0.1
    given = {**CASES["norm"]["options"], option: RECORDED["refused"][option]["value"]}
    with pytest.raises(UsageError, match=f"no map for {option}=") as caught:
        convert_memory(maker.state_dict(CASES["norm"]["shapes"]), given)
    assert REQUIRED[option][2] in str(caught.value)


def test_an_unbounded_batch_is_refused(maker: ModuleType) -> None:
    given = {**CASES["norm"]["options"], "batch_size": None}
    with pytest.raises(UsageError, match="depends on how a text is cut into calls"):
        convert_memory(maker.state_dict(CASES["norm"]["shapes"]), given)


def test_their_defaults_are_refused_and_said_to_be_defaults(maker: ModuleType) -> None:
    with pytest.raises(UsageError, match="no map for activation=None, its default"):
        convert_memory(maker.state_dict(CASES["norm"]["shapes"]), {"dim": maker.DIM, "batch_size": 8})


def test_an_option_that_the_package_does_not_have_is_named(maker: ModuleType) -> None:
    with pytest.raises(UsageError, match="has no option chunksize"):
        convert_memory(maker.state_dict(CASES["norm"]["shapes"]), {**CASES["norm"]["options"], "chunksize": 1})


def test_options_and_weights_that_disagree_are_named(maker: ModuleType) -> None:
    case = CASES["norm"]
    state = maker.state_dict(case["shapes"])
    with pytest.raises(WeightsError, match=r"holds retrieve_norm\.weight, store_norm\.weight, which these options"):
        convert_memory(state, {**case["options"], "pre_rmsnorm": False})
    with pytest.raises(WeightsError, match=r"'to_keys\.0\.weight' of shape \[6, 6\]; the state_dict has none"):
        convert_memory({key: value for key, value in state.items() if key != "to_keys.0.weight"}, case["options"])
    odd = {"memory_model_parameters.0": torch.zeros(1, 6, 9), "memory_model_parameters.1": torch.zeros(1, 9, 6)}
    with pytest.raises(UsageError, match="no map for a hidden width of 9"):
        convert_memory({**state, **odd}, case["options"])


@pytest.mark.parametrize(
    ("prefix", "words"),
    [("", "one layer, without embedding and head"), ("layers.0.4.", "no architecture here computes the same")],
)
def test_convert_says_why_it_does_not_take_a_file_of_the_package(
    maker: ModuleType, tmp_path: Path, prefix: str, words: str
) -> None:
    state = maker.state_dict(CASES["norm"]["shapes"])
    torch.save({f"{prefix}{key}": value for key, value in state.items()}, tmp_path / "memory.pt")
    with pytest.raises(CheckpointError, match=words):
        convert(tmp_path / "memory.pt", tmp_path / "out", config=None, report=lambda done, total: None)
    assert not (tmp_path / "out").exists()
