"""What Mamba and Mamba-2 share: a stack of mixers on a residual stream, and the state they carry.

    x = x + mixer(norm(x))                     then norm, then a tied or untied head

The stream is float32 at least when `residual_in_fp32`; every norm reads it in the model's own dtype, as both sources
do. State per layer: what the mixer says, in float32 at least, and the last K - 1 inputs of its convolution.

Letters: B batch, T tokens, M model width, C channels of the convolution, S = K - 1 tokens, L layers, V vocabulary.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ttbench.models.base import Dialect, SequenceModel, State, layout, require_no_grad
from ttbench.models.layers import RMSNorm, init_weights_
from ttbench.types import Cost


@dataclass(kw_only=True)
class SSMState(State):
    """States and convolution tails of every layer."""

    ssm: Float[Tensor, "L B ..."] = layout(batch_dim=1)
    tail: Float[Tensor, "L B S C"] = layout(batch_dim=1)


class Mixer(Protocol):
    """A layer that mixes tokens through a state of fixed size; an nn.Module that knows nothing of the stack.

    `ssm` [B, *state_shape] and `tail` [B, *tail_shape] are one layer's slices of the model's state, advanced IN
    PLACE; None for both means zeros before the first token, and nothing to keep. Zeros are the state before the first
    token.
    """

    out_proj: nn.Linear
    state_shape: tuple[int, ...]  # kept in float32 at least
    tail_shape: tuple[int, int]

    def forward(
        self, x: Float[Tensor, "B T M"], *, ssm: Tensor | None, tail: Tensor | None
    ) -> Float[Tensor, "B T M"]: ...

    def step(self, x: Float[Tensor, "B M"], *, ssm: Tensor, tail: Tensor) -> Float[Tensor, "B M"]: ...

    def start_(self) -> None:
        """Start values of what `init_weights_` does not know, or sets differently; after it."""
        ...


class Block(nn.Module):
    """A mixer after a norm."""

    def __init__(self, mixer: nn.Module, dim: int, *, eps: float) -> None:
        super().__init__()
        self.norm = RMSNorm(dim, eps=eps)
        self.mixer = mixer


class SSM(SequenceModel):
    """The stack. Subclasses name the mixer and the FLOP of it."""

    version = 1
    state_grows = False
    undecayed = frozenset({"A_log"})  # decay would make every rate 1; the authors leave it out too

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        width, eps = config.hidden_size, config.layer_norm_epsilon
        self.embed = nn.Embedding(config.vocab_size, width)
        self.layers = nn.ModuleList(
            Block(self.make_mixer(config), width, eps=eps) for _ in range(config.num_hidden_layers)
        )
        self.norm = RMSNorm(width, eps=eps)
        self.lm_head = nn.Linear(width, config.vocab_size, bias=False)
        mixers = [mixer for _, mixer in self._parts()]
        init_weights_(self, residual=[mixer.out_proj for mixer in mixers], num_branches=len(mixers))
        for mixer in mixers:
            mixer.start_()
        if config.tie_word_embeddings:
            self.lm_head.weight = self.embed.weight

    @staticmethod
    @abstractmethod
    def make_mixer(config: Any) -> nn.Module:
        """One layer's mixer, a `Mixer`."""

    @classmethod
    @abstractmethod
    def mixer_flops(cls, config: Any) -> int:
        """FLOP of one token in one mixer."""

    @classmethod
    @abstractmethod
    def state_shapes(cls, config: Any) -> tuple[tuple[int, ...], tuple[int, int]]:
        """Shapes of one layer's state and tail, of one sequence."""

    @classmethod
    def cost(cls, config: Any, *, dtype_bytes: int) -> Cost:
        state_shape, tail_shape = cls.state_shapes(config)
        state_bytes = torch.Size(state_shape).numel() * max(4, dtype_bytes)
        state_bytes += torch.Size(tail_shape).numel() * dtype_bytes
        return Cost(
            flops_per_token=config.num_hidden_layers * cls.mixer_flops(config)
            + 2 * config.hidden_size * config.vocab_size,
            flops_per_context_token=0,
            state_bytes=config.num_hidden_layers * state_bytes,
            state_bytes_per_token=0,
        )

    def _parts(self) -> list[tuple[RMSNorm, Mixer]]:
        return [(block.norm, cast(Mixer, block.mixer)) for block in cast("list[Block]", list(self.layers))]

    def new_state(self, batch_size: int, max_len: int) -> SSMState:
        like, layers = self.norm.weight, self.config.num_hidden_layers
        state_shape, tail_shape = self.state_shapes(self.config)
        dtype = torch.promote_types(like.dtype, torch.float32)
        return SSMState(
            position=torch.zeros(1, dtype=torch.int64, device=like.device),
            max_len=max_len,
            ssm=like.new_zeros(layers, batch_size, *state_shape, dtype=dtype),
            tail=like.new_zeros(layers, batch_size, *tail_shape),
        )

    def reset(self, state: State) -> None:
        assert isinstance(state, SSMState)
        for tensor in (state.position, state.ssm, state.tail):
            tensor.zero_()
        state.num_tokens = 0

    def forward(self, ids: Int[Tensor, "B T"], state: State | None = None) -> Float[Tensor, "B T M"]:
        require_no_grad(state)
        assert state is None or isinstance(state, SSMState)
        x = self._stream(ids)
        for i, (norm, mixer) in enumerate(self._parts()):
            ssm, tail = (None, None) if state is None else (state.ssm[i], state.tail[i])
            x = x + mixer.forward(norm(x.to(norm.weight.dtype)), ssm=ssm, tail=tail)
        if state is not None:
            state.position += ids.shape[1]
        return self.norm(x.to(self.norm.weight.dtype))

    def step(self, ids: Int[Tensor, "B"], state: State, variant: int) -> Float[Tensor, "B M"]:
        require_no_grad(state)
        assert isinstance(state, SSMState)
        x = self._stream(ids)
        for i, (norm, mixer) in enumerate(self._parts()):
            x = x + mixer.step(norm(x.to(norm.weight.dtype)), ssm=state.ssm[i], tail=state.tail[i])
        state.position += 1
        return self.norm(x.to(self.norm.weight.dtype))

    def step_variant(self, num_tokens: int) -> int:
        """Always 0: every step is the same."""
        return 0

    def _stream(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        return x.to(torch.promote_types(x.dtype, torch.float32)) if self.config.residual_in_fp32 else x


def dialects(
    name: str, *, layer: str, config: type[Any], mixer_keys: Iterable[str], default_layer: bool
) -> tuple[Dialect, Dialect]:
    """transformers' naming and mamba_ssm's, which differ in the embedding's name and in config.json.

    Args:
        name: transformers' model_type.
        layer: what mamba_ssm calls it in ssm_cfg.
        mixer_keys: names below `mixer.`, the same in both and in ours.
        default_layer: whether an ssm_cfg without `layer` means this one.
    """

    def weights(embedding: str) -> Mapping[str, str | None]:
        return {
            f"backbone.{embedding}.weight": "embed.weight",
            "backbone.norm_f.weight": "norm.weight",
            "lm_head.weight": "lm_head.weight",
            "backbone.layers.{i}.norm.weight": "layers.{i}.norm.weight",
            **{f"backbone.layers.{{i}}.mixer.{key}": f"layers.{{i}}.mixer.{key}" for key in mixer_keys},
        }

    def of_mamba_ssm(data: Mapping[str, Any]) -> bool:
        mixer = data.get("ssm_cfg") or {}
        if "model_type" in data or "d_model" not in data or not isinstance(mixer, Mapping):
            return False
        return mixer.get("layer", layer if default_layer else None) == layer

    of_transformers: Callable[[Mapping[str, Any]], bool] = lambda data: data.get("model_type") == name  # noqa: E731
    return (
        Dialect(
            name=f"{name}-hf", matches=of_transformers, config=config.from_transformers, weights=weights("embeddings")
        ),
        Dialect(name=f"{name}-ssm", matches=of_mamba_ssm, config=config.from_mamba_ssm, weights=weights("embedding")),
    )


@torch.no_grad()
def start_time_steps_(bias: Float[Tensor, "C"], *, low: float = 1e-3, high: float = 0.1, floor: float = 1e-4) -> None:
    """Write the biases whose softplus is log-uniform between `low` and `high`. Source: both papers' code."""
    dt = torch.empty_like(bias).uniform_(math.log(low), math.log(high))
    dt = dt.exp().clamp_min(floor)
    # the inverse of softplus
    bias.copy_(dt + torch.log(-torch.expm1(-dt)))
