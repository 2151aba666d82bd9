"""Titans: what each variant may see, what it keeps, and what the paper's equations would leak if read as they stand.

Steps, splits, causality, dialects and state bytes of every variant are in tests/conformance; the memory's own maths is
in tests/kernels/test_neural_memory.py.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from ttbench.errors import CheckpointError
from ttbench.models.titans import titans_mac
from ttbench.models.titans.memory_layer import MemoryLayer
from ttbench.models.titans.titans import Titans, TitansLMM, TitansMAG, TitansMAL
from ttbench.models.titans.titans_mac import TitansMAC

VARIANTS = (TitansLMM, TitansMAC, TitansMAG, TitansMAL)


def make(model_class: type[Titans], **overrides: Any) -> Titans:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return model_class.tiny(**overrides).double().eval()


def tokens(num_tokens: int, *, seed: int = 0) -> Tensor:
    return torch.randint(0, 257, (1, num_tokens), generator=torch.Generator().manual_seed(seed))


def leak(model: Titans, *, num_tokens: int = 48) -> float:
    """How far a change of any later token moves an earlier output, relative to the outputs."""
    ids, worst = tokens(num_tokens), 0.0
    with torch.inference_mode():
        before = model(ids)
        for cut in range(1, num_tokens):
            changed = ids.clone()
            changed[:, cut:] = (changed[:, cut:] + 1) % 257
            worst = max(worst, float((model(changed)[:, :cut] - before[:, :cut]).abs().max() / before.abs().max()))
    return worst


@pytest.mark.parametrize("read", ["token", "chunk"])
@pytest.mark.parametrize("model_class", VARIANTS)
def test_no_variant_sees_the_future_at_any_place_of_a_chunk(model_class, read):
    assert leak(make(model_class, memory_read=read)) < 1e-12


def test_recalled_vectors_seen_by_the_whole_segment_would_leak(monkeypatch):
    # equation 22 as it stands: all h in front of the segment, and only its tokens in causal order
    def naive(*, offset: int, num_tokens: int, num_always: int, device: torch.device) -> Tensor:
        visible = honest(offset=offset, num_tokens=num_tokens, num_always=num_always, device=device)
        visible[:, num_always::2] = True
        return visible

    honest = titans_mac.visible
    model = make(TitansMAC)
    assert leak(model) < 1e-12
    monkeypatch.setattr(titans_mac, "visible", naive)
    assert leak(model) > 1e-3


def test_reading_the_memory_after_the_segment_would_leak(monkeypatch):
    # equations 24 and 25 as they stand: write all of y, then read
    def naive(self: MemoryLayer, x: Tensor, state: Any, tail: Any, *, offset: int) -> Any:
        before = tail.clone()
        _, final = honest(self, x, state, tail, offset=offset)
        return honest(self, x, final, before, offset=0)[0], final

    honest = MemoryLayer.run
    model = make(TitansMAC, memory_read="chunk")
    assert leak(model) < 1e-12
    monkeypatch.setattr(MemoryLayer, "run", naive)
    assert leak(model) > 1e-6


@pytest.mark.parametrize("model_class", VARIANTS)
def test_every_variant_sees_beyond_its_window_and_segment(model_class):
    model, ids = make(model_class, chunk_size=8), tokens(60)
    changed = ids.clone()
    changed[0, 2] = (changed[0, 2] + 1) % 257
    with torch.inference_mode():
        moved = (model(ids) - model(changed)).abs().amax(-1)[0]
    assert (moved[2:] > 1e-9).all()


@pytest.mark.parametrize("model_class", VARIANTS)
def test_persistent_vectors_matter_long_after_the_start(model_class):
    model, ids = make(model_class), tokens(60)
    with torch.inference_mode():
        before = model(ids)
        for mixer in (block.mixer for block in model.blocks()):
            mixer.persistent.add_(1)
        assert ((model(ids) - before).abs().amax(-1) > 1e-9).all()


@pytest.mark.parametrize("model_class", VARIANTS)
def test_sixty_four_thousand_tokens_stay_finite_with_a_state_of_constant_size(model_class):
    # a memory of the size of the shipped recipe's, at nearly its largest step, in single precision
    model = make(model_class, num_hidden_layers=1, chunk_size=64, max_step=0.25).float()
    with torch.inference_mode():
        for mixer in (block.mixer for block in model.blocks()):
            mixer.memory.gates_proj.bias.view(-1, 3)[:, 0] = 8.0
        state = model.new_state(1, 65536)
        size = state.nbytes_used
        for i in range(4):
            out = model(tokens(16384, seed=i), state)
            state.num_tokens += 16384
            assert out.isfinite().all()
            assert all(value.isfinite().all() for value, _, _ in state.tensors().values())
    assert state.nbytes_used == size
    assert state.nbytes_allocated == size


@pytest.mark.parametrize("read", ["token", "chunk"])
@pytest.mark.parametrize("num_layers", [1, 2, 4])
def test_flops_of_a_prefill_match_what_torch_counts(num_layers, read):
    model = make(TitansLMM, memory_layers=num_layers, memory_read=read, num_persistent=0)
    config, size, num_tokens = model.config, model.config.chunk_size, 8 * model.config.chunk_size
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        model.head(model(tokens(num_tokens)))
    # torch counts whole squares of triangles, f, and no convolution
    more = 2 * size * size - (size + 1) * (size + 2) / 3 + 2 * size
    if read == "token":
        more += (2 * size - (size + 1)) * sum(map(sum, MemoryLayer(config).shapes))
    layer = config.num_attention_heads * more - 2 * 3 * config.conv_kernel * config.hidden_size
    cost = TitansLMM.cost(config, dtype_bytes=8)
    expected = cost.prefill_flops(num_tokens) + num_tokens * config.num_hidden_layers * layer
    assert counter.get_total_flops() == pytest.approx(expected, rel=1e-12)


def test_every_row_names_the_choices_that_make_another_function():
    choices: dict[str, Any] = {"memory_read": "chunk", "memory_init": "zero", "chunk_size": 5, "num_persistent": 0}
    choices["memory_layers"] = 1
    for model_class in VARIANTS:
        model = make(model_class, **choices)
        windows = {} if not hasattr(model.config, "window") else {"window": model.config.window}
        assert model.choices == choices | windows


@pytest.mark.parametrize("model_class", VARIANTS)
def test_all_parameters_get_a_gradient(model_class):
    model = make(model_class)
    model(tokens(40)).square().mean().backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert without == ["lm_head.weight"]


@pytest.mark.parametrize(
    ("model_class", "changes", "words"),
    [
        (TitansLMM, {"memory_read": "end"}, "memory_read='end'; available: chunk, token"),
        (TitansLMM, {"memory_init": "zero"}, "memory_init='zero' with memory_layers=2"),
        (TitansLMM, {"max_step": 0.0}, "max_step=0.0; it must be positive"),
        (TitansLMM, {"max_step": float("inf")}, "max_step=inf; it must be positive and finite"),
        (TitansLMM, {"memory_layers": 9}, "memory_layers=9; at most 8"),
        (TitansMAC, {"rope_theta": 0.0}, "rope_theta=0.0; it must be positive and finite"),
        (TitansMAG, {"rope_theta": float("nan")}, "rope_theta=nan; it must be positive and finite"),
        (TitansLMM, {"chunk_size": 0}, "chunk_size=0; it must be at least 1"),
        (TitansLMM, {"num_attention_heads": 5}, "the width of a head must be a whole, even number"),
        (TitansMAG, {"window": 1}, "window=1; it must be at least 2"),
        (TitansMAL, {"num_persistent": -1}, "num_persistent=-1; it must be at least 0"),
    ],
    ids=str,
)
def test_an_impossible_config_says_why(model_class, changes, words):
    with pytest.raises(CheckpointError, match=words):
        make(model_class, **changes)


def test_a_config_says_what_it_lacks_and_which_type_it_wants():
    data = make(TitansMAG).config.to_json()
    config_class = type(make(TitansMAG).config)
    assert config_class.from_json(data) == make(TitansMAG).config
    with pytest.raises(CheckpointError, match="a titans-mag lacks chunk_size, window; nothing is guessed"):
        config_class.from_json({name: value for name, value in data.items() if name not in ("window", "chunk_size")})
    with pytest.raises(CheckpointError, match="window='12'; expected a value of type int"):
        config_class.from_json(data | {"window": "12"})
    with pytest.raises(CheckpointError, match="window=True; expected a value of type int"):
        config_class.from_json(data | {"window": True})
    with pytest.raises(CheckpointError, match=r"unknown field 'max_steps' in config.*; did you mean 'max_step'"):
        config_class.from_json(data | {"max_steps": 0.1})
    with pytest.raises(CheckpointError, match=r"rms_norm_eps=-1\.0; it must be positive"):
        config_class.from_json(data | {"rms_norm_eps": -1.0})
    config_class.from_json(
        data | {"train_ctx": 1024, "train_kinds": ["code"], "tokenizer": "bytes", "dtype": "bfloat16"}
    )
