"""Kernels that a step starts: what counts as one, the bounds, and the page that is made from the counts."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch

from ttbench.engines import launches
from ttbench.kernels.dispatch.catalogue import absent
from ttbench.kernels.dispatch.running import using
from ttbench.models.transformer import Attention
from ttbench.registry import ARCHITECTURES

if absent() is not None:
    pytest.skip(f"{absent()}", allow_module_level=True)

ROOT = Path(__file__).parents[2]
# Kernels of a layer and token that an architecture may start.
MOST = {
    **dict.fromkeys(("ttt-linear", "ttt-mlp", "titans-lmm", "titans-mac", "titans-mag", "titans-mal"), 20),
    **{"transformer": 14, "mamba": 10, "mamba2": 10},
}


def counted(call: Any) -> dict[str, int]:
    with torch.inference_mode(), launches._Counter() as counter:
        call()
    return counter.counts


def test_an_operation_is_a_kernel_and_a_view_or_an_allocation_is_none() -> None:
    x = torch.zeros(4, 6, device="meta")
    assert counted(lambda: x + 1) == {"aten::add.Tensor": 1}
    assert counted(lambda: x.add_(1)) == {"aten::add_.Tensor": 1}
    assert counted(lambda: x[1:, None].transpose(0, 1).unflatten(-1, (2, 3)).expand(1, 3, 2, 3)) == {}
    assert counted(lambda: torch.empty_like(x)) == {}
    # a copy is one, however it comes about
    assert counted(lambda: x.mT.contiguous()) == {"aten::clone": 1}
    assert counted(lambda: x.mT.reshape(24)) == {"aten::clone": 1}
    assert counted(lambda: x.to(torch.bfloat16)) == {"aten::_to_copy": 1}
    assert counted(lambda: x.zero_()) == {"aten::zero_": 1}


def test_a_twin_counts_as_the_kernels_that_it_starts() -> None:
    from ttbench.kernels.cached_attention import cached_attention_step
    from ttbench.kernels.swiglu import swiglu

    def zeros(*shape: int) -> torch.Tensor:
        return torch.zeros(shape, device="meta", dtype=torch.bfloat16)

    position = torch.zeros(1, dtype=torch.int64, device="meta")
    with using("fused"):
        assert counted(lambda: swiglu(zeros(2, 8), zeros(2, 8)))["ttbench::swiglu"] == 1
        found = counted(
            lambda: cached_attention_step(
                zeros(2, 4, 1, 8), zeros(2, 2, 9, 8), zeros(2, 2, 9, 8), position=position, seen_len=9, backend="sdpa"
            )
        )
    # keys are read in shares, and the shares are merged
    assert found["ttbench::cached_attention_step"] == 2


@pytest.mark.parametrize("name", MOST)
def test_a_layer_starts_no_more_kernels_than_it_may(name: str) -> None:
    (found,) = launches.table([name])
    assert found.per_layer <= MOST[name]


def test_one_more_operation_in_a_layer_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    (before,) = launches.table(["transformer"])
    merge = Attention.merge
    monkeypatch.setattr(Attention, "merge", lambda self, out: merge(self, out * 1.0))
    (after,) = launches.table(["transformer"])
    assert after.per_layer == before.per_layer + 1
    assert after.beside == before.beside


def test_layers_of_several_kinds_are_counted_apart() -> None:
    (found,) = launches.table(["hybrid"])
    assert set(found.layers) == {"JambaMixer", "FullAttention", "SlidingAttention"}
    (transformer,) = launches.table(["transformer"])
    # the same attention without the short convolutions of the tiny transformer, which are one kernel
    assert found.layers["FullAttention"] == transformer.per_layer - 1


def test_the_page_is_made_from_the_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    page = (ROOT / "docs" / "launches.md").read_text(encoding="utf-8")
    assert importlib.import_module("launches").page() == page, "make launches"
    assert {name for name in ARCHITECTURES if f"| {name} |" in page} >= set(MOST)
