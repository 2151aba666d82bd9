"""State space duality: splits, steps, groups, and sizes at which a careless chunk overflows or cancels.

Parity of `reference` and `chunked` over lengths, and their gradients, are in tests/conformance.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ttbench.kernels import selective_scan, ssd

BATCH, HEADS, DIM, GROUPS, SIZE = 2, 4, 3, 2, 5
SPLITS = {"ones": (1,) * 140, "63+1+64+12": (63, 1, 64, 12), "7+130+3": (7, 130, 3), "65+75": (65, 75)}


def inputs(num_tokens: int, *, dt_scale: float = 1.0, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """x, dt, A, B, C and a state."""
    draw = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    x, dt = normal(BATCH, num_tokens, HEADS, DIM), dt_scale * normal(BATCH, num_tokens, HEADS).exp()
    B, C = (normal(BATCH, num_tokens, GROUPS, SIZE) for _ in range(2))
    return [x.to(dtype) for x in (x, dt, -normal(HEADS).exp(), B, C, normal(BATCH, HEADS, DIM, SIZE))]


def part(args: list[Tensor], first: int, last: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    x, dt, A, B, C, _ = args
    return x[:, first:last], dt[:, first:last], A, B[:, first:last], C[:, first:last]


@pytest.mark.parametrize("splits", SPLITS.values(), ids=SPLITS)
def test_any_split_gives_the_same_outputs_and_state(splits):
    args = inputs(140)
    whole, final = ssd.chunked(*args)
    state, outs, first = args[5], [], 0
    for length in splits:
        out, state = ssd.chunked(*part(args, first, first + length), state)
        outs.append(out)
        first += length
    torch.testing.assert_close(torch.cat(outs, 1), whole, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(state, final, rtol=1e-11, atol=1e-12)


def test_steps_equal_the_reference():
    args = inputs(40)
    expected, final = ssd.reference(*args)
    state = args[5].clone()
    for t in range(40):
        x, dt, A, B, C = part(args, t, t + 1)
        out = ssd.step(x[:, 0], dt[:, 0], A, B[:, 0], C[:, 0], state)
        torch.testing.assert_close(out, expected[:, t], rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(state, final, rtol=1e-11, atol=1e-12)


def test_it_is_the_selective_scan_with_one_rate_and_one_step_size_for_all_of_a_head():
    x, dt, A, B, C, h = inputs(100)
    expected, final = ssd.chunked(x, dt, A, B, C, h)
    for head in range(HEADS):
        group = head * GROUPS // HEADS
        y, last = selective_scan.chunked(
            x[:, :, head],
            dt[:, :, head, None].expand(-1, -1, DIM),
            A[head].expand(DIM, SIZE),
            B[:, :, group],
            C[:, :, group],
            h[:, head],
        )
        torch.testing.assert_close(y, expected[:, :, head], rtol=1e-10, atol=1e-11)
        torch.testing.assert_close(last, final[:, head], rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("dt_scale", [1e-6, 1.0, 1e3, 1e6])
def test_no_step_size_overflows_in_float32(dt_scale):
    args = inputs(140, dt_scale=dt_scale, dtype=torch.float32)
    leaves = [x.requires_grad_() for x in args]
    outs = ssd.chunked(*leaves)
    grads = torch.autograd.grad(outs[0].sum() + outs[1].sum(), leaves)
    assert all(torch.isfinite(x).all() for x in (*outs, *grads))
    exact = ssd.reference(*(x.detach().double() for x in args))
    for out, truth in zip(outs, exact, strict=True):
        assert (out - truth).abs().max() < 1e-5 * truth.abs().max()


def test_small_steps_after_a_huge_one_keep_their_digits_in_float32():
    args = inputs(60, dt_scale=0.01, dtype=torch.float32)
    args[1][:, 0] = 1e6
    exact, _ = ssd.reference(*(x.double() for x in args))
    out, _ = ssd.chunked(*args)
    assert (out - exact)[:, 30:].abs().max() < 1e-5 * exact[:, 30:].abs().max()


def test_arguments_are_not_changed():
    args = inputs(70)
    before = [x.clone() for x in args]
    out, final = ssd.chunked(*args)
    out.zero_()
    final.zero_()
    assert all(torch.equal(now, then) for now, then in zip(args, before, strict=True))


def test_a_token_costs_five_operations_in_each_number_of_the_state():
    # decay it, a product and a sum for x B, a product and a sum for h C
    assert ssd.flops(3, 7) == 105
