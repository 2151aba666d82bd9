"""Mamba: a selective state space in place of attention, and nothing beside it.

    u, z = in(x)        u = silu(conv(u))        dt, B, C = split(x_proj(u))        dt = softplus(dt_proj(dt))
    y = scan(u, dt, -exp(A_log), B, C) + D u     out = out_proj(y * silu(z))

in blocks x = x + mixer(norm(x)) without an MLP; the scan is `kernels.selective_scan`.

Source: Gu and Dao 2023, arXiv 2312.00752; state-spaces/mamba mamba_ssm/modules/mamba_simple.py, whose names the weights
keep; transformers 5.23.0 modeling_mamba.py. Departures, none of which changes the numbers of a whole read: dt, B, C and
the state are float32 at least; a second chunk of several tokens goes on from the state of the first, where
transformers 5.23.0 starts its scan again from zero and says nothing.

State per layer, elements: E N, and E (K - 1) inputs of the convolution. Letters: B batch, T tokens, M model width,
E = expand * M channels, N state size, R rank of the step sizes, K conv kernel.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ttbench.kernels import selective_scan
from ttbench.models.base import Description, WorkTerm
from ttbench.models.layers import ShortConv
from ttbench.models.stack import Stack, StackWork
from ttbench.models.state_space.mamba_config import MambaConfig
from ttbench.models.state_space.ssm import ScanMixer, dialects, start_time_steps_


class MambaMixer(ScanMixer):
    """Projections, convolution and gate around the selective scan."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        width, inner_dim, rank = config.hidden_size, config.inner_dim, config.time_step_rank
        self.rank, self.state_size = rank, config.state_size
        self.in_proj = nn.Linear(width, 2 * inner_dim, bias=config.use_bias)
        self.conv1d = ShortConv(inner_dim, config.conv_kernel, bias=config.use_conv_bias)
        self.x_proj = nn.Linear(inner_dim, rank + 2 * self.state_size, bias=False)
        self.dt_proj = nn.Linear(rank, inner_dim, bias=True)
        self.A_log = nn.Parameter(torch.zeros(inner_dim, self.state_size))
        self.D = nn.Parameter(torch.ones(inner_dim))
        self.out_proj = nn.Linear(inner_dim, width, bias=config.use_bias)

    @classmethod
    def shapes(cls, config: Any) -> tuple[tuple[int, int], tuple[int, int]]:
        return (config.inner_dim, config.state_size), (config.conv_kernel - 1, config.inner_dim)

    @classmethod
    def work(cls, config: Any) -> StackWork:
        products = 3 * config.hidden_size + 2 * config.time_step_rank + 2 * config.state_size + config.conv_kernel
        return StackWork(flops=config.inner_dim * (2 * products + selective_scan.flops(config.state_size)))

    @torch.no_grad()
    def start_weights_(self) -> None:
        """A = -1 .. -N in every channel, step sizes log-uniform in 0.001 .. 0.1. Source: the paper, section 3.6."""
        self.A_log.copy_(torch.arange(1, self.state_size + 1, dtype=torch.float32).log())
        nn.init.uniform_(self.dt_proj.weight, -(self.rank**-0.5), self.rank**-0.5)
        start_time_steps_(self.dt_proj.bias)

    def scan(
        self, x: Float[Tensor, "B T M"], tail: Float[Tensor, "B S E"] | None, state: Float[Tensor, "B E N"] | None
    ) -> tuple[Float[Tensor, "B T M"], Float[Tensor, "B E N"]]:
        u, z, dt, B, C = self._inputs(x, tail)
        wide = torch.promote_types(self.A_log.dtype, torch.float32)
        A, uu = -self.A_log.to(wide).exp(), u.to(wide)
        before = uu.new_zeros(len(x), *A.shape) if state is None else state
        steps = F.softplus(dt.to(wide) + self.dt_proj.bias.to(wide))
        y, final = selective_scan.chunked(uu, steps, A, B.to(wide), C.to(wide), before)
        return self.out_proj(((y + self.D.to(wide) * uu) * F.silu(z)).to(x.dtype)), final

    def scan_step(
        self, x: Float[Tensor, "B 1 M"], tail: Float[Tensor, "B S E"], state: Float[Tensor, "B E N"]
    ) -> Float[Tensor, "B 1 M"]:
        u, z, dt, B, C = (part[:, 0] for part in self._inputs(x, tail))
        y = selective_scan.gated_step(u, dt, self.dt_proj.bias, self.A_log, B, C, self.D, z, state)
        return self.out_proj(y[:, None])

    def _inputs(self, x: Tensor, tail: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """u, z, dt, B, C as the layer projects them: dt before its bias."""
        u, z = self.in_proj(x).chunk(2, -1)
        u = self.conv1d(u, tail, silu=True)
        dt, B, C = self.x_proj(u).split([self.rank, self.state_size, self.state_size], -1)
        return u, z, F.linear(dt, self.dt_proj.weight), B, C


KEYS = (
    *(f"{name}.{leaf}" for name in ("in_proj", "conv1d", "dt_proj", "out_proj") for leaf in ("weight", "bias")),
    *("x_proj.weight", "A_log", "D"),
)


_SECTION = """
A selective state space in place of attention and MLP both (Gu and Dao 2023, arXiv 2312.00752).

    u, z = in(x)        u = silu(conv(u))        dt, B, C from u        h_t = exp(dt_t A) h_{t-1} + dt_t B_t u_t
    y = C h + D u        out(y silu(z))

State: $state numbers (E = 2 W channels, N usually 16) and E (K - 1) inputs of the convolution. Cost:
$projections for projections, $inputs for B, C and dt of rank R, and $scan for the scan. Faithful: by goldens
from transformers and by the names of both published layouts. Departures: dt, B, C and the state are float32 at
least; a second chunk goes on from the state of the first, where transformers 5.23 starts again from zero
([footguns](footguns.md)).
"""


class Mamba(Stack):
    """Mamba. See the module docstring."""

    DESCRIPTION = Description(
        section=_SECTION,
        published="yes, read",
        state="E N",
        work={
            "projections": WorkTerm(formula="6 W E"),
            "inputs": WorkTerm(formula="4 E (N + R)"),
            "scan": WorkTerm(formula="6 E N"),
        },
        letters={"E": "inner_dim", "N": "state_size", "R": "time_step_rank"},
        kept_channels="E",
        swiglu=False,
    )
    mixer_class = MambaMixer
    config_class = MambaConfig
    undecayed = frozenset({"A_log"})  # decay would make every rate 1; the authors leave it out too
    TINY: ClassVar[Mapping[str, Any]] = {"time_step_rank": 2, "state_size": 4}
    DIALECTS = dialects("mamba", layer="Mamba1", config=MambaConfig, mixer_keys=KEYS, default_layer=True)
