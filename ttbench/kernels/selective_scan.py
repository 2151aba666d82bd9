"""The selective scan of Mamba: a diagonal linear recurrence whose rates follow the input.

Per channel e with N numbers of state h, step size dt_t > 0, rates A < 0 and the input's own B_t and C_t:

    h_t = exp(dt_t A) * h_{t-1} + dt_t u_t B_t        y_t = sum_n h_t C_t

`chunked` reads K tokens at once. Within them it makes a recurrence of half the length from neighbouring pairs, scans
that, and fills in the other half: log2(K) levels and about three operations an element. Only products of decays are
taken, which lie in [0, 1], so no size of dt A overflows. The gradient is written by hand: the backward pass keeps the
state at the start of every chunk and computes what is inside it again, so neither pass holds [B, T, E, N].

Source: Gu and Dao 2023, arXiv 2312.00752, section 3 and algorithm 2; the scan by pairs is Blelloch 1990.
Letters: B batch, T tokens, E channels, N state size, K tokens of a chunk. The arguments A, B, C are the paper's.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from ttbench.kernels.dispatch.choice import op

# Tokens read at once. At widths of 256 and 1024, one CPU thread, 8 to 32 take the same time; fewer cost more calls.
CHUNK_LEN = 32


def flops(state_size: int) -> int:
    """FLOP of one token in one channel by the recurrence: dt A, decay, dt u B, the sum, and two for h C."""
    return 6 * state_size


def reference(
    u: Float[Tensor, "B T E"],
    dt: Float[Tensor, "B T E"],
    A: Float[Tensor, "E N"],
    B: Float[Tensor, "B T N"],
    C: Float[Tensor, "B T N"],
    initial_state: Float[Tensor, "B E N"],
) -> tuple[Float[Tensor, "B T E"], Float[Tensor, "B E N"]]:
    """Token by token.

    Args:
        u: inputs.
        dt: step sizes, positive.
        A: rates, negative.
        B, C: what an input adds to the state, and how the state is read.
        initial_state: what the tokens before left; not changed.
    """
    h, outs = initial_state, []
    for t in range(u.shape[1]):
        decay = (dt[:, t, :, None] * A).exp()
        h = decay * h + (dt[:, t] * u[:, t])[..., None] * B[:, t, None]
        outs.append((h * C[:, t, None]).sum(-1))
    return torch.stack(outs, 1), h


@op("selective_scan", "chunked")
def chunked(
    u: Float[Tensor, "B T E"],
    dt: Float[Tensor, "B T E"],
    A: Float[Tensor, "E N"],
    B: Float[Tensor, "B T N"],
    C: Float[Tensor, "B T N"],
    initial_state: Float[Tensor, "B E N"],
) -> tuple[Float[Tensor, "B T E"], Float[Tensor, "B E N"]]:
    """The same numbers as `reference`, CHUNK_LEN tokens at a time; once differentiable.

    Arguments as in `reference`. Outputs alias nothing that is written later.
    """
    # tokens in front, so that pairs of tokens are strided slices of whole rows
    drive = (dt * u).transpose(0, 1).contiguous()
    steps, B, C = (x.transpose(0, 1).contiguous() for x in (dt, B, C))
    y, final_state = _Scan.apply(drive, steps, A, B, C, initial_state)
    return y.transpose(0, 1), final_state


def step(
    u: Float[Tensor, "B E"],
    dt: Float[Tensor, "B E"],
    A: Float[Tensor, "E N"],
    B: Float[Tensor, "B N"],
    C: Float[Tensor, "B N"],
    state: Float[Tensor, "B E N"],
) -> Float[Tensor, "B E"]:
    """One token; `state` is CHANGED IN PLACE."""
    state.mul_((dt[..., None] * A).exp_()).addcmul_((dt * u)[..., None], B[:, None])
    return (state * C[:, None]).sum(-1)


@op("selective_scan_step", "step")
def gated_step(
    u: Float[Tensor, "B E"],
    dt: Float[Tensor, "B E"],
    dt_bias: Float[Tensor, "E"],
    A_log: Float[Tensor, "E N"],
    B: Float[Tensor, "B N"],
    C: Float[Tensor, "B N"],
    D: Float[Tensor, "E"],
    z: Float[Tensor, "B E"],
    state: Float[Tensor, "B E N"],
) -> Float[Tensor, "B E"]:
    """`step` from what a layer projects, with all that is element by element around it; `state` is CHANGED IN PLACE.

        dt = softplus(dt + dt_bias)        y = step(u, dt, -exp(A_log), B, C)        out = (y + D u) silu(z)

    Everything but silu(z) is in the dtype of the state; the result has that of `u`. As mamba_ssm's
    `selective_state_update` does.
    """
    wide = state.dtype
    dt = F.softplus(dt.to(wide) + dt_bias.to(wide))
    y = step(u.to(wide), dt, -A_log.to(wide).exp(), B.to(wide), C.to(wide), state)
    return ((y + D.to(wide) * u.to(wide)) * F.silu(z)).to(u.dtype)


def scan_(decay: Float[Tensor, "K B E N"], x: Float[Tensor, "K B E N"]) -> None:
    """x_t becomes decay_t x_{t-1} + x_t, from the first token on; both arguments are CHANGED, `decay` to no use."""
    num_pairs = x.shape[0] // 2
    if num_pairs == 0:
        return
    second = slice(1, None, 2)
    first = slice(0, 2 * num_pairs, 2)
    x[second].addcmul_(decay[second], x[first])
    decay[second].mul_(decay[first])
    scan_(decay[second], x[second])
    x[2::2].addcmul_(decay[2::2], x[1:-1:2])


def scan_back_(decay: Float[Tensor, "K B E N"], x: Float[Tensor, "K B E N"]) -> None:
    """x_t becomes decay_t x_{t+1} + x_t, from the last token on; both arguments are CHANGED, `decay` to no use."""
    odd = x.shape[0] % 2
    if x.shape[0] < 2:
        return
    first, second = slice(odd, None, 2), slice(odd + 1, None, 2)
    x[first].addcmul_(decay[first], x[second])
    decay[first].mul_(decay[second])
    scan_back_(decay[first], x[first])
    x[odd + 1 : -1 : 2].addcmul_(decay[odd + 1 : -1 : 2], x[odd + 2 :: 2])
    if odd:
        x[0].addcmul_(decay[0], x[1])


class _Scan(torch.autograd.Function):
    """The recurrence on drive = dt u, [T, B, E], with tokens in front everywhere."""

    @staticmethod
    def forward(ctx: Any, drive, dt, A, B, C, h) -> tuple[Tensor, Tensor]:
        num_tokens = drive.shape[0]
        training = any(ctx.needs_input_grad)
        y, starts = torch.empty_like(drive), []
        for begin in range(0, num_tokens, CHUNK_LEN):
            span = slice(begin, begin + CHUNK_LEN)
            if training:
                starts.append(h.clone())
            states = _states((dt[span, ..., None] * A).exp_(), drive[span], B[span], h)
            h = states[-1].clone()
            torch.sum(states.mul_(C[span, :, None]), -1, out=y[span])
        if training:
            ctx.save_for_backward(drive, dt, A, B, C, *starts)
        return y, h.clone() if num_tokens == 0 else h

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, dh: Tensor) -> tuple[Tensor, ...]:
        drive, dt, A, B, C, *starts = ctx.saved_tensors
        ddrive, ddt, dA, dB, dC = (torch.zeros_like(x) for x in (drive, dt, A, B, C))
        for i in reversed(range(len(starts))):
            span = slice(i * CHUNK_LEN, (i + 1) * CHUNK_LEN)
            decay = (dt[span, ..., None] * A).exp_()
            states = _states(decay.clone(), drive[span], B[span], starts[i])
            grads = dy[span, ..., None] * C[span, :, None]
            grads[-1].add_(dh)
            # the last factor leads out of the chunk and is never used
            scan_back_(torch.cat((decay[1:], decay[:1])), grads)
            dh = decay[0] * grads[0]
            dC[span] = (dy[span, :, None] @ states)[:, :, 0]
            dB[span] = (drive[span, :, None] @ grads)[:, :, 0]
            ddrive[span] = (grads * B[span, :, None]).sum(-1)
            # of dt A: the gradient times what the decay let through
            slope = grads.mul_(decay)
            slope[1:].mul_(states[:-1])
            slope[0].mul_(starts[i])
            ddt[span] = (slope * A).sum(-1)
            dA += slope.mul_(dt[span, ..., None]).sum((0, 1))
        return ddrive, ddt, dA, dB, dC, dh


def _states(decay: Tensor, drive: Tensor, B: Tensor, start: Tensor) -> Float[Tensor, "K B E N"]:
    """States after each token of a chunk; `decay` is used up."""
    states = drive[..., None] * B[:, :, None]
    states[0].addcmul_(decay[0], start)
    scan_(decay, states)
    return states
