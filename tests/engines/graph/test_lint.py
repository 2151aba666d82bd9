"""Every architecture's steps, and the chunks that it lets be replayed, under the lint; and what the lint looks for."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ttbench.engines.graph import lint
from ttbench.engines.graph.lint import lint_forward, lint_source, lint_step
from ttbench.kernels import favor
from ttbench.kernels.dispatch.catalogue import absent
from ttbench.kernels.dispatch.running import Way, using
from ttbench.registry import ARCHITECTURES

# Of two whole mini-batches of the tiny models; and a length that is none.
WHOLE, OTHER = 32, 45
FREE = ("mamba", "mamba2", "reformer", "s4d")
IN_MINI_BATCHES = ("titans-lmm", "titans-mac", "titans-mag", "titans-mal", "ttt-linear", "ttt-mlp")


@pytest.fixture(params=sorted(ARCHITECTURES))
def name(request: pytest.FixtureRequest) -> str:
    return request.param


WAYS: list[Any] = [
    "torch",
    # on a GPU the fused twins run; on the meta device their fake forms stand for them
    pytest.param("fused", marks=pytest.mark.skipif(absent() is not None, reason=str(absent()))),
]


@pytest.mark.parametrize("way", WAYS)
def test_every_step_can_be_captured(name: str, way: Way) -> None:
    with using(way):
        assert lint_step(ARCHITECTURES.load(name).tiny()) == []


@pytest.mark.parametrize("way", WAYS)
def test_every_chunk_that_may_be_replayed_can_be_captured(name: str, way: Way) -> None:
    model = ARCHITECTURES.load(name).tiny()
    with using(way):
        assert lint_forward(model, WHOLE) == ([] if name in FREE + IN_MINI_BATCHES else None)
        assert lint_forward(model, OTHER) == ([] if name in FREE else None)


def test_windows_alone_may_be_replayed_once_they_are_full() -> None:
    tiny = {"layer_types": ("sliding_attention", "mamba"), "sliding_window": 17}
    model = ARCHITECTURES.load("hybrid").tiny(**tiny)
    assert [model.forward_variant(n, OTHER) for n in (0, 15, 16, 500)] == [None, None, 0, 0]
    assert lint_forward(model, OTHER) == []


def test_a_variant_is_the_offset_in_the_mini_batch() -> None:
    ttt, titans = (ARCHITECTURES.load(name).tiny() for name in ("ttt-linear", "titans-lmm"))
    # mini-batches of 16; Titans has read 3 persistent vectors before the first token
    assert [ttt.forward_variant(n, 32) for n in (0, 5, 16, 37)] == [0, 5, 0, 5]
    assert [titans.forward_variant(n, 32) for n in (0, 5, 13, 37)] == [3, 8, 0, 8]


def test_what_performer_does_with_its_chunks_is_why_they_are_not_replayed() -> None:
    found: list[str] = []
    model = ARCHITECTURES.load("performer").tiny()
    model.forward_variant = lambda num_tokens, chunk_len: 0  # type: ignore[method-assign]
    found = lint_forward(model, WHOLE) or []
    assert any("favor.py" in finding and "aten::nonzero" in finding for finding in found), found


def by_device(x: Tensor) -> Tensor:
    return x * torch.as_tensor([2.0], device=x.device) + x.new_tensor([1.0])


def by_mask(x: Tensor) -> Tensor:
    x[x > 0] = 0.0
    x[~(x > 0) & (x < 1)] -= 1.0
    return x


def innocent(x: Tensor) -> Tensor:
    x[0] = 0.0
    x[:, 1:] = torch.zeros(1, device=x.device)
    return torch.where(x > 0, x, torch.arange(3, device=x.device))


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (by_device, ["torch.as_tensor on a device", "x.new_tensor on a device"]),
        (by_mask, ["x[x > 0] is written under a mask", "x[~(x > 0) & (x < 1)] is written under a mask"]),
        (innocent, []),
        (favor.num_rows, []),
    ],
)
def test_the_source_of_a_function_is_read(function: Callable[..., object], words: list[str]) -> None:
    found = lint_source(function.__code__)
    assert len(found) == len(words)
    assert all(any(word in finding for finding in found) for word in words)


def test_no_kernel_and_no_model_makes_a_tensor_on_a_device_out_of_numbers() -> None:
    """Also where no step came by in a test."""
    root, found = Path(lint.__file__).parents[2], []
    for path in (*sorted((root / "kernels").glob("*.py")), *sorted((root / "models").rglob("*.py"))):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        found += [f"{path.name}: {what}" for node in ast.walk(tree) for what in lint.from_host(node)]
    assert found == []
