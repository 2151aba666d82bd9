"""TTT-Linear: the dual form, the remainder, the step and the hand-written derivative against plain definitions.

Parity of `reference` and `chunked` over lengths, and their gradients, are in tests/conformance.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ttbench.kernels import ttt_linear
from ttbench.kernels.ttt_linear import LinearState

BATCH, HEADS, DIM, SIZE = 2, 3, 8, 16

SPLITS = ["ones", "15+1+16+18", "7+40+3", "33+17", "16+32+2"]


def inputs(num_tokens: int, *, seed: int = 0, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """q, k, v, lam, tau, norm_weight, norm_bias."""
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64).to(dtype)

    q, k, v = (normal(BATCH, num_tokens, HEADS, DIM) for _ in range(3))
    lam = normal(BATCH, num_tokens, HEADS).sigmoid() / DIM
    tau = (1 / torch.arange(1, SIZE + 1, dtype=dtype) + 0.05 * normal(SIZE)).clamp_min(0)
    return [q, k, v, lam, tau, 1 + 0.2 * normal(HEADS, DIM), 0.2 * normal(HEADS, DIM)]


def start(*, seed: int = 1, dtype: torch.dtype = torch.float64) -> LinearState:
    draw = torch.Generator().manual_seed(seed)
    W1 = 0.3 * torch.randn(HEADS, DIM, DIM, generator=draw, dtype=torch.float64)
    b1 = 0.3 * torch.randn(HEADS, 1, DIM, generator=draw, dtype=torch.float64)
    return LinearState.initial(W1=W1.to(dtype), b1=b1.to(dtype), batch_size=BATCH, mini_batch_size=SIZE)


def tensors(state: LinearState) -> dict[str, Tensor]:
    return {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}


def part(args: list[Tensor], first: int, last: int) -> list[Tensor]:
    return [x[:, first:last] for x in args[:4]] + args[4:]


def test_closed_form_gradient_equals_autograd_of_the_loss():
    draw = torch.Generator().manual_seed(0)
    z, target, weight, bias = (torch.randn(5, DIM, generator=draw, dtype=torch.float64) for _ in range(4))
    z.requires_grad_()
    loss = 0.5 * (F.layer_norm(z, (DIM,), eps=1e-6) * weight + bias - target).square().sum()
    (expected,) = torch.autograd.grad(loss, z)
    torch.testing.assert_close(ttt_linear.norm_loss_grad(z, target, weight, bias), expected, rtol=1e-12, atol=1e-13)


def test_reference_is_gradient_descent_on_the_written_loss():
    q, k, v, lam, tau, weight, bias = inputs(SIZE + 3)
    state = start()
    out, final = ttt_linear.reference(q, k, v, lam, tau, weight, bias, state, offset=0)
    W, b = state.W1.clone(), state.b1.clone()
    for first in (0, SIZE):
        base_W, base_b = W.clone().requires_grad_(), b.clone().requires_grad_()
        loss = torch.zeros((), dtype=torch.float64)
        for t in range(first, min(first + SIZE, q.shape[1])):
            z = torch.einsum("bhd,bhde->bhe", k[:, t], base_W) + base_b[:, :, 0]
            error = F.layer_norm(z, (DIM,), eps=1e-6) * weight + bias - (v[:, t] - k[:, t])
            loss = loss + (0.5 * lam[:, t, :, None] * error.square()).sum()
            slope_W, slope_b = torch.autograd.grad(loss, (base_W, base_b), retain_graph=True)
            W, b = base_W.detach() - tau[t - first] * slope_W, base_b.detach() - tau[t - first] * slope_b
            z = torch.einsum("bhd,bhde->bhe", q[:, t], W) + b[:, :, 0]
            expected = q[:, t] + F.layer_norm(z, (DIM,), eps=1e-6) * weight + bias
            torch.testing.assert_close(out[:, t], expected, rtol=1e-11, atol=1e-12)
        if first == 0:
            torch.testing.assert_close(final.W1, W, rtol=1e-11, atol=1e-12)
            torch.testing.assert_close(final.b1, b, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("splits", [(1,) * 50, (15, 1, 16, 18), (7, 40, 3), (33, 17), (16, 32, 2)], ids=SPLITS)
@pytest.mark.parametrize("name", ["reference", "chunked"])
def test_any_split_gives_the_same_outputs_and_state(name, splits):
    op, args = getattr(ttt_linear, name), inputs(50)
    whole, final = op(*args, start(), offset=0)
    state, outs, first = start(), [], 0
    for length in splits:
        out, state = op(*part(args, first, first + length), state, offset=first % SIZE)
        outs.append(out)
        first += length
    torch.testing.assert_close(torch.cat(outs, 1), whole, rtol=1e-11, atol=1e-12)
    for key, value in tensors(final).items():
        torch.testing.assert_close(tensors(state)[key], value, rtol=1e-11, atol=1e-12)


def test_pending_pairs_give_the_steps_of_the_gradient_matrices():
    args, num_tokens = inputs(40), 40
    expected, final = ttt_linear.reference(*args, initial_state=start(), offset=0)
    state = LinearState(**{name: value.clone() for name, value in tensors(start()).items()})
    for t in range(num_tokens):
        place = torch.tensor([t % SIZE])
        out = ttt_linear.step(*part(args, t, t + 1), state=state, place=place, last=t % SIZE == SIZE - 1)
        torch.testing.assert_close(out, expected[:, t : t + 1], rtol=1e-11, atol=1e-12)
    for name in ("W1", "b1"):
        torch.testing.assert_close(tensors(state)[name], tensors(final)[name], rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(state.K[:, :, : num_tokens % SIZE], final.K[:, :, : num_tokens % SIZE])


def test_step_never_reads_rows_beyond_its_place():
    args = inputs(1)
    state = LinearState(**{name: value.clone() for name, value in tensors(start()).items()})
    clean = ttt_linear.step(*args, state=state, place=torch.tensor([0]), last=False)
    for rows in (state.K, state.G):
        rows[:, :, 1:] = 1e30
    assert torch.equal(ttt_linear.step(*args, state=state, place=torch.tensor([0]), last=False), clean)


@pytest.mark.parametrize("name", ["reference", "chunked"])
def test_ops_do_not_change_their_arguments(name):
    args, state = inputs(37), start()
    before = [x.clone() for x in (*args, *tensors(state).values())]
    getattr(ttt_linear, name)(*args, state, offset=5)
    for now, then in zip((*args, *tensors(state).values()), before, strict=True):
        assert torch.equal(now, then)


def test_derivative_passes_gradcheck_with_a_past_and_a_remainder():
    args = [x[:1].clone() if x.ndim > 2 else x for x in inputs(6)]
    args = [x[:, :, :1, :4] if x.ndim == 4 else x[:, :, :1] if x.ndim == 3 else x for x in args]
    args[4], args[5], args[6] = args[4][:2], args[5][:1, :4], args[6][:1, :4]
    pending = torch.randn(1, 1, 2, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    state = start()
    leaves = [*args, state.W1[:1, :1, :4, :4].clone(), state.b1[:1, :1, :, :4].clone(), pending, 0.1 * pending.flip(-1)]
    leaves = [x.detach().clone().requires_grad_() for x in leaves]

    def run(*x: Tensor) -> tuple[Tensor, ...]:
        out, final = ttt_linear.chunked(*x[:7], initial_state=LinearState(W1=x[7], b1=x[8], K=x[9], G=x[10]), offset=1)
        return out, final.W1, final.b1, final.K, final.G

    assert torch.autograd.gradcheck(run, leaves)


def test_flops_and_state_size_are_those_of_the_dual_form():
    # by hand, head dim 8 and mini-batch 16: k W1 and q W1, K^T G, and two triangles of 16 x 16
    assert ttt_linear.flops(8, 16) == 2 * 8 * 8 * 3 + 2 * 2 * 8 * 8.5
    shapes = LinearState.shapes(batch_size=1, num_heads=1, dim=8, mini_batch_size=16)
    assert ttt_linear.state_size(8, 16) == sum(torch.Size(shape).numel() for shape in shapes.values())
