"""Rotary tables that move with the length of a text are found, and a number does not depend on what was read before."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hf_families import DECODER, HEADS, SHARED
from transformers import AutoModelForCausalLM, Gemma3TextConfig, LlamaConfig, MistralConfig, Phi3Config, XGLMConfig

from ttbench.engines.hf.hf_engine import HFEngine
from ttbench.engines.hf.hf_length import Tables, steady_length
from ttbench.engines.probing import probe
from ttbench.errors import UnsupportedError

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning", "ignore::DeprecationWarning")

BASE = {"rope_theta": 10_000.0}
DYNAMIC = {"rope_type": "dynamic", "factor": 4.0, **BASE}
LONGROPE = {
    **{"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [1.0, 2.0, 8.0, 32.0], "factor": 8.0, **BASE},
    **{"original_max_position_embeddings": 64, "partial_rotary_factor": 1.0},
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, **BASE}
LLAMA3 = {
    **{"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, **BASE},
    "original_max_position_embeddings": 64,
}
SIZES = {**SHARED, **DECODER, **HEADS, "max_position_embeddings": 96}


def build(config: Any) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        return AutoModelForCausalLM.from_config(config).eval()


def llama(rope: dict[str, Any] | None = None) -> LlamaConfig:
    return LlamaConfig(**SIZES, rope_parameters=rope or {"rope_type": "default", **BASE})


def phi3() -> Phi3Config:
    sizes: dict[str, Any] = SIZES | {"max_position_embeddings": 512, "original_max_position_embeddings": 64}
    return Phi3Config(**sizes, rope_parameters=LONGROPE, sliding_window=None)


def xglm() -> XGLMConfig:
    """Sinusoidal positions in a table that grows when a text is longer than any before."""
    sizes: dict[str, Any] = {
        "d_model": 32,
        "ffn_dim": 48,
        "num_layers": 2,
        "attention_heads": 4,
        "max_position_embeddings": 96,
    }
    return XGLMConfig(**{**SHARED, **sizes})


CASES = {
    "dynamic": (llama(DYNAMIC), 96),
    "longrope": (phi3(), 64),
    "default": (llama(), None),
    "linear": (llama({"rope_type": "linear", "factor": 4.0, **BASE}), None),
    "yarn": (llama(YARN), None),
    "llama3": (llama(LLAMA3), None),
    "window": (MistralConfig(**SIZES, sliding_window=24), None),
    "two kinds of layers": (Gemma3TextConfig(**SIZES, sliding_window=24, query_pre_attn_scalar=8), None),
    "sinusoidal": (xglm(), None),
}


@pytest.mark.parametrize("case", CASES)
def test_the_length_up_to_which_a_model_is_one_function_is_found(case: str) -> None:
    config, expected = CASES[case]
    model = build(config)
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    assert steady_length(model) == expected
    # and the model is left as it was
    assert {name: tuple(buffer.shape) for name, buffer in model.named_buffers()} == {
        name: tuple(buffer.shape) for name, buffer in buffers.items()
    }
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in model.named_buffers())


def nats(engine: HFEngine, ids: torch.Tensor) -> np.ndarray:
    engine.reset(1, len(ids) - 1)
    return engine.score(ids[None, :-1], ids[None, 1:])[0]


@pytest.mark.parametrize("case", ["dynamic", "longrope"])
def test_a_score_is_that_of_one_forward_whatever_was_read_before(case: str) -> None:
    config, steady = CASES[case]
    engine = HFEngine(build(config), device="cpu", dtype="float32", vocab_size=257)
    ids = torch.randint(257, (301,), generator=torch.Generator().manual_seed(1))
    short = nats(engine, ids[:50])
    # a fresh model each: one forward, nothing read before
    for length in (301, 130, 50):
        with torch.inference_mode():
            logits = build(config)(input_ids=ids[None, : length - 1], use_cache=False).logits[0].float()
        expected = F.cross_entropy(logits, ids[1:length], reduction="none").numpy()
        np.testing.assert_allclose(nats(engine, ids[:length]), expected, rtol=0, atol=2e-4)
        assert engine.choices["cache"] == ("chunks" if length == 50 else "whole")
    assert np.array_equal(nats(engine, ids[:50]), short)
    assert engine.choices["steady_tokens"] == str(steady)
    # context first, window after: the window's losses are those of one forward over both
    engine.reset(1, 300)
    engine.prefill(ids[None, :200])
    window = engine.score(ids[None, 200:300], ids[None, 201:301])[0]
    np.testing.assert_allclose(window, nats(engine, ids)[200:], rtol=0, atol=2e-4)


def test_texts_of_several_lengths_are_not_read_together_where_tables_move() -> None:
    engine = HFEngine(build(llama(DYNAMIC)), device="cpu", dtype="float32", vocab_size=257)
    ids = torch.randint(257, (2, 121), generator=torch.Generator().manual_seed(1))
    engine.reset(2, 120)
    with pytest.raises(UnsupportedError, match="beyond 96 tokens a loss of this model depends on how long its text is"):
        engine.score(ids[:, :-1], ids[:, 1:], lengths=np.array([120, 60]))
    engine.reset(2, 96)
    engine.score(ids[:, :60], ids[:, 1:61], lengths=np.array([60, 30]))


@pytest.mark.parametrize("case", ["dynamic", "default", "window"])
def test_the_probes_of_a_run_pass_beyond_every_length_that_the_config_names(case: str) -> None:
    engine = HFEngine(build(CASES[case][0]), device="cpu", dtype="float32", vocab_size=257)
    found = probe(engine, looked=300, ids=None, windows=engine.windows, seed=3)
    assert found.failed is None, found.failed
    assert {result.name for result in found.results if result.passed} >= {"later_tokens", "pieces", "read_again"}


def test_tables_that_stay_moved_after_a_long_text_are_found_by_the_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ttbench.engines.hf.hf_engine.steady_length", lambda model: None)
    monkeypatch.setattr(Tables, "restore", lambda self: None)
    engine = HFEngine(build(llama(DYNAMIC)), device="cpu", dtype="float32", vocab_size=257)
    failed = probe(engine, looked=300, ids=None, windows=(), seed=3).failed
    assert failed is not None
    assert failed.name in ("pieces", "read_again")
