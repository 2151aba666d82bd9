"""What stands between a layer's projections and the models that it trains inside: rotations, step sizes, gates.

All of it is element by element or over one head, and comes out in the dtype of the inner model, float32 at least.
Letters: B batch, T tokens, H heads, D head dim, W = H D width, C mini-batch, P = D / 2 rotated pairs.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ttbench.kernels.dispatch.choice import op

NORM_EPS = 1e-6  # of the lengths of a memory's q, k and v


@op("ttt_inputs", None)
def ttt_inputs(
    q: Float[Tensor, "B T W"],
    k: Float[Tensor, "B T W"],
    v: Float[Tensor, "B T W"],
    rate: Float[Tensor, "B T H"],
    turns: Float[Tensor, "T 1 P 2"],
    learnable_tau: Float[Tensor, "C"],
    norm_weight: Float[Tensor, "H D"],
    norm_bias: Float[Tensor, "H D"],
    *,
    rate_scale: float,
) -> tuple[
    Float[Tensor, "B T H D"],
    Float[Tensor, "B T H D"],
    Float[Tensor, "B T H D"],
    Float[Tensor, "B T H"],
    Float[Tensor, "C"],
    Float[Tensor, "H D"],
    Float[Tensor, "H D"],
]:
    """What `ttt_linear` and `ttt_mlp` take before the state: q, k, v, lam, tau, and the inner norm.

    Args:
        rate: step size of each token as a key, before its sigmoid.
        turns: cosine and sine of each rotated pair, which are neighbours.
        learnable_tau: what is added to 1 / (t + 1), the step size of place t in the mini-batch as a query.
        norm_weight, norm_bias: of the inner layer norm.
        rate_scale: what the sigmoid is multiplied by.
    """
    dtype = torch.promote_types(q.dtype, torch.float32)
    q, k, v = (x.to(dtype).unflatten(-1, (rate.shape[-1], -1)) for x in (q, k, v))
    lam = rate.to(dtype).sigmoid() * rate_scale
    tau = learnable_tau.to(dtype)
    tau = (1 / torch.arange(1, len(tau) + 1, dtype=dtype, device=tau.device) + tau).clamp_min(0)
    return _turned(q, turns), _turned(k, turns), v, lam, tau, norm_weight.to(dtype), norm_bias.to(dtype)


def _turned(x: Float[Tensor, "B T H D"], turns: Float[Tensor, "T 1 P 2"]) -> Float[Tensor, "B T H D"]:
    """Rotary embedding on neighbours (x[2i], x[2i + 1]); as a complex product it needs no strided reads."""
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * torch.view_as_complex(turns)).flatten(-2)


@op("memory_inputs", None)
def memory_inputs(
    q: Float[Tensor, "B T W"],
    k: Float[Tensor, "B T W"],
    v: Float[Tensor, "B T W"],
    gates: Float[Tensor, "B T _"],
    *,
    num_heads: int,
    unit_norm: str,
    step_scale: float,
    damped_step: bool,
) -> tuple[Float[Tensor, "B T H D"], Float[Tensor, "B T H D"], Float[Tensor, "B T H D"], Float[Tensor, "B T H 3"]]:
    """What `neural_memory` takes before the state: q, k, v, and the gates theta, log eta, log keep.

    Args:
        gates: three for each head and token, before their sigmoids.
        unit_norm: which of "qkv" are brought to length 1 in each head.
        step_scale: what theta's sigmoid is multiplied by.
        damped_step: whether theta carries 1 - eta.
    """
    dtype = torch.promote_types(q.dtype, torch.float32)
    parts = (x.to(dtype).unflatten(-1, (num_heads, -1)) for x in (q, k, v))
    q, k, v = (
        F.normalize(part, dim=-1, eps=NORM_EPS) if name in unit_norm else part
        for name, part in zip("qkv", parts, strict=True)
    )
    raw = gates.to(dtype).unflatten(-1, (-1, 3))
    theta = step_scale * raw[..., :1].sigmoid()
    if damped_step:
        # 1 - sigmoid(x) = sigmoid(-x)
        theta = theta * (-raw[..., 1:2]).sigmoid()
    return q, k, v, torch.cat((theta, F.logsigmoid(raw[..., 1:])), -1)
