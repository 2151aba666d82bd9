"""Mamba: a selective state space in place of attention, and nothing beside it.

    u, z = in(x)        u = silu(conv(u))        dt, B, C = split(x_proj(u))        dt = softplus(dt_proj(dt))
    y = scan(u, dt, -exp(A_log), B, C) + D u     out = out_proj(y * silu(z))

in blocks x = x + mixer(norm(x)), see `models.ssm`; the scan is `kernels.selective_scan`.

Source: Gu and Dao 2023, arXiv 2312.00752; state-spaces/mamba mamba_ssm/modules/mamba_simple.py, whose names the weights
keep; transformers 5.23.0 modeling_mamba.py. Departures, none of which changes the numbers of a whole read: dt, B, C and
the state are float32 at least; a second chunk of several tokens goes on from the state of the first, where
transformers 5.23.0 starts its scan again from zero and says nothing.

State per layer, elements: E N, and E (K - 1) inputs of the convolution. Letters: B batch, T tokens, M model width,
E = expand * M channels, N state size, R rank of the step sizes, K conv kernel.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Self

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ttbench.kernels import selective_scan
from ttbench.models.layers import ShortConv
from ttbench.models.mamba_config import MambaConfig
from ttbench.models.ssm import SSM, dialects, start_time_steps_


class MambaMixer(nn.Module):
    """Projections, convolution and gate around the selective scan: a `models.ssm.Mixer`.

    Args:
        dim: model width M.
        inner_dim: channels E.
        state_size: N.
        rank: R.
        conv_kernel: tokens.
        use_bias: of in_proj and out_proj.
        use_conv_bias: of the convolution.
    """

    def __init__(
        self,
        dim: int,
        *,
        inner_dim: int,
        state_size: int,
        rank: int,
        conv_kernel: int,
        use_bias: bool,
        use_conv_bias: bool,
    ) -> None:
        super().__init__()
        self.rank, self.state_size = rank, state_size
        self.state_shape, self.tail_shape = (inner_dim, state_size), (conv_kernel - 1, inner_dim)
        self.in_proj = nn.Linear(dim, 2 * inner_dim, bias=use_bias)
        self.conv1d = ShortConv(inner_dim, conv_kernel, bias=use_conv_bias)
        self.x_proj = nn.Linear(inner_dim, rank + 2 * state_size, bias=False)
        self.dt_proj = nn.Linear(rank, inner_dim, bias=True)
        self.A_log = nn.Parameter(torch.zeros(inner_dim, state_size))
        self.D = nn.Parameter(torch.ones(inner_dim))
        self.out_proj = nn.Linear(inner_dim, dim, bias=use_bias)

    @torch.no_grad()
    def start_(self) -> None:
        """A = -1 .. -N in every channel, step sizes log-uniform in 0.001 .. 0.1. Source: the paper, section 3.6."""
        if self.A_log.is_meta:
            # no memory to fill, and torch would import its compiler for it
            return
        self.A_log.copy_(torch.arange(1, self.state_size + 1, dtype=torch.float32).log())
        nn.init.uniform_(self.dt_proj.weight, -(self.rank**-0.5), self.rank**-0.5)
        start_time_steps_(self.dt_proj.bias)

    def forward(
        self, x: Float[Tensor, "B T M"], *, ssm: Float[Tensor, "B E N"] | None, tail: Float[Tensor, "B S E"] | None
    ) -> Float[Tensor, "B T M"]:
        """Any number of tokens; `ssm` and `tail` are advanced IN PLACE."""
        u, z, dt, A, B, C = self._inputs(x, tail)
        start = u.new_zeros(x.shape[0], *self.state_shape) if ssm is None else ssm
        y, final = selective_scan.chunked(u, dt, A, B, C, start)
        if ssm is not None:
            ssm.copy_(final)
        return self._output(y, u, z, x.dtype)

    def step(
        self, x: Float[Tensor, "B M"], *, ssm: Float[Tensor, "B E N"], tail: Float[Tensor, "B S E"]
    ) -> Float[Tensor, "B M"]:
        """One token; `ssm` and `tail` are advanced IN PLACE."""
        u, z, dt, A, B, C = self._inputs(x[:, None], tail)
        y = selective_scan.step(u[:, 0], dt[:, 0], A, B[:, 0], C[:, 0], ssm)
        return self._output(y, u[:, 0], z[:, 0], x.dtype)

    def _inputs(self, x: Tensor, tail: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """u, z, dt, A, B, C; all but z in the scan's dtype."""
        wide = torch.promote_types(self.A_log.dtype, torch.float32)
        u, z = self.in_proj(x).chunk(2, -1)
        u, next_tail = self.conv1d(u, tail)
        if tail is not None:
            tail.copy_(next_tail)
        u = F.silu(u)
        dt, B, C = self.x_proj(u).split([self.rank, self.state_size, self.state_size], -1)
        dt = F.linear(dt, self.dt_proj.weight).to(wide) + self.dt_proj.bias.to(wide)
        return u.to(wide), z, F.softplus(dt), -self.A_log.to(wide).exp(), B.to(wide), C.to(wide)

    def _output(self, y: Tensor, u: Tensor, z: Tensor, dtype: torch.dtype) -> Tensor:
        return self.out_proj(((y + self.D.to(y.dtype) * u) * F.silu(z)).to(dtype))


_KEYS = [f"{name}.{leaf}" for name in ("in_proj", "conv1d", "dt_proj", "out_proj") for leaf in ("weight", "bias")]
_KEYS += ["x_proj.weight", "A_log", "D"]


class Mamba(SSM):
    """Mamba. See the module docstring."""

    DIALECTS = dialects("mamba", layer="Mamba1", config=MambaConfig, mixer_keys=_KEYS, default_layer=True)

    @classmethod
    def tiny(cls, **overrides: Any) -> Self:
        config = MambaConfig(vocab_size=257, hidden_size=32, num_hidden_layers=2, time_step_rank=2, state_size=4)
        return cls(replace(config, **overrides))

    @staticmethod
    def make_mixer(config: MambaConfig) -> MambaMixer:
        return MambaMixer(
            config.hidden_size,
            inner_dim=config.intermediate_size,
            state_size=config.state_size,
            rank=config.time_step_rank,
            conv_kernel=config.conv_kernel,
            use_bias=config.use_bias,
            use_conv_bias=config.use_conv_bias,
        )

    @classmethod
    def state_shapes(cls, config: MambaConfig) -> tuple[tuple[int, int], tuple[int, int]]:
        inner_dim = config.intermediate_size
        return (inner_dim, config.state_size), (config.conv_kernel - 1, inner_dim)

    @classmethod
    def mixer_flops(cls, config: MambaConfig) -> int:
        products = 3 * config.hidden_size + 2 * config.time_step_rank + 2 * config.state_size
        each = 2 * products + 2 * config.conv_kernel + selective_scan.flops(config.state_size)
        return config.intermediate_size * each

    @property
    def kernel_path(self) -> dict[str, str]:
        return {"selective_scan": "chunked", "short_conv": "torch"}
