"""S4D's two modes against each other, against an FFT, and against the differential equation they discretise.

Parity of `reference` and `chunked` over lengths, and their gradients, are in tests/conformance.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ttbench.kernels import s4d

BATCH, CHANNELS, STATES = 2, 5, 3


def inputs(num_tokens: int, *, seed: int = 0, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """u, dt, A, C, D and a state; dt and A stay float64."""
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    u, dt = normal(BATCH, num_tokens, CHANNELS), (normal(CHANNELS) - 3).exp()
    A = torch.stack((-normal(CHANNELS, STATES).exp(), 30 * normal(CHANNELS, STATES)), -1)
    C, D, past = normal(CHANNELS, STATES, 2), normal(CHANNELS), normal(BATCH, CHANNELS, STATES, 2)
    return [u.to(dtype), dt, A, C.to(dtype), D.to(dtype), past.to(dtype)]


def close(actual: Tensor, expected: Tensor, *, relative: float = 1e-12) -> None:
    assert actual.shape == expected.shape
    assert (actual - expected).abs().max() <= relative * expected.abs().max()


@pytest.mark.parametrize("num_tokens", [1, 15, 63, 64, 65, 100, 129, 200])
def test_convolution_equals_recurrence_with_a_carried_state(num_tokens):
    args = inputs(num_tokens)
    for actual, expected in zip(s4d.chunked(*args), s4d.reference(*args), strict=True):
        close(actual, expected)


@pytest.mark.parametrize("split", [(1, 199), (15, 1, 16, 168), (63, 137), (65, 64, 71), (1,) * 200], ids=str)
@pytest.mark.parametrize("op", [s4d.reference, s4d.chunked], ids=["reference", "chunked"])
def test_any_split_gives_the_same_numbers(op, split):
    u, *spaces, state = inputs(200)
    whole, last = op(u, *spaces, state)
    outs = []
    for part in u.split(list(split), dim=1):
        out, state = op(part, *spaces, state)
        outs.append(out)
    close(torch.cat(outs, 1), whole)
    close(state, last)


@pytest.mark.parametrize("num_tokens", [1, 3, 63, 65, 67])
def test_one_channel_with_an_odd_rest(num_tokens):
    """Slices of one channel begin at odd places in memory, where torch has no complex view."""
    u, dt, A, C, D, past = inputs(num_tokens)
    one = [u[..., :1], dt[:1], A[:1], C[:1], D[:1], past[:, :1]]
    for actual, expected in zip(s4d.chunked(*one), s4d.reference(*one), strict=True):
        close(actual, expected)
    whole = s4d.chunked(u, dt, A, C, D, past)
    close(s4d.chunked(*one)[0], whole[0][..., :1])


def test_from_an_empty_state_it_is_the_convolution_by_fft_of_the_paper():
    num_tokens = 150
    u, dt, A, C, D, past = inputs(num_tokens)
    out, _ = s4d.chunked(u, dt, A, C, D, torch.zeros_like(past))
    A, C = torch.view_as_complex(A), torch.view_as_complex(C)
    dtA = dt[:, None] * A
    vandermonde = (dtA[..., None] * torch.arange(num_tokens)).exp()
    kernel = 2 * torch.einsum("hn,hnl->hl", C * (dtA.exp() - 1) / A, vandermonde).real
    spectrum = torch.fft.rfft(kernel, 2 * num_tokens) * torch.fft.rfft(u.mT, 2 * num_tokens)
    close(out, torch.fft.irfft(spectrum, 2 * num_tokens)[..., :num_tokens].mT + D * u, relative=1e-10)


def test_a_step_is_the_exact_solution_of_the_differential_equation_for_a_constant_input():
    u, dt, A, C, D, past = inputs(1)
    _, last = s4d.reference(u, dt, A, C, D, past)
    # x' = A x + u over a time dt, in many small Euler steps
    x, num_steps = torch.view_as_complex(past), 200_000
    eigenvalues, drive = torch.view_as_complex(A), u[:, 0, :, None]
    grow = 1 + dt[:, None] / num_steps * eigenvalues
    total = grow**num_steps
    euler = total * x + dt[:, None] / num_steps * drive * (total - 1) / (grow - 1)
    close(last, torch.view_as_real(euler), relative=1e-3)


def test_a_state_survives_two_million_tokens_of_a_slow_mode():
    # |Abar| = exp(-1e-6): without float64 angles and powers the phase after a whole document would be noise
    u = torch.zeros(1, 64, 1)
    dt, A = torch.ones(1, dtype=torch.float64), torch.tensor([[[-1e-6, 0.7]]], dtype=torch.float64)
    C, D, x = torch.tensor([[[1.0, 0.0]]]), torch.zeros(1), torch.tensor([[[[1.0, 0.0]]]])
    out, last = s4d.chunked(u, dt, A, C, D, x)
    angle = 0.7 * 64
    expected = math.exp(-64e-6) * torch.tensor([math.cos(angle), math.sin(angle)])
    assert (last.flatten() - expected).abs().max() < 2e-7
    assert (out[0, -1, 0] - 2 * expected[0]).abs() < 4e-7


def test_in_float32_with_bfloat16_inputs_the_state_stays_float32():
    u, *rest = inputs(70, dtype=torch.float32)
    out, last = s4d.chunked(u.bfloat16(), *rest)
    assert (out.dtype, last.dtype) == (torch.bfloat16, torch.float32)
    expected, _ = s4d.reference(u.bfloat16().float(), *rest)
    close(out.float(), expected, relative=2**-8)


def test_neither_mode_changes_its_inputs():
    args = inputs(70)
    kept = [x.clone() for x in args]
    for op in (s4d.reference, s4d.chunked):
        op(*args)
    assert all(torch.equal(now, then) for now, then in zip(args, kept, strict=True))


def test_work_of_a_token_is_that_counted_by_hand():
    # Chunks of 64: 32.5 products with the inputs up to its own, and 3 complex states written and read.
    assert s4d.flops(3) == 2 * 32.5 + 2 * 6 + 2 * 6
