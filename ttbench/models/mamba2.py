"""Mamba-2: one decay per head, so that the scan is made of matrix products, and B, C and dt beside x in one projection.

    z, xBC, dt = in(x)        x, B, C = split(silu(conv(xBC)))        dt = clamp(softplus(dt + dt_bias), limit)
    y = ssd(x, dt, -exp(A_log), B, C) + D x        out = out_proj(norm(y * silu(z)))

in blocks x = x + mixer(norm(x)), see `models.ssm`; the scan is `kernels.ssd`. The norm in the mixer is taken over each
of the G groups of channels alone, and of y before the gate when `norm_before_gate`.

Source: Dao and Gu 2024, arXiv 2405.21060; state-spaces/mamba mamba_ssm/modules/mamba2.py @ 03a38fb, whose names the
weights keep; transformers 5.23.0 modeling_mamba2.py. Departures: dt, B, C and the state are float32 at least; the limit
of dt holds in decoding too, where both sources forget it; `chunk_size` has no effect.

State per layer, elements: H P N, and (H P + 2 G N) (K - 1) inputs of the convolution. Letters: B batch, T tokens,
M model width, H heads, P head dim, E = H P, G groups, N state size, K conv kernel.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Self

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ttbench.kernels import ssd
from ttbench.models.layers import ShortConv
from ttbench.models.mamba_config import Mamba2Config
from ttbench.models.ssm import SSM, dialects, start_time_steps_


class GatedRMSNorm(nn.Module):
    """RMSNorm of y * silu(z), or RMSNorm of y times silu(z), over each group of channels alone; float32 at least."""

    def __init__(self, dim: int, *, num_groups: int, eps: float, norm_before_gate: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.num_groups, self.eps, self.norm_before_gate = num_groups, eps, norm_before_gate

    def forward(self, y: Float[Tensor, "... E"], z: Float[Tensor, "... E"]) -> Float[Tensor, "... E"]:
        gate = F.silu(z.to(y.dtype))
        groups = (y if self.norm_before_gate else y * gate).unflatten(-1, (self.num_groups, -1))
        normed = (groups * torch.rsqrt(groups.square().mean(-1, keepdim=True) + self.eps)).flatten(-2) * self.weight
        return normed * gate if self.norm_before_gate else normed


class Mamba2Mixer(nn.Module):
    """Projections, convolution and gated norm around the scan: a `models.ssm.Mixer`.

    Args:
        dim: model width M.
        num_heads, head_dim: H, P.
        num_groups: G, which share B and C.
        state_size: N.
        conv_kernel: tokens.
        use_bias: of in_proj and out_proj.
        use_conv_bias: of the convolution.
        eps: of the gated norm.
        norm_before_gate: whether the norm comes before the gate.
        dt_limit: least and largest step size.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_heads: int,
        head_dim: int,
        num_groups: int,
        state_size: int,
        conv_kernel: int,
        use_bias: bool,
        use_conv_bias: bool,
        eps: float,
        norm_before_gate: bool,
        dt_limit: tuple[float, float],
    ) -> None:
        super().__init__()
        inner_dim, shared_dim = num_heads * head_dim, num_groups * state_size
        self.num_heads, self.num_groups, self.dt_limit = num_heads, num_groups, dt_limit
        self.splits = (inner_dim, shared_dim, shared_dim)
        self.state_shape = (num_heads, head_dim, state_size)
        self.tail_shape = (conv_kernel - 1, sum(self.splits))
        self.in_proj = nn.Linear(dim, inner_dim + sum(self.splits) + num_heads, bias=use_bias)
        self.conv1d = ShortConv(sum(self.splits), conv_kernel, bias=use_conv_bias)
        self.dt_bias = nn.Parameter(torch.zeros(num_heads))
        self.A_log = nn.Parameter(torch.zeros(num_heads))
        self.D = nn.Parameter(torch.ones(num_heads))
        self.norm = GatedRMSNorm(inner_dim, num_groups=num_groups, eps=eps, norm_before_gate=norm_before_gate)
        self.out_proj = nn.Linear(inner_dim, dim, bias=use_bias)

    @torch.no_grad()
    def start_(self) -> None:
        """-A uniform in 1 .. 16, step sizes log-uniform in 0.001 .. 0.1. Source: the authors' module."""
        if self.A_log.is_meta:
            # no memory to fill, and torch would import its compiler for it
            return
        self.A_log.copy_(torch.empty_like(self.A_log).uniform_(1, 16).log())
        start_time_steps_(self.dt_bias)

    def forward(
        self, x: Float[Tensor, "B T M"], *, ssm: Float[Tensor, "B H P N"] | None, tail: Float[Tensor, "B S C"] | None
    ) -> Float[Tensor, "B T M"]:
        """Any number of tokens; `ssm` and `tail` are advanced IN PLACE."""
        z, u, dt, A, B, C = self._inputs(x, tail)
        start = u.new_zeros(x.shape[0], *self.state_shape) if ssm is None else ssm
        y, final = ssd.chunked(u, dt, A, B, C, start)
        if ssm is not None:
            ssm.copy_(final)
        return self._output(y, u, z, x.dtype)

    def step(
        self, x: Float[Tensor, "B M"], *, ssm: Float[Tensor, "B H P N"], tail: Float[Tensor, "B S C"]
    ) -> Float[Tensor, "B M"]:
        """One token; `ssm` and `tail` are advanced IN PLACE."""
        z, u, dt, A, B, C = self._inputs(x[:, None], tail)
        y = ssd.step(u[:, 0], dt[:, 0], A, B[:, 0], C[:, 0], ssm)
        return self._output(y, u[:, 0], z[:, 0], x.dtype)

    def _inputs(self, x: Tensor, tail: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """z, x, dt, A, B, C; all but z in the scan's dtype, in heads and groups."""
        wide = torch.promote_types(self.A_log.dtype, torch.float32)
        z, mixed, dt = self.in_proj(x).split([self.splits[0], sum(self.splits), self.num_heads], -1)
        mixed, next_tail = self.conv1d(mixed, tail)
        if tail is not None:
            tail.copy_(next_tail)
        u, B, C = F.silu(mixed).to(wide).split(self.splits, -1)
        B, C = (part.unflatten(-1, (self.num_groups, -1)) for part in (B, C))
        dt = F.softplus(dt.to(wide) + self.dt_bias.to(wide)).clamp(*self.dt_limit)
        return z, u.unflatten(-1, (self.num_heads, -1)), dt, -self.A_log.to(wide).exp(), B, C

    def _output(self, y: Tensor, u: Tensor, z: Tensor, dtype: torch.dtype) -> Tensor:
        y = (y + self.D.to(y.dtype)[:, None] * u).flatten(-2)
        return self.out_proj(self.norm(y, z).to(dtype))


_KEYS = [f"{name}.{leaf}" for name in ("in_proj", "conv1d", "out_proj") for leaf in ("weight", "bias")]
_KEYS += ["norm.weight", "dt_bias", "A_log", "D"]


class Mamba2(SSM):
    """Mamba-2. See the module docstring."""

    DIALECTS = dialects("mamba2", layer="Mamba2", config=Mamba2Config, mixer_keys=_KEYS, default_layer=False)

    @classmethod
    def tiny(cls, **overrides: Any) -> Self:
        config = Mamba2Config(
            vocab_size=257, hidden_size=32, num_hidden_layers=2, num_heads=8, head_dim=8, n_groups=2, state_size=8
        )
        return cls(replace(config, **overrides))

    @staticmethod
    def make_mixer(config: Mamba2Config) -> Mamba2Mixer:
        return Mamba2Mixer(
            config.hidden_size,
            num_heads=config.num_heads,
            head_dim=config.head_dim,
            num_groups=config.n_groups,
            state_size=config.state_size,
            conv_kernel=config.conv_kernel,
            use_bias=config.use_bias,
            use_conv_bias=config.use_conv_bias,
            eps=config.layer_norm_epsilon,
            norm_before_gate=config.norm_before_gate,
            dt_limit=config.time_step_limit,
        )

    @classmethod
    def state_shapes(cls, config: Mamba2Config) -> tuple[tuple[int, int, int], tuple[int, int]]:
        return (config.num_heads, config.head_dim, config.state_size), (config.conv_kernel - 1, config.conv_dim)

    @classmethod
    def mixer_flops(cls, config: Mamba2Config) -> int:
        projected = 2 * config.intermediate_size + config.conv_dim + config.num_heads
        scan = config.num_heads * ssd.flops(config.head_dim, config.state_size)
        return 2 * config.hidden_size * projected + 2 * config.conv_kernel * config.conv_dim + scan

    @property
    def kernel_path(self) -> dict[str, str]:
        return {"ssd": "chunked", "short_conv": "torch"}
