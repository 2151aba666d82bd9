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

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from ttbench.errors import CheckpointError
from ttbench.kernels import s4d
from ttbench.models.base import Dialect, SequenceModel, State, layout, require_no_grad
from ttbench.models.layers import RMSNorm, SwiGLU, init_weights_
from ttbench.types import Cost

DT_RANGE = (0.001, 0.1)  # of the start values


@dataclass(frozen=True, slots=True, kw_only=True)
class S4DConfig:
    """Sizes. `state_size` counts real numbers as the paper's N does: half as many complex states are kept."""

    vocab_size: int  # tokens
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    state_size: int = 64  # real dimensions of each channel's state
    rms_norm_eps: float = 1e-6
    tie_word_embeddings: bool = True

    @property
    def num_states(self) -> int:
        """Complex states kept for each channel."""
        return self.state_size // 2

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read config.json. Raises CheckpointError on a missing or impossible field."""
        sizes = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "state_size")
        missing = [key for key in sizes if data.get(key) is None]
        if missing:
            raise CheckpointError(f"config.json lacks {', '.join(missing)}; an S4D config must state them")
        wrong = [f"{key}={data[key]!r}" for key in sizes if type(data[key]) is not int or data[key] < 1]
        if wrong or data["state_size"] % 2:
            found = ", ".join(wrong) or f"state_size={data['state_size']}"
            raise CheckpointError(f"config.json has {found}; sizes are positive whole numbers, and state_size is even")
        return cls(
            **{key: data[key] for key in sizes},
            rms_norm_eps=float(data.get("rms_norm_eps", 1e-6)),
            tie_word_embeddings=bool(data.get("tie_word_embeddings", True)),
        )

    def to_json(self) -> dict[str, Any]:
        return {"model_type": "s4d", **dataclasses.asdict(self)}


@dataclass(kw_only=True)
class S4DState(State):
    """Real and imaginary parts of every state space's state."""

    ssm: Float[Tensor, "L B D N 2"] = layout(batch_dim=1)


class S4DLayer(nn.Module):
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
        self.output_linear = nn.Linear(width, 2 * width, bias=True)

    def spaces(self) -> tuple[Float[Tensor, "D"], Float[Tensor, "D N 2"], Float[Tensor, "D N 2"], Float[Tensor, "D"]]:
        """dt and A in float64, C and D: the arguments of `kernels.s4d` after u."""
        A = torch.stack((-self.log_A_real.double().exp(), self.A_imag.double()), -1)
        return self.log_dt.double().exp(), A, self.C, self.D

    def output(self, y: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
        return F.glu(self.output_linear(F.gelu(y)), dim=-1)


class Block(nn.Module):
    """State spaces and SwiGLU, each after a norm and added to the stream."""

    def __init__(self, config: S4DConfig) -> None:
        super().__init__()
        self.mixer_norm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.mixer = S4DLayer(config)
        self.mlp_norm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.mlp = SwiGLU(config.hidden_size, config.intermediate_size)


_LAYER = (
    "mixer_norm.weight",
    "mlp_norm.weight",
    *(f"mixer.{name}" for name in ("log_dt", "log_A_real", "A_imag", "C", "D")),
    *(f"mixer.output_linear.{name}" for name in ("weight", "bias")),
    *(f"mlp.{part}_proj.weight" for part in ("gate", "up", "down")),
)


class S4D(SequenceModel):
    """Language model of S4D layers. See the module docstring."""

    version = 1
    state_grows = False
    undecayed = frozenset({"log_A_real", "A_imag"})  # as the authors train them
    DIALECTS = (
        Dialect(
            name="s4d",
            matches=lambda config: config.get("model_type") == "s4d",
            config=S4DConfig.from_json,
            weights={
                "model.embed_tokens.weight": "embed.weight",
                "model.norm.weight": "norm.weight",
                "lm_head.weight": "lm_head.weight",
                **{f"model.layers.{{i}}.{name}": f"layers.{{i}}.{name}" for name in _LAYER},
            },
        ),
    )

    def __init__(self, config: S4DConfig) -> None:
        super().__init__()
        self.config = config
        self.embed = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        outputs = [part for block in self._blocks() for part in (block.mixer.output_linear, block.mlp.down_proj)]
        init_weights_(self, residual=outputs, num_branches=len(outputs))
        if config.tie_word_embeddings:
            self.lm_head.weight = self.embed.weight

    def _blocks(self) -> list[Block]:
        return cast("list[Block]", list(self.layers))

    @classmethod
    def tiny(cls, **overrides: Any) -> Self:
        config = S4DConfig(vocab_size=257, hidden_size=32, intermediate_size=48, num_hidden_layers=2, state_size=8)
        return cls(replace(config, **overrides))

    @classmethod
    def cost(cls, config: S4DConfig, *, dtype_bytes: int) -> Cost:
        width, layers = config.hidden_size, config.num_hidden_layers
        layer = width * s4d.flops(config.num_states) + 2 * width * 2 * width
        layer += SwiGLU.flops(width, config.intermediate_size)
        return Cost(
            flops_per_token=layers * layer + 2 * width * config.vocab_size,
            flops_per_context_token=0,
            state_bytes=layers * width * config.state_size * max(4, dtype_bytes),
            state_bytes_per_token=0,
        )

    def new_state(self, batch_size: int, max_len: int) -> S4DState:
        config, like = self.config, self.norm.weight
        shape = (config.num_hidden_layers, batch_size, config.hidden_size, config.num_states, 2)
        return S4DState(
            position=torch.zeros(1, dtype=torch.int64, device=like.device),
            max_len=max_len,
            ssm=like.new_zeros(shape, dtype=self._state_dtype()),
        )

    def reset(self, state: State) -> None:
        assert isinstance(state, S4DState)
        state.position.zero_()
        state.ssm.zero_()
        state.num_tokens = 0

    def forward(self, ids: Int[Tensor, "B T"], state: State | None = None) -> Float[Tensor, "B T D"]:
        require_no_grad(state)
        assert state is None or isinstance(state, S4DState)
        x, config = self.embed(ids), self.config
        empty = x.new_zeros(len(ids), config.hidden_size, config.num_states, 2, dtype=self._state_dtype())
        for i, block in enumerate(self._blocks()):
            before = empty if state is None else state.ssm[i]
            y, after = s4d.chunked(block.mixer_norm(x), *block.mixer.spaces(), before)
            if state is not None:
                state.ssm[i].copy_(after)
            x = x + block.mixer.output(y)
            x = x + block.mlp(block.mlp_norm(x))
        if state is not None:
            state.position += ids.shape[1]
        return self.norm(x)

    def step(self, ids: Int[Tensor, "B"], state: State, variant: int) -> Float[Tensor, "B D"]:
        require_no_grad(state)
        assert isinstance(state, S4DState)
        x = self.embed(ids)[:, None]
        for i, block in enumerate(self._blocks()):
            # recurrent mode: of one token, the reference is the step
            y, after = s4d.reference(block.mixer_norm(x), *block.mixer.spaces(), state.ssm[i])
            state.ssm[i].copy_(after)
            x = x + block.mixer.output(y)
            x = x + block.mlp(block.mlp_norm(x))
        state.position += 1
        return self.norm(x[:, 0])

    def step_variant(self, num_tokens: int) -> int:
        """Every step is alike."""
        return 0

    @property
    def kernel_path(self) -> dict[str, str]:
        return {"s4d": "chunked"}

    def _state_dtype(self) -> torch.dtype:
        return torch.promote_types(self.norm.weight.dtype, torch.float32)
