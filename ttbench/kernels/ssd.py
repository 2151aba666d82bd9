"""State space duality, the scan of Mamba-2: one decay per head, so a chunk of tokens is a masked matrix product.

Per head with width P, N numbers of state for each of them, step size dt_t > 0 and a rate A < 0:

    h_t = exp(dt_t A) h_{t-1} + dt_t x_t B_t^T        y_t = h_t C_t

Over a chunk, with s_t the sum of dt A up to t:

    y_t = exp(s_t) h_0 C_t + sum_{r <= t} exp(s_t - s_r) (C_t . B_r) dt_r x_r

B and C are shared by the heads of a group. Every exponent is at most zero. The sums are kept in float64: a difference
of two large float32 sums would lose the digits of small steps that follow a large one.

Source: Dao and Gu 2024, arXiv 2405.21060, section 6 and listing 1.
Letters: B batch, T tokens, H heads, P head dim, G groups, N state size, K tokens of a chunk. The arguments A, B, C are
the paper's.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ttbench.kernels.dispatch.choice import op

CHUNK_LEN = 64  # tokens; the triangle of scores costs as much as reading and writing a state of 64


def flops(head_dim: int, state_size: int) -> int:
    """FLOP of one token in one head by the recurrence: decay, add x B, and two for h C, for each number of state."""
    return 5 * head_dim * state_size


def reference(
    x: Float[Tensor, "B T H P"],
    dt: Float[Tensor, "B T H"],
    A: Float[Tensor, "H"],
    B: Float[Tensor, "B T G N"],
    C: Float[Tensor, "B T G N"],
    initial_state: Float[Tensor, "B H P N"],
) -> tuple[Float[Tensor, "B T H P"], Float[Tensor, "B H P N"]]:
    """Token by token.

    Args:
        x: inputs; G divides H, and each H / G heads in a row are a group.
        dt: step sizes, positive.
        A: rates, negative.
        B, C: what an input adds to the state, and how the state is read.
        initial_state: what the tokens before left; not changed.
    """
    heads_each = x.shape[2] // B.shape[2]
    h, outs = initial_state, []
    for t in range(x.shape[1]):
        B_t, C_t = (y[:, t].repeat_interleave(heads_each, 1) for y in (B, C))  # [B, H, N]
        decay = (dt[:, t] * A).exp()[..., None, None]
        h = decay * h + (dt[:, t, :, None] * x[:, t])[..., None] * B_t[:, :, None]
        outs.append((h * C_t[:, :, None]).sum(-1))
    return torch.stack(outs, 1), h


@op("ssd", "chunked")
def chunked(
    x: Float[Tensor, "B T H P"],
    dt: Float[Tensor, "B T H"],
    A: Float[Tensor, "H"],
    B: Float[Tensor, "B T G N"],
    C: Float[Tensor, "B T G N"],
    initial_state: Float[Tensor, "B H P N"],
    *,
    operands: torch.dtype | None = None,
) -> tuple[Float[Tensor, "B T H P"], Float[Tensor, "B H P N"]]:
    """The same numbers as `reference`, CHUNK_LEN tokens at a time, by matrix products.

    Arguments as in `reference`, and `operands`: dtype of the model, which is what a fused kernel multiplies in; here
    the inputs' own dtype does. Outputs alias nothing that is written later.
    """
    num_groups = B.shape[2]
    rates = (dt * A).movedim(1, 2).unflatten(1, (num_groups, -1))  # [B, G, H/G, T]
    X = (dt[..., None] * x).movedim(1, 2).unflatten(1, (num_groups, -1))  # [B, G, H/G, T, P]
    B, C = B.movedim(1, 2), C.movedim(1, 2)  # [B, G, T, N]
    h, outs = initial_state.unflatten(1, (num_groups, -1)), []
    # split, not sliced: the gradient of a slice for each chunk would be as long as the text
    chunks = (part.split(CHUNK_LEN, dim) for part, dim in ((X, 3), (rates, 3), (B, 2), (C, 2)))
    for inputs, decays, write, read in zip(*chunks, strict=True):
        out, h = _chunk(inputs, decays, write, read, h)
        outs.append(out)
    y = outs[0] if len(outs) == 1 else torch.cat(outs, 3)
    return y.flatten(1, 2).movedim(2, 1), h.flatten(1, 2)


def step(
    x: Float[Tensor, "B H P"],
    dt: Float[Tensor, "B H"],
    A: Float[Tensor, "H"],
    B: Float[Tensor, "B G N"],
    C: Float[Tensor, "B G N"],
    state: Float[Tensor, "B H P N"],
) -> Float[Tensor, "B H P"]:
    """One token; `state` is CHANGED IN PLACE."""
    heads_each = x.shape[1] // B.shape[1]
    B, C = (y.repeat_interleave(heads_each, 1, output_size=x.shape[1]) for y in (B, C))
    state.mul_((dt * A).exp()[..., None, None]).addcmul_((dt[..., None] * x)[..., None], B[:, :, None])
    return (state @ C[..., None])[..., 0]


@op("ssd_step", "step")
def gated_step(
    x: Float[Tensor, "B H P"],
    dt: Float[Tensor, "B H"],
    dt_bias: Float[Tensor, "H"],
    A_log: Float[Tensor, "H"],
    B: Float[Tensor, "B G N"],
    C: Float[Tensor, "B G N"],
    D: Float[Tensor, "H"],
    state: Float[Tensor, "B H P N"],
    *,
    dt_limit: tuple[float, float],
) -> Float[Tensor, "B H P"]:
    """`step` from what a layer projects, in the dtype of `state`, which is CHANGED IN PLACE.

    dt = clamp(softplus(dt + dt_bias), limit)        out = step(x, dt, -exp(A_log), B, C) + D x
    """
    wide = state.dtype
    x, B, C = x.to(wide), B.to(wide), C.to(wide)
    dt = F.softplus(dt.to(wide) + dt_bias.to(wide)).clamp(*dt_limit)
    y = step(x, dt, -A_log.to(wide).exp(), B, C, state)
    return y + D.to(wide)[:, None] * x


def _chunk(X: Tensor, rates: Tensor, B: Tensor, C: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    """One chunk: X [B, G, R, K, P], rates [B, G, R, K], B and C [B, G, K, N], h [B, G, R, P, N], R heads a group."""
    sums = rates.double().cumsum(-1)
    later = torch.ones(2 * rates.shape[-1:], dtype=torch.bool, device=rates.device).triu(1)
    spans = (sums[..., :, None] - sums[..., None, :]).to(rates.dtype).masked_fill(later, -torch.inf)
    mixed = (C @ B.mT)[:, :, None] * spans.exp()  # [B, G, R, K, K]
    read = (C @ h.flatten(2, 3).mT).unflatten(-1, h.shape[2:4]).movedim(2, 3)  # [B, G, R, K, P]
    out = mixed @ X + sums.to(rates.dtype).exp()[..., None] * read
    left = (sums[..., -1:] - sums).to(rates.dtype).exp()[..., None] * X
    added = (left.movedim(3, 2).flatten(3).mT @ B).unflatten(2, h.shape[2:4])
    return out, sums[..., -1:, None].to(rates.dtype).exp() * h + added
