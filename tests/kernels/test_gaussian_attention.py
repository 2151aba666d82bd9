"""Gaussian-kernel attention: its normalisations, its blocks, one step, and its bounds.

Parity of `reference` and `chunked` over lengths, without normalisation, and their gradients are in tests/conformance.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ttbench.kernels import attention, gaussian_attention
from ttbench.kernels.gaussian_attention import NORMALISATIONS


def inputs(num_queries: int, num_past: int, *, scale: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(num_queries + num_past)
    sizes = (num_queries, num_past + num_queries, num_past + num_queries)
    q, k, v = (scale * torch.randn(2, 3, size, 8, generator=draw, dtype=torch.float64) for size in sizes)
    return q, k, v


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
@pytest.mark.parametrize(("num_queries", "num_past"), [(1, 0), (1, 40), (15, 1), (63, 37), (100, 0)])
def test_blocks_equal_the_reference_in_value_and_gradient(
    num_queries: int, num_past: int, normalisation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gaussian_attention, "BLOCK_QUERIES", 16)
    monkeypatch.setattr(gaussian_attention, "BLOCK_KEYS", 24)
    results = []
    for op in (gaussian_attention.reference, gaussian_attention.chunked):
        leaves = [leaf.requires_grad_() for leaf in inputs(num_queries, num_past)]
        out = op(*leaves, normalisation=normalisation)
        results.append((out, *torch.autograd.grad(out.sin().sum(), leaves)))
    for expected, actual in zip(*results, strict=True):
        close(actual, expected)
    with torch.inference_mode():
        close(gaussian_attention.chunked(*inputs(num_queries, num_past), normalisation=normalisation), results[0][0])


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
@pytest.mark.parametrize("num_past", [0, 1, 62])
def test_a_step_over_a_larger_buffer_equals_the_reference(num_past: int, normalisation: str) -> None:
    q, k, v = inputs(1, num_past)
    expected = gaussian_attention.reference(q, k, v, normalisation=normalisation)
    beyond = 7.0 * torch.ones(2, 3, 20, 8, dtype=torch.float64)
    seen = (torch.arange(num_past + 21) <= num_past)[None, None, None]
    k, v = (torch.cat((x, beyond), 2) for x in (k, v))
    close(gaussian_attention.step(q, k, v, seen, normalisation=normalisation), expected)


def test_mean_is_none_over_the_number_of_keys_seen() -> None:
    none, mean = (gaussian_attention.chunked(*inputs(50, 9), normalisation=name) for name in ("none", "mean"))
    close(mean * torch.arange(10, 60)[:, None], none)


def test_rows_of_keys_of_one_length_is_softmax_attention() -> None:
    q, k, v = inputs(50, 9)
    k = torch.nn.functional.normalize(k, dim=-1)
    close(gaussian_attention.chunked(q, k, v, normalisation="rows"), attention.reference(q, k, v))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_query_far_from_every_key_reads_nothing_and_by_rows_the_nearest(dtype: torch.dtype) -> None:
    q, k, v = (x.to(dtype) for x in inputs(40, 0))
    far = q + 100
    for name in ("none", "mean"):
        assert not gaussian_attention.chunked(far, k, v, normalisation=name).any()
    out = gaussian_attention.chunked(far, k, v, normalisation="rows")
    expected = gaussian_attention.reference(far.double(), k.double(), v.double(), normalisation="rows").to(dtype)
    assert expected.abs().mean() > 0.5
    torch.testing.assert_close(out, expected, rtol=1e-2 if dtype == torch.bfloat16 else 1e-4, atol=1e-4)


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_no_output_exceeds_its_bound_where_all_keys_are_near(normalisation: str) -> None:
    q, k, v = (x.float() for x in inputs(3000, 0, scale=1e-3))
    with torch.inference_mode():
        out = gaussian_attention.chunked(q, k, 1 + v, normalisation=normalisation)
    largest = out.abs().amax((0, 1, 3)) / (1 + v).abs().max()
    seen = torch.arange(1, 3001)
    bound = seen if normalisation == "none" else torch.ones(3000)
    assert (largest <= bound * (1 + 1e-5)).all()
    assert (largest >= 0.9 * bound).all()


def test_memory_does_not_grow_with_queries_times_keys() -> None:
    q, k, v = (torch.zeros(1, 1, 8_000, 2) for _ in range(3))
    sizes: list[int] = []

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            out = func(*args, **(kwargs or {}))
            sizes.extend(x.numel() for x in (out if isinstance(out, tuple) else (out,)) if isinstance(x, Tensor))
            return out

    for normalisation in NORMALISATIONS:
        with torch.inference_mode(), Sizes():
            gaussian_attention.chunked(q, k, v, normalisation=normalisation)
    assert max(sizes) <= gaussian_attention.BLOCK_QUERIES * gaussian_attention.BLOCK_KEYS < 8_000**2 / 100
