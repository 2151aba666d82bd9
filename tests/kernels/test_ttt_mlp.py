"""TTT-MLP: the dual form, the remainder and the step against plain definitions.

Parity of `reference` and `chunked` over lengths, and their gradients, are in tests/conformance.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ttbench.kernels import ttt_mlp
from ttbench.kernels.ttt_mlp import MLPState

BATCH, HEADS, DIM, SIZE = 2, 2, 4, 16

SPLITS = ["ones", "15+1+16+18", "7+40+3", "33+17"]


def inputs(num_tokens: int) -> list[Tensor]:
    """q, k, v, lam, tau, norm_weight, norm_bias."""
    draw = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    q, k, v = (normal(BATCH, num_tokens, HEADS, DIM) for _ in range(3))
    lam = normal(BATCH, num_tokens, HEADS).sigmoid() / DIM
    tau = (1 / torch.arange(1, SIZE + 1, dtype=torch.float64) + 0.05 * normal(SIZE)).clamp_min(0)
    return [q, k, v, lam, tau, 1 + 0.2 * normal(HEADS, DIM), 0.2 * normal(HEADS, DIM)]


def start() -> MLPState:
    draw = torch.Generator().manual_seed(1)
    weights = {
        name: 0.3 * torch.randn(HEADS, *shape, generator=draw, dtype=torch.float64)
        for name, shape in MLPState.weight_shapes(DIM).items()
    }
    return MLPState.initial(**weights, batch_size=BATCH, mini_batch_size=SIZE)


def tensors(state: MLPState) -> dict[str, Tensor]:
    return {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}


def part(args: list[Tensor], first: int, last: int) -> list[Tensor]:
    return [x[:, first:last] for x in args[:4]] + args[4:]


def test_gelu_grad_is_the_derivative_up_to_its_rounded_constants():
    x = torch.linspace(-6, 6, 201, dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad(F.gelu(x, approximate="tanh").sum(), x)
    torch.testing.assert_close(ttt_mlp.gelu_grad(x), expected, rtol=0, atol=2e-8)


def test_reference_is_gradient_descent_on_the_written_loss():
    q, k, v, lam, tau, weight, bias = inputs(SIZE + 2)
    state = start()
    out, final = ttt_mlp.reference(q, k, v, lam, tau, weight, bias, state, offset=0)

    def inner(x: Tensor, W1: Tensor, b1: Tensor, W2: Tensor, b2: Tensor) -> Tensor:
        z = F.gelu(torch.einsum("bhd,bhde->bhe", x, W1) + b1[:, :, 0], approximate="tanh")
        z = torch.einsum("bhe,bhed->bhd", z, W2) + b2[:, :, 0]
        return F.layer_norm(z, (DIM,), eps=1e-6) * weight + bias

    now = [state.W1, state.b1, state.W2, state.b2]
    for first in (0, SIZE):
        base = [x.detach().clone().requires_grad_() for x in now]
        loss = torch.zeros((), dtype=torch.float64)
        for t in range(first, min(first + SIZE, q.shape[1])):
            error = inner(k[:, t], *base) - (v[:, t] - k[:, t])
            loss = loss + (0.5 * lam[:, t, :, None] * error.square()).sum()
            slopes = torch.autograd.grad(loss, base, retain_graph=True)
            now = [x.detach() - tau[t - first] * slope for x, slope in zip(base, slopes, strict=True)]
            # 1e-7: the derivative of gelu has constants of eight digits, as in the authors' code
            torch.testing.assert_close(out[:, t], q[:, t] + inner(q[:, t], *now), rtol=1e-7, atol=1e-7)
        if first == 0:
            for x, expected in zip((final.W1, final.b1, final.W2, final.b2), now, strict=True):
                torch.testing.assert_close(x, expected, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("splits", [(1,) * 50, (15, 1, 16, 18), (7, 40, 3), (33, 17)], ids=SPLITS)
@pytest.mark.parametrize("name", ["reference", "chunked"])
def test_any_split_gives_the_same_outputs_and_state(name, splits):
    op, args = getattr(ttt_mlp, name), inputs(50)
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
    expected, final = ttt_mlp.reference(*args, initial_state=start(), offset=0)
    state = MLPState(**{name: value.clone() for name, value in tensors(start()).items()})
    for t in range(num_tokens):
        place = torch.tensor([t % SIZE])
        out = ttt_mlp.step(*part(args, t, t + 1), state=state, place=place, last=t % SIZE == SIZE - 1)
        torch.testing.assert_close(out, expected[:, t : t + 1], rtol=1e-11, atol=1e-12)
    for name in ("W1", "b1", "W2", "b2"):
        torch.testing.assert_close(tensors(state)[name], tensors(final)[name], rtol=1e-11, atol=1e-12)


def test_step_never_reads_rows_beyond_its_place():
    args = inputs(1)
    state = MLPState(**{name: value.clone() for name, value in tensors(start()).items()})
    clean = ttt_mlp.step(*args, state=state, place=torch.tensor([0]), last=False)
    for rows in (state.K, state.G1, state.X2, state.G2):
        rows[:, :, 1:] = 1e30
    assert torch.equal(ttt_mlp.step(*args, state=state, place=torch.tensor([0]), last=False), clean)


@pytest.mark.parametrize("name", ["reference", "chunked"])
def test_ops_do_not_change_their_arguments(name):
    args, state = inputs(37), start()
    before = [x.clone() for x in (*args, *tensors(state).values())]
    getattr(ttt_mlp, name)(*args, state, offset=5)
    for now, then in zip((*args, *tensors(state).values()), before, strict=True):
        assert torch.equal(now, then)


def test_flops_and_state_size_are_those_of_the_dual_form():
    # by hand, head dim 4 (inner width 16), mini-batch 16: seven products of 4 x 16, and four triangles of 16 x 16
    assert ttt_mlp.flops(4, 16) == 7 * 2 * 4 * 16 + 2 * (4 + 16 + 16 + 4) * 8.5
    shapes = MLPState.shapes(batch_size=1, num_heads=1, dim=4, mini_batch_size=16)
    assert ttt_mlp.state_size(4, 16) == sum(torch.Size(shape).numel() for shape in shapes.values())
