"""Attention to a window: its blocks, its grouped heads, and what it may not see.

Parity of `reference` and `chunked` over lengths, and their gradients, are in tests/conformance.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ttbench.kernels import attention, window_attention
from ttbench.kernels.window_attention import LEAST_QUERIES


def inputs(num_queries: int, num_past: int, *, groups: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(num_queries + num_past)
    sizes = ((4, num_queries), (groups, num_past + num_queries), (groups, num_past + num_queries))
    q, k, v = (torch.randn(2, heads, size, 8, generator=draw, dtype=torch.float64) for heads, size in sizes)
    return q, k, v


@pytest.mark.parametrize("window", [1, 2, LEAST_QUERIES - 1, LEAST_QUERIES, LEAST_QUERIES + 7, 150, 1000])
@pytest.mark.parametrize(("num_queries", "num_past"), [(1, 0), (1, 149), (63, 5), (200, 0), (200, 70)])
def test_blocks_equal_the_reference(num_queries: int, num_past: int, window: int) -> None:
    q, k, v = inputs(num_queries, num_past)
    expected = window_attention.reference(q, k, v, window=window)
    torch.testing.assert_close(window_attention.chunked(q, k, v, window=window), expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("groups", [1, 2], ids=lambda groups: f"G{groups}")
def test_grouped_heads_equal_repeated_heads(groups: int) -> None:
    q, k, v = inputs(100, 30, groups=groups)
    whole = (x.repeat_interleave(4 // groups, 1) for x in (k, v))
    expected = window_attention.reference(q, *whole, window=20)
    torch.testing.assert_close(window_attention.chunked(q, k, v, window=20), expected, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("num_sinks", [1, 3])
@pytest.mark.parametrize("window", [1, 20, LEAST_QUERIES, 1000])
def test_sinks_are_seen_besides_the_window(num_sinks: int, window: int) -> None:
    q, k, v = inputs(150, 10 + num_sinks)
    reference = window_attention.reference(q, k, v, window=window, num_sinks=num_sinks)
    fast = window_attention.chunked(q, k, v, window=window, num_sinks=num_sinks)
    torch.testing.assert_close(fast, reference, rtol=1e-11, atol=1e-12)
    with torch.inference_mode():
        v = v.clone()
        v[:, :, 0] += 1
        changed = window_attention.reference(q, k, v, window=window, num_sinks=num_sinks) != reference
    assert changed.any(-1).any(1).all()


def test_a_window_that_holds_everything_is_attention() -> None:
    q, k, v = inputs(40, 9)
    expected = attention.reference(q, k, v)
    torch.testing.assert_close(window_attention.reference(q, k, v, window=49), expected, rtol=1e-12, atol=1e-13)


def test_keys_before_the_window_and_after_the_query_do_not_count() -> None:
    q, k, v = inputs(130, 10)
    with torch.inference_mode():
        before = window_attention.chunked(q, k, v, window=30)
        v = v.clone()
        v[:, :, 100] += 1
        changed = (window_attention.chunked(q, k, v, window=30) != before).any(-1).any(1).any(0)
    # key 100 is the own key of query 90; the last query that sees it is 29 later
    assert changed.nonzero().flatten().tolist() == list(range(90, 120))
