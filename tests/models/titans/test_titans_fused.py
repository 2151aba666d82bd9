"""A step of Titans by fused kernels and joined projections is the step in plain torch, at every kind of place."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ttbench.kernels.dispatch.catalogue import absent
from ttbench.kernels.dispatch.running import using, watching
from ttbench.kernels.dispatch.twin import interpreted
from ttbench.registry import ARCHITECTURES

if absent() is not None or not interpreted():
    pytest.skip("kernels are not interpreted in this process", allow_module_level=True)

SIZES = {"hidden_size": 16, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "chunk_size": 4}
# a ring that is not full, one that is, and the last token of a chunk and segment
PLACES = {"titans-mag": (1, 9), "titans-mal": (8,), "titans-mac": (2, 7)}
TWINS = {
    "titans-mag": {"window_attention_step", "memory_gate"},
    "titans-mal": {"window_attention_step", "gated_norm"},
    "titans-mac": {"segment_attention_step", "memory_recall_step", "memory_gate"},
}


@pytest.mark.parametrize(("name", "read"), [(name, read) for name, places in PLACES.items() for read in places])
@torch.inference_mode()
def test_a_fused_step_is_the_plain_step(name: str, read: int) -> None:
    window: dict[str, Any] = {} if name == "titans-mac" else {"window": 5}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = ARCHITECTURES.load(name).tiny(**SIZES, **window).eval()
    ids = torch.randint(0, 257, (1, read + 1), generator=torch.Generator().manual_seed(1))
    results = []
    for way in ("torch", "fused"):
        with using("torch"):
            state = model.new_state(1, 16)
            model(ids[:, :read], state)
        state.num_tokens = read
        with using(way), watching() as ran:
            model.new_state(1, 16)
            hidden = model.step(ids[:, read], state, model.step_variant(read))
        results.append((hidden, *(held for held, _, _ in state.tensors().values())))
    assert {op for op, what in ran.items() if what.startswith("triton")} >= TWINS[name]
    assert not [what for what in ran.values() if "no fused kernel" in what]
    for plain, fused in zip(*results, strict=True):
        torch.testing.assert_close(fused, plain, rtol=1e-4, atol=1e-5)
