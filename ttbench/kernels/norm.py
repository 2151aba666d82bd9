"""Norms of every block, each with what stands right before or behind it, so that one kernel can do both.

    residual_norm    s = x + delta, and RMSNorm(s)
    gated_norm       norm(y) * act(gate), or norm(y * act(gate))
    memory_gate      y * silu(norm(m)), or norm(y) * silu(norm(m))

RMSNorm is x / rms(x) * weight, in at least float32. Source: Zhang and Sennrich 2019, eq. 4.
Letters: B batch, T tokens, D width, E channels that are gated; in `memory_gate` H heads, D head dim, W = H D width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ttbench.kernels.dispatch.choice import op

Kind = Literal["rms", "layer"]
Activation = Literal["silu", "gelu"]
ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {"silu": F.silu, "gelu": partial(F.gelu, approximate="tanh")}


def rms_norm(x: Float[Tensor, "... D"], weight: Float[Tensor, "D"], *, eps: float) -> Float[Tensor, "... D"]:
    """RMSNorm over the last dimension."""
    return weight * _over_rms(x, eps=eps)


def _over_rms(x: Float[Tensor, "... D"], *, eps: float) -> Float[Tensor, "... D"]:
    """x / rms(x), in the dtype of x."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)).to(x.dtype)


@op("residual_norm", None)
def residual_norm(
    x: Float[Tensor, "... D"],
    delta: Float[Tensor, "... D"] | None,
    weight: Float[Tensor, "D"],
    *,
    eps: float,
    narrow: bool,
) -> tuple[Float[Tensor, "... D"], Float[Tensor, "... D"]]:
    """A residual stream with what is still to be added to it; and its norm.

    Args:
        x: the stream, which may be wider than the model's own dtype.
        delta: None where nothing is to be added; the first result is then `x` itself.
        narrow: whether the norm reads the stream in the dtype of the weight, not in the stream's own.
    """
    stream = x if delta is None else x + delta
    return stream, rms_norm(stream.to(weight.dtype) if narrow else stream, weight, eps=eps)


@op("gated_norm", None)
def gated_norm(
    y: Float[Tensor, "... E"],
    gate: Float[Tensor, "... E"],
    weight: Float[Tensor, "_"],
    bias: Float[Tensor, "_"] | None,
    *,
    eps: float,
    num_groups: int,
    kind: Kind,
    activation: Activation,
    gate_first: bool,
    narrow: bool,
) -> Float[Tensor, "... E"]:
    """A norm and a gate, in the dtype of the gate.

    Args:
        y: what is normed, over each of `num_groups` groups of channels alone.
        gate: before its activation.
        weight: of all channels, or of one group where all groups share it.
        bias: of a layer norm, like `weight`; None for RMSNorm.
        kind: "rms", or "layer" for a norm that subtracts the mean, which reads y in the dtype of the gate.
        gate_first: whether the norm is taken of the gated y.
        narrow: whether norm and gate meet in the dtype of the gate, not in that of y.
    """
    within = gate.dtype if narrow else y.dtype
    opened = ACTIVATIONS[activation](gate.to(within))
    groups = (y * opened if gate_first else y).unflatten(-1, (num_groups, -1))
    size = groups.shape[-1]
    if kind == "rms":
        scale = weight if len(weight) == size else weight.view(num_groups, size)
        normed = (_over_rms(groups, eps=eps) * scale).flatten(-2).to(within)
    else:
        assert bias is not None
        normed = F.layer_norm(groups.to(gate.dtype), (size,), weight, bias, eps).flatten(-2).to(within)
    return (normed if gate_first else normed * opened).to(gate.dtype)


@op("memory_gate", None)
def memory_gate(
    m: Float[Tensor, "B T H D"],
    y: Float[Tensor, "B T W"],
    head_weight: Float[Tensor, "D"],
    weight: Float[Tensor, "W"] | None,
    *,
    head_eps: float,
    eps: float,
) -> Float[Tensor, "B T W"]:
    """What a memory answers, normed in each head alone, as the gate of `y`; both meet in the dtype of `y`.

    Args:
        m: the answers, which may be wider than the model's own dtype.
        head_weight, head_eps: of the norm of each head.
        weight, eps: of a norm of `y`; None: y is taken as it is.
    """
    gate = F.silu(rms_norm(m, head_weight, eps=head_eps).flatten(-2).to(y.dtype))
    return (y if weight is None else rms_norm(y, weight, eps=eps)) * gate
