"""Mamba-2: one decay per head, so that the scan is made of matrix products, and B, C and dt beside x in one projection.

    z, xBC, dt = in(x)        x, B, C = split(silu(conv(xBC)))        dt = clamp(softplus(dt + dt_bias), limit)
    y = ssd(x, dt, -exp(A_log), B, C) + D x        out = out_proj(norm(y * silu(z)))

in blocks x = x + mixer(norm(x)) without an MLP; the scan is `kernels.ssd`. The norm in the mixer is taken over each
of the G groups of channels alone, and of y before the gate when `norm_before_gate`.

Source: Dao and Gu 2024, arXiv 2405.21060; state-spaces/mamba mamba_ssm/modules/mamba2.py @ 03a38fb, whose names the
weights keep; transformers 5.23.0 modeling_mamba2.py. Departures: dt, B, C and the state are float32 at least; the limit
of dt holds in decoding too, where both sources forget it; `chunk_size` has no effect.

State per layer, elements: H P N, and (H P + 2 G N) (K - 1) inputs of the convolution. Letters: B batch, T tokens,
M model width, H heads, P head dim, E = H P, G groups, N state size, K conv kernel.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ttbench.kernels import ssd
from ttbench.kernels.norm import gated_norm
from ttbench.models.base import Description, WorkTerm
from ttbench.models.layers import ShortConv
from ttbench.models.stack import Stack, StackWork
from ttbench.models.state_space.mamba_config import Mamba2Config
from ttbench.models.state_space.ssm import ScanMixer, dialects, start_time_steps_


class GatedRMSNorm(nn.Module):
    """RMSNorm of y * silu(z), or RMSNorm of y times silu(z), over each group of channels alone; in the dtype of z."""

    def __init__(self, dim: int, *, num_groups: int, eps: float, norm_before_gate: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.num_groups, self.eps, self.norm_before_gate = num_groups, eps, norm_before_gate

    def forward(self, y: Float[Tensor, "... E"], z: Float[Tensor, "... E"]) -> Float[Tensor, "... E"]:
        return gated_norm(
            y,
            z,
            self.weight,
            None,
            eps=self.eps,
            num_groups=self.num_groups,
            kind="rms",
            activation="silu",
            gate_first=not self.norm_before_gate,
            narrow=False,
        )


class Mamba2Mixer(ScanMixer):
    """Projections, convolution and gated norm around the scan."""

    def __init__(self, config: Mamba2Config) -> None:
        super().__init__()
        width, inner_dim, shared_dim = config.hidden_size, config.inner_dim, config.n_groups * config.state_size
        self.num_heads, self.num_groups, self.dt_limit = config.num_heads, config.n_groups, config.time_step_limit
        self.splits = (inner_dim, shared_dim, shared_dim)
        self.in_proj = nn.Linear(width, inner_dim + config.conv_dim + self.num_heads, bias=config.use_bias)
        self.conv1d = ShortConv(config.conv_dim, config.conv_kernel, bias=config.use_conv_bias)
        self.dt_bias = nn.Parameter(torch.zeros(self.num_heads))
        self.A_log = nn.Parameter(torch.zeros(self.num_heads))
        self.D = nn.Parameter(torch.ones(self.num_heads))
        self.norm = GatedRMSNorm(
            inner_dim,
            num_groups=config.n_groups,
            eps=config.layer_norm_epsilon,
            norm_before_gate=config.norm_before_gate,
        )
        self.out_proj = nn.Linear(inner_dim, width, bias=config.use_bias)

    @classmethod
    def shapes(cls, config: Mamba2Config) -> tuple[tuple[int, int, int], tuple[int, int]]:
        return (config.num_heads, config.head_dim, config.state_size), (config.conv_kernel - 1, config.conv_dim)

    @classmethod
    def work(cls, config: Mamba2Config) -> StackWork:
        projected = 2 * config.inner_dim + config.conv_dim + config.num_heads
        scan = config.num_heads * ssd.flops(config.head_dim, config.state_size)
        return StackWork(flops=2 * config.hidden_size * projected + 2 * config.conv_kernel * config.conv_dim + scan)

    @torch.no_grad()
    def start_weights_(self) -> None:
        """-A uniform in 1 .. 16, step sizes log-uniform in 0.001 .. 0.1. Source: the authors' module."""
        self.A_log.copy_(torch.empty_like(self.A_log).uniform_(1, 16).log())
        start_time_steps_(self.dt_bias)

    def scan(
        self, x: Float[Tensor, "B T M"], tail: Float[Tensor, "B S C"] | None, state: Float[Tensor, "B H P N"] | None
    ) -> tuple[Float[Tensor, "B T M"], Float[Tensor, "B H P N"]]:
        wide = torch.promote_types(self.A_log.dtype, torch.float32)
        z, u, dt, B, C = self._inputs(x, tail)
        u, B, C = u.to(wide), B.to(wide), C.to(wide)
        before = u.new_zeros(len(x), *u.shape[2:], B.shape[-1]) if state is None else state
        steps = F.softplus(dt.to(wide) + self.dt_bias.to(wide)).clamp(*self.dt_limit)
        y, final = ssd.chunked(u, steps, -self.A_log.to(wide).exp(), B, C, before, operands=x.dtype)
        return self._output(y + self.D.to(wide)[:, None] * u, z), final

    def scan_step(
        self, x: Float[Tensor, "B 1 M"], tail: Float[Tensor, "B S C"], state: Float[Tensor, "B H P N"]
    ) -> Float[Tensor, "B 1 M"]:
        z, u, dt, B, C = self._inputs(x, tail)
        u, dt, B, C = (part[:, 0] for part in (u, dt, B, C))
        y = ssd.gated_step(u, dt, self.dt_bias, self.A_log, B, C, self.D, state, dt_limit=self.dt_limit)
        return self._output(y[:, None], z)

    def _inputs(self, x: Tensor, tail: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """z, x, dt, B, C as the layer projects them: dt before its bias; x, B and C in heads and groups."""
        z, mixed, dt = self.in_proj(x).split([self.splits[0], sum(self.splits), self.num_heads], -1)
        u, B, C = self.conv1d(mixed, tail, silu=True).split(self.splits, -1)
        B, C = (part.unflatten(-1, (self.num_groups, -1)) for part in (B, C))
        return z, u.unflatten(-1, (self.num_heads, -1)), dt, B, C

    def _output(self, y: Tensor, z: Tensor) -> Tensor:
        return self.out_proj(self.norm(y.flatten(-2), z))


_KEYS = [f"{name}.{leaf}" for name in ("in_proj", "conv1d", "out_proj") for leaf in ("weight", "bias")]
_KEYS += ["norm.weight", "dt_bias", "A_log", "D"]


_SECTION = """
One decay for a whole head, so that the scan is made of matrix products (Dao and Gu 2024, arXiv 2405.21060).

    z, xBC, dt = in(x)        x, B, C = silu(conv(xBC))        h_t = exp(dt_t a) h_{t-1} + dt_t x_t B_tᵀ
    y = h C + D x        out(norm(y silu(z)))

State: $state numbers and (H D + 2 G N) (K - 1) inputs of the convolution, with B and C in G groups. Cost: with
E = H D, $projections for projections and $scan for the scan, token by token. Faithful: goldens from
transformers, groups and norm order included. Departures: the limit of dt holds in decoding too, where both
sources forget it.
"""


class Mamba2(Stack):
    """Mamba-2. See the module docstring."""

    DESCRIPTION = Description(
        section=_SECTION,
        published="yes, read",
        state="H D N",
        work={"projections": WorkTerm(formula="6 W E + 2 W (2 G N + H)"), "scan": WorkTerm(formula="5 E N")},
        letters={
            **{"H": "num_heads", "G": "n_groups", "N": "state_size"},
            "E": lambda c, T: c.num_heads * c.head_dim,
        },
        kept_channels="H D + 2 G N",
        swiglu=False,
    )
    mixer_class = Mamba2Mixer
    config_class = Mamba2Config
    undecayed = frozenset({"A_log"})  # decay would make every rate 1; the authors leave it out too
    TINY: ClassVar[Mapping[str, Any]] = {"num_heads": 8, "head_dim": 8, "n_groups": 2, "state_size": 8}
    DIALECTS = dialects("mamba2", layer="Mamba2", config=Mamba2Config, mixer_keys=_KEYS, default_layer=False)
