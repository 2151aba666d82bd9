"""S4D: a language model over linear time-invariant state spaces, the line of work that Mamba came out of.

    x = x + GLU(W gelu(SSM(norm(x))) + b)        SSM: `kernels.s4d`, one state space per channel, A diagonal and complex
    x = x + SwiGLU(norm(x))                      then norm, then a tied or untied head

Sources: Gu et al. 2022 (arXiv 2206.11893); the layer is that of their standalone file, state-spaces/s4
models/s4/s4d.py @ e757cef: Re A = -exp(log_A_real), GELU, then a linear map to twice the width and a GLU. Start values
are S4D-Lin, A = -1/2 + i pi n, dt log-uniform in 0.001..0.1, C complex normal. As in the S4 paper's language model
(Gu et al. 2021, arXiv 2111.00396, section 4.3 and appendix D), a state space stands where a Transformer has attention,
and a position-wise MLP follows.

Weight decay leaves A and dt alone, as in the authors' code. Departures: pre-norm with RMSNorm and a SwiGLU MLP, as the
transformer here has, where S4's own models use LayerNorm and a GELU MLP; no dropout; one learning rate for all,
where the authors' example trains A and dt at 0.001 at most.
Not built: S4 itself, whose A is diagonal plus low rank (DPLR). Its kernel needs Cauchy products, a Woodbury correction
and an inverse FFT of the length of the input for what the paper of S4D finds to be comparable scores in almost all
settings; docs/methodology.md says what that leaves out.

The layer does not look at its input when it decides what to keep (A, C and dt are the same for every token): weakness
at copying and recall is the architecture's, not a fault. State per layer: 2 D N numbers of float32 at least, for any
context. Letters: B batch, T tokens, D model width (one channel each), N complex states of a channel, L layers, V
vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ttbench.errors import CheckpointError
from ttbench.kernels import s4d
from ttbench.models.base import Description, Dialect, WorkTerm
from ttbench.models.stack import At, Mixer, Part, Slot, Stack, StackWork, own_dialect
from ttbench.models.stack_config import StackConfig, require_at_least

DT_RANGE = (0.001, 0.1)  # of the start values


@dataclass(frozen=True, slots=True, kw_only=True)
class S4DConfig(StackConfig):
    """Sizes. `state_size` counts real numbers as the paper's N does: half as many complex states are kept."""

    model_type: ClassVar[str] = "s4d"
    state_size: int  # real dimensions of each channel's state

    @property
    def num_states(self) -> int:
        """Complex states kept for each channel."""
        return self.state_size // 2

    def check(self) -> None:
        StackConfig.check(self)
        require_at_least("state_size", self.state_size, 2)
        if self.state_size % 2:
            raise CheckpointError(f"config.json has state_size={self.state_size}; it must be even")


class S4DMixer(Mixer):
    """One state space per channel, then GELU and a gated linear map that mixes the channels."""

    def __init__(self, config: S4DConfig) -> None:
        super().__init__()
        width, num_states = config.hidden_size, config.num_states
        low, high = (math.log(edge) for edge in DT_RANGE)
        self.log_dt = nn.Parameter(torch.empty(width).uniform_(low, high))
        self.log_A_real = nn.Parameter(torch.full((width, num_states), math.log(0.5)))
        self.A_imag = nn.Parameter(math.pi * torch.arange(num_states).expand(width, -1).float())
        # complex normal of variance 1
        self.C = nn.Parameter(torch.empty(width, num_states, 2).normal_(std=0.5**0.5))
        self.D = nn.Parameter(torch.empty(width).normal_())
        self.o_proj = nn.Linear(width, 2 * width, bias=True)

    @classmethod
    def slots(cls, config: S4DConfig) -> dict[str, Slot]:
        # real and imaginary parts
        return {"ssm": Slot(shape=(config.hidden_size, config.num_states, 2), wide=True)}

    @classmethod
    def work(cls, config: S4DConfig) -> StackWork:
        width = config.hidden_size
        return StackWork(flops=width * s4d.flops(config.num_states) + 2 * width * 2 * width)

    def spaces(self) -> tuple[Float[Tensor, "D"], Float[Tensor, "D N 2"], Float[Tensor, "D N 2"], Float[Tensor, "D"]]:
        """dt and A in float64, C and D: the arguments of `kernels.s4d` after u."""
        A = torch.stack((-self.log_A_real.double().exp(), self.A_imag.double()), -1)
        return self.log_dt.double().exp(), A, self.C, self.D

    def output(self, y: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        return F.glu(self.o_proj(F.gelu(y)), dim=-1)

    def forward(self, x: Float[Tensor, "B T D"], part: Part | None, *, at: At, read: int) -> Float[Tensor, "B T D"]:
        wide = torch.promote_types(x.dtype, torch.float32)
        before = x.new_zeros(len(x), *self.C.shape, dtype=wide) if part is None else part["ssm"]
        y, after = s4d.chunked(x, *self.spaces(), before)
        if part is not None:
            part["ssm"].copy_(after)
        return self.output(y)

    def step(self, x: Float[Tensor, "B 1 D"], part: Part, *, at: At, variant: int) -> Float[Tensor, "B 1 D"]:
        return self.output(s4d.step(x, *self.spaces(), part["ssm"]))

    def forward_variant(self, num_tokens: int, chunk_len: int) -> int | None:
        return 0  # the position is nowhere in it


_SECTION = """
A linear state space for each channel, the same for every token (Gu et al. 2022, arXiv 2206.11893): the line
that Mamba came out of.

    h_t = exp(dt A) h_{t-1} + (exp(dt A) - 1) / A u_t        y = 2 Re(C h) + D u
    x = x + GLU(W gelu(y) + b)        A diagonal and complex

State: $state numbers, half of them imaginary. Cost: $map for the map and, by convolution over chunks of 64
tokens, $convolution. Faithful: the layer of the authors' standalone file, start values S4D-Lin. Our reading:
RMSNorm and SwiGLU as in the other models here. Not built: S4's own kernel (diagonal plus low rank), for the
reason that [methodology](methodology.md) gives. What it keeps does not depend on what it reads, so weakness at
copying and recall is its own.
"""


class S4D(Stack):
    """Language model of S4D layers. See the module docstring."""

    DESCRIPTION = Description(
        section=_SECTION,
        published="none",
        state="W N",
        work={"map": WorkTerm(formula="4 W²"), "convolution": WorkTerm(formula="4 W N + 65 W")},
        letters={"N": "state_size"},
    )
    mixer_class = S4DMixer
    config_class = S4DConfig
    TINY: ClassVar[Mapping[str, Any]] = {"state_size": 8, "tie_word_embeddings": True}
    undecayed = frozenset({"log_A_real", "A_imag"})  # as the authors train them
    DIALECTS: ClassVar[tuple[Dialect, ...]] = (
        own_dialect(
            S4DConfig,
            mixer_keys=("log_dt", "log_A_real", "A_imag", "C", "D", "o_proj.weight", "o_proj.bias"),
        ),
    )
