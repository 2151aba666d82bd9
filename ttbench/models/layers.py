"""Layers that several architectures share. Letters: B batch, T tokens, D width, K conv kernel, C channels."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn


class RMSNorm(nn.Module):
    """x / rms(x) * weight over the last dimension, in at least float32. Source: Zhang and Sennrich 2019, eq. 4."""

    def __init__(self, dim: int, *, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps)
        return self.weight * normed.to(x.dtype)

    def read(self, stream: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
        """The norm of a stream that may be wider than the model's own dtype, in the latter."""
        return self(stream.to(self.weight.dtype))


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x)). Source: Shazeer 2020, "GLU variants improve Transformer", without its biases."""

    def __init__(self, dim: int, hidden_dim: int, *, bias: bool = False) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(dim, hidden_dim, bias=bias)
        self.up_proj = nn.Linear(dim, hidden_dim, bias=bias)
        self.down_proj = nn.Linear(hidden_dim, dim, bias=bias)

    def forward(self, x: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))

    @staticmethod
    def flops(dim: int, hidden_dim: int) -> int:
        """FLOP for one token, matrix products only."""
        return 6 * dim * hidden_dim


class ShortConv(nn.Module):
    """Causal depthwise convolution over time; `weight[:, 0, -1]` multiplies the current token.

    The state is the last K - 1 inputs, [B, K - 1, C], zeros before the first token.
    """

    def __init__(self, channels: int, kernel_size: int, *, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(channels, 1, kernel_size))
        self.bias = nn.Parameter(torch.zeros(channels)) if bias else None
        nn.init.uniform_(self.weight, -1 / math.sqrt(kernel_size), 1 / math.sqrt(kernel_size))

    def forward(
        self, x: Float[Tensor, "B T C"], state: Float[Tensor, "B S C"] | None = None
    ) -> tuple[Float[Tensor, "B T C"], Float[Tensor, "B S C"]]:
        """Convolve; returns the output and the next state, neither aliasing `state`."""
        kernel_size = self.weight.shape[-1]
        past = x.new_zeros(x.shape[0], kernel_size - 1, x.shape[2]) if state is None else state.to(x.dtype)
        padded = torch.cat((past, x), dim=1)
        num_tokens = x.shape[1]
        # K shifted products: on CPU several times faster than a grouped conv1d, and the same sum order for any T.
        out = padded[:, kernel_size - 1 :] * self.weight[:, 0, kernel_size - 1]
        for tap in range(kernel_size - 2, -1, -1):
            out = out + padded[:, tap : tap + num_tokens] * self.weight[:, 0, tap]
        if self.bias is not None:
            out = out + self.bias
        return out, padded[:, num_tokens:].clone()


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


def rotate_half(
    x: Float[Tensor, "... T D"], cos: Float[Tensor, "T R"], sin: Float[Tensor, "T R"]
) -> Float[Tensor, "... T D"]:
    """Rotary embedding on pairs (x[i], x[i + D/2]): the layout of Llama in Hugging Face naming."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


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
