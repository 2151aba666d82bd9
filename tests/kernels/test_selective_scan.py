"""The selective scan: chunks, splits, steps, memory, and sizes at which a careless scan overflows.

Parity of `reference` and `chunked` over lengths, and their gradients, are in tests/conformance.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ttbench.kernels import selective_scan

BATCH, CHANNELS, SIZE = 2, 6, 4
SPLITS = {"ones": (1,) * 70, "31+1+32+6": (31, 1, 32, 6), "7+60+3": (7, 60, 3), "33+37": (33, 37)}


def inputs(num_tokens: int, *, dt_scale: float = 1.0, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """u, dt, A, B, C and a state."""
    draw = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    u, dt = normal(BATCH, num_tokens, CHANNELS), dt_scale * normal(BATCH, num_tokens, CHANNELS).exp()
    A, B, C = -normal(CHANNELS, SIZE).exp(), normal(BATCH, num_tokens, SIZE), normal(BATCH, num_tokens, SIZE)
    return [x.to(dtype) for x in (u, dt, A, B, C, normal(BATCH, CHANNELS, SIZE))]


def part(args: list[Tensor], first: int, last: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    u, dt, A, B, C, _ = args
    return u[:, first:last], dt[:, first:last], A, B[:, first:last], C[:, first:last]


@pytest.mark.parametrize("splits", SPLITS.values(), ids=SPLITS)
def test_any_split_gives_the_same_outputs_and_state(splits):
    args = inputs(70)
    whole, final = selective_scan.chunked(*args)
    state, outs, first = args[5], [], 0
    for length in splits:
        out, state = selective_scan.chunked(*part(args, first, first + length), state)
        outs.append(out)
        first += length
    torch.testing.assert_close(torch.cat(outs, 1), whole, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(state, final, rtol=1e-11, atol=1e-12)


def test_steps_equal_the_reference():
    args = inputs(40)
    expected, final = selective_scan.reference(*args)
    state = args[5].clone()
    for t in range(40):
        u, dt, A, B, C = part(args, t, t + 1)
        out = selective_scan.step(u[:, 0], dt[:, 0], A, B[:, 0], C[:, 0], state)
        torch.testing.assert_close(out, expected[:, t], rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(state, final, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("dt_scale", [1e-6, 1.0, 1e3, 1e6])
def test_no_step_size_overflows_in_float32(dt_scale):
    args = inputs(100, dt_scale=dt_scale, dtype=torch.float32)
    leaves = [x.requires_grad_() for x in args]
    outs = selective_scan.chunked(*leaves)
    grads = torch.autograd.grad(outs[0].sum() + outs[1].sum(), leaves)
    assert all(torch.isfinite(x).all() for x in (*outs, *grads))
    exact = selective_scan.reference(*(x.detach().double() for x in args))
    for out, truth in zip(outs, exact, strict=True):
        assert (out - truth).abs().max() < 1e-5 * truth.abs().max()


class LargestTensor(TorchDispatchMode):
    """Elements of the largest tensor that any operation inside makes."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, Tensor):
                self.numel = max(self.numel, tensor.untyped_storage().nbytes() // tensor.element_size())
        return out


def test_no_tensor_of_every_token_and_state_is_made_forwards_or_backwards():
    num_tokens = 20 * selective_scan.CHUNK_LEN
    leaves = [x.requires_grad_() for x in inputs(num_tokens)]
    with LargestTensor() as seen:
        out, final = selective_scan.chunked(*leaves)
        torch.autograd.grad(out.sum() + final.sum(), leaves)
    assert seen.numel >= BATCH * num_tokens * CHANNELS
    assert seen.numel < BATCH * num_tokens * CHANNELS * SIZE
    with torch.inference_mode(), LargestTensor() as seen:
        selective_scan.chunked(*leaves)
    assert seen.numel <= BATCH * CHANNELS * max(num_tokens, selective_scan.CHUNK_LEN * SIZE)


def test_arguments_are_not_changed():
    args = inputs(37)
    before = [x.clone() for x in args]
    out, final = selective_scan.chunked(*args)
    out.zero_()
    final.zero_()
    assert all(torch.equal(now, then) for now, then in zip(args, before, strict=True))


@pytest.mark.parametrize("num_tokens", [1, 2, 5, 8])
def test_scans_by_pairs_equal_the_recurrence_in_both_directions(num_tokens):
    draw = torch.Generator().manual_seed(0)
    decay, x = (torch.rand(num_tokens, 2, 3, 4, generator=draw, dtype=torch.float64) for _ in range(2))
    ahead, back = x.clone(), x.clone()
    selective_scan.scan_(decay.clone(), ahead)
    selective_scan.scan_back_(decay.clone(), back)
    for t in range(1, num_tokens):
        torch.testing.assert_close(ahead[t], decay[t] * ahead[t - 1] + x[t])
        torch.testing.assert_close(back[t - 1], decay[t - 1] * back[t] + x[t - 1])
    assert torch.equal(ahead[0], x[0])
    assert torch.equal(back[-1], x[-1])


def test_derivative_passes_gradcheck_over_two_chunks(monkeypatch):
    monkeypatch.setattr(selective_scan, "CHUNK_LEN", 4)
    leaves = [x[..., :3].contiguous().requires_grad_() for x in inputs(7)]
    leaves[2], leaves[5] = (x[..., :3, :].detach().requires_grad_() for x in (leaves[2], leaves[5]))
    assert torch.autograd.gradcheck(selective_scan.chunked, leaves)


def test_a_token_costs_six_operations_in_each_number_of_the_state() -> None:
    # dt A, its exponential times h, dt u times B, their sum, h C, and its sum: each for 16 numbers
    assert selective_scan.flops(16) == 96
