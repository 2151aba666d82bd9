"""Layers that several architectures share.

Letters: B batch, T tokens, D width, K conv kernel, C channels, S = K - 1 tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from ttbench.kernels.dispatch.choice import takes_twins
from ttbench.kernels.norm import residual_norm
from ttbench.kernels.short_conv import short_conv
from ttbench.kernels.swiglu import swiglu


class RMSNorm(nn.Module):
    """x / rms(x) * weight over the last dimension, in at least float32. Source: Zhang and Sennrich 2019, eq. 4."""

    def __init__(self, dim: int, *, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
        return residual_norm(x, None, self.weight, eps=self.eps, narrow=False)[1]

    def read(
        self, stream: Float[Tensor, "... D"], delta: Float[Tensor, "... D"] | None
    ) -> tuple[Float[Tensor, "... D"], Float[Tensor, "... D"]]:
        """The stream with `delta` added, and its norm; the stream may be wider than the model's own dtype."""
        return residual_norm(stream, delta, self.weight, eps=self.eps, narrow=True)


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x)). Source: Shazeer 2020, "GLU variants improve Transformer", without its biases."""

    def __init__(self, dim: int, hidden_dim: int, *, bias: bool = False) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(dim, hidden_dim, bias=bias)
        self.up_proj = nn.Linear(dim, hidden_dim, bias=bias)
        self.down_proj = nn.Linear(hidden_dim, dim, bias=bias)

    def forward(self, x: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
        return self.down_proj(swiglu(self.gate_proj(x), self.up_proj(x)))

    @staticmethod
    def flops(dim: int, hidden_dim: int) -> int:
        """FLOP for one token, matrix products only."""
        return 6 * dim * hidden_dim


class ShortConv(nn.Module):
    """Causal depthwise convolution over time; `weight[:, 0, -1]` multiplies the current token."""

    def __init__(self, channels: int, kernel_size: int, *, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, 1, kernel_size))
        self.bias = nn.Parameter(torch.zeros(channels)) if bias else None
        nn.init.uniform_(self.weight, -1 / math.sqrt(kernel_size), 1 / math.sqrt(kernel_size))

    def forward(
        self, x: Float[Tensor, "B T C"], tail: Float[Tensor, "B S C"] | None, *, silu: bool = False
    ) -> Float[Tensor, "B T C"]:
        """Convolve; `tail`, the last K - 1 inputs, is advanced IN PLACE. None: nothing was before, nothing is kept."""
        return convolve((x,), (self,), tail, silu=silu)[0]


def convolve(
    inputs: Sequence[Float[Tensor, "B T _"]],
    convs: Iterable[nn.Module],
    tail: Float[Tensor, "B S _"] | None,
    *,
    silu: bool = False,
    residual: bool = False,
) -> tuple[Float[Tensor, "B T _"], ...]:
    """Several `ShortConv`s at once, each of its own input or all of one, as `kernels.short_conv` does them."""
    convs = cast("list[ShortConv]", [*convs])
    biases = [conv.bias for conv in convs if conv.bias is not None]
    return short_conv(inputs, [conv.weight for conv in convs], biases, tail, silu=silu, residual=residual)


def join_(maps: Sequence[nn.Linear]) -> None:
    """Lay the weights of linear maps of one input behind each other in memory, for `project`; all keep their names.

    Each stays a parameter of its own, of the same shape and the same numbers, at another address.
    """
    weights = [each.weight for each in maps]
    if not _lie_behind_each_other(weights):
        # what a parameter holds is an inference tensor before and after, or is none
        with torch.inference_mode(weights[0].is_inference()), torch.no_grad():
            whole = torch.cat([weight.detach() for weight in weights])
            for weight, part in zip(weights, whole.split([len(weight) for weight in weights]), strict=True):
                weight.data = part


def project(x: Float[Tensor, "... D"], maps: Sequence[nn.Linear]) -> tuple[Float[Tensor, "... _"], ...]:
    """The linear maps of one input, without biases: one product where `join_` was called and fused kernels run.

    A step of decoding reads each weight once, and on a GPU each product that it starts costs as much as a small one
    takes. Elsewhere each map is a product of its own, so that no number depends on how weights lie.
    """
    if takes_twins(x) and not torch.is_grad_enabled():
        weights, sizes = [each.weight for each in maps], [each.out_features for each in maps]
        if _lie_behind_each_other(weights):
            width = weights[0].shape[1]
            return F.linear(x, weights[0].as_strided((sum(sizes), width), (width, 1))).split(sizes, -1)
    return tuple(each(x) for each in maps)


def _lie_behind_each_other(weights: Sequence[Float[Tensor, "_ D"]]) -> bool:
    """Whether the weights are the rows of one matrix in memory."""
    storage, at = weights[0].untyped_storage()._cdata, weights[0].storage_offset()
    for weight in weights:
        if weight.untyped_storage()._cdata != storage or weight.storage_offset() != at or not weight.is_contiguous():
            return False
        at += weight.numel()
    return True


def rotary_angles(
    positions: Int[Tensor, "T"], *, dim: int, theta: float, dtype: torch.dtype
) -> tuple[Float[Tensor, "T D"], Float[Tensor, "T D"]]:
    """Cosines and sines [T, dim / 2] of rotary embedding at integer positions, from float64 angles.

    Source: Su et al. 2021, RoFormer, eq. 15; float64 because float32 angles are wrong by whole turns' fractions
    beyond some 10^5 positions.
    """
    # MPS and some accelerators lack float64; there is none among the supported devices.
    frequencies = theta ** (-torch.arange(0, dim, 2, dtype=torch.float64, device=positions.device) / dim)
    angles = positions.to(torch.float64)[:, None] * frequencies
    return angles.cos().to(dtype), angles.sin().to(dtype)


def bucket_len(num_tokens: int) -> int:
    """`num_tokens` rounded up by at most a quarter, at least to 256: how many keys a step of attention reads."""
    grain = max(256, 1 << max(num_tokens.bit_length() - 3, 0))
    return -(-num_tokens // grain) * grain


def init_weights_(module: nn.Module, *, residual: Iterable[nn.Linear], num_branches: int) -> None:
    """Start weights for training: Linear normal with std fan_in^-1/2, Embedding normal with std 0.1, zero biases.

    The linears in `residual`, which write to the residual stream, are divided by sqrt(num_branches). At widths of some
    hundred this, unlike the usual std of 0.02, starts attention away from uniform: docs/decisions/0004-zoo-recipe.md
    has the trials. Other parameters are left alone.
    """
    outputs = {id(part) for part in residual}
    for part in module.modules():
        if isinstance(part, nn.Linear):
            num_terms = part.in_features * (num_branches if id(part) in outputs else 1)
            nn.init.normal_(part.weight, std=num_terms**-0.5)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
    for part in module.modules():
        # after the linears, so that a tied head keeps the embedding's scale
        if isinstance(part, nn.Embedding):
            nn.init.normal_(part.weight, std=0.1)
